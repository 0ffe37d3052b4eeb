//! What every domain links.
//!
//! A domain is one image in ring 3 without an operating system below or inside it: this crate is its entry, its heap, its
//! event loop and its view of the core. It is the only crate beside the core that holds `unsafe`; everything it offers to
//! domains is safe, so that they forbid it. Items that an image must have exactly once (entry, allocator, panic handler,
//! `memcpy`) exist only in builds for the machine (`cfg(freestanding)`); everything else compiles, and its pure parts are
//! tested, on the host.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod area;
pub mod backend;
#[cfg(any(freestanding, test))]
mod bytes;
pub mod console;
pub mod control;
mod cpu;
pub mod device;
pub mod domain;
pub mod event;
pub mod executor;
pub mod exit;
#[cfg(freestanding)]
mod freestanding;
pub mod frontend;
pub mod grant;
pub mod heap;
pub mod hypercall;
pub mod index;
pub mod log;
pub mod memory;
pub mod pages;
pub mod provoke;
pub mod spread;
pub mod start;
pub mod system;
pub mod text;
pub mod time;
pub mod vcpu;
pub mod vm;

pub use start::Domain;

/// Makes `$main`, an `async fn(Domain)`, the main function of a domain's image. The domain ends when it returns.
///
/// In a build for the host there is no machine to run on; the program then says so, which lets `cargo build`, `cargo test` and
/// `cargo clippy` work on the whole workspace.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[cfg(freestanding)]
        #[unsafe(no_mangle)]
        fn bulkhead_domain_main(domain: $crate::Domain) -> $crate::start::Main {
            $crate::start::boxed($main(domain))
        }

        #[cfg(not(freestanding))]
        fn main() {
            let _ = $main;
            ::std::eprintln!("this is the image of a domain; `cargo xtask run` starts it");
        }
    };
}
