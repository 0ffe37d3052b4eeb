//! What the images of the system tests share.
//!
//! Each of them takes dom0's place as the first domain, does its work without a console, writes what it found to the core's
//! log and powers the machine off with a status: 0 if all was as it should be.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod child;
pub mod pair;
pub mod puppet;
pub mod random;
pub mod resources;
pub mod verdict;
pub mod vm;

use alloc::format;
use alloc::string::String;

use dom0::bundle::Bundle;
use dom0::image::Image;

/// A test's own result: the error is a sentence for the log.
pub type Outcome<T = ()> = Result<T, String>;

/// Adds what was attempted to an error.
pub trait Context<T> {
    /// `text` stands before the error.
    fn context(self, text: &str) -> Outcome<T>;
}

impl<T, E: core::fmt::Debug> Context<T> for Result<T, E> {
    fn context(self, text: &str) -> Outcome<T> {
        self.map_err(|error| format!("{text}: {error:?}"))
    }
}

/// The image `images/<name>` of the boot bundle.
pub fn image(name: &str) -> Outcome<Image<'static>> {
    let bundle = Bundle::new(unikernel::start::bundle())?;
    let bytes = bundle.file(&format!("images/{name}")).ok_or_else(|| format!("no image {name} in the bundle"))?;
    Image::parse(bytes).map_err(|error| format!("the image {name} {error}"))
}

/// The number in the word `key=number` of the boot line.
pub fn number(domain: &unikernel::Domain, key: &str, default: u64) -> u64 {
    domain.word(key).and_then(|value| value.parse().ok()).unwrap_or(default)
}
