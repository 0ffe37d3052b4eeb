//! What the core and the builder left for the domain, and how its first future gets to run.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;

use protocol::arguments::{ARGUMENTS_MAX, BootArguments, decode_arguments, first_arguments};
use protocol::layout::{ARGUMENTS, BUNDLE, PAGE_SIZE, START_INFO};
use protocol::ring::Shared;
use protocol::start::{MAGIC, StartInfo};
use zerocopy::FromBytes;

use crate::area::Area;

/// What a domain gets to know about itself; the argument of its main function.
#[derive(Debug)]
pub struct Domain {
    /// Written by the core.
    pub info: StartInfo,
    /// Written by the builder.
    pub arguments: BootArguments,
}

impl Domain {
    /// Its name.
    pub fn name(&self) -> &str {
        protocol::name_text(&self.info.spec.name)
    }

    /// The words of its command line.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.arguments.command_line.split_ascii_whitespace()
    }

    /// The value of the word `key=value` on its command line.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.words().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// A main function's future, as [`crate::main`] hands it over.
pub type Main = Pin<Box<dyn Future<Output = ()>>>;

/// Makes a [`Main`].
pub fn boxed(main: impl Future<Output = ()> + 'static) -> Main {
    Box::pin(main)
}

/// Reads [`StartInfo`]. Only sensible on the machine.
pub fn info() -> StartInfo {
    // SAFETY: the core maps this page in every domain, read-only, and no Rust object is in it.
    let page = unsafe { Area::page(START_INFO) };
    let mut bytes = [0; size_of::<StartInfo>()];
    page.read(0, &mut bytes);
    let info = StartInfo::read_from_bytes(&bytes).unwrap_or_default();
    assert!(info.magic == MAGIC && info.abi_version == protocol::ABI_VERSION, "started by a core of another version");
    info
}

/// Reads [`BootArguments`]. Only sensible on the machine.
pub fn arguments() -> BootArguments {
    // SAFETY: as in `info`.
    let page = unsafe { Area::page(ARGUMENTS) };
    let mut bytes = [0; ARGUMENTS_MAX];
    page.read(0, &mut bytes);
    let read = if info().id == 0 { first_arguments } else { decode_arguments };
    match read(&bytes) {
        Some(arguments) => arguments,
        None => panic!("the boot arguments are damaged"),
    }
}

/// The boot bundle; empty in every domain but the first.
pub fn bundle() -> &'static [u8] {
    let bytes = info().bundle_bytes as usize;
    if bytes == 0 {
        return &[];
    }
    // SAFETY: the core maps so many bytes there, read-only, for as long as the domain lives, and nobody ever writes them.
    unsafe { core::slice::from_raw_parts(BUNDLE as *const u8, bytes) }
}

const _: () = assert!(size_of::<StartInfo>() <= PAGE_SIZE as usize);
