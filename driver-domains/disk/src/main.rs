//! The disk domain's image: finds the disks it was given, and serves them.
//!
//! Words of its command line: `null=64M` makes a disk that holds nothing, for measurements; `connections=8` bounds the places
//! of connections below what retained memory has room for.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

use disk::null::Null;
use disk::service::{Disks, RECORD, TIMEOUT_NS};
use unikernel::Domain;
use unikernel::backend::{Native, run as serve};

unikernel::main!(run);

async fn run(domain: Domain) {
    let mut disks = Disks::<Native>::default();
    if let Some(size) = domain.word("null") {
        match bytes(size) {
            Some(bytes) => disks.add("null0", Box::new(Null::new(bytes)), &[]),
            None => log::error!("null={size} is no size; write it like null=64M"),
        }
    }
    serve(Native::new(&domain, RECORD), disks, TIMEOUT_NS).await;
}

/// A size such as `64M`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
