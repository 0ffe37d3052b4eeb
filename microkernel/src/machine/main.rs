//! The unsafe shell of the core: boots the machine, keeps registers, and calls the safe core with its one lock held.
//!
//! Everything that ring 0 does and Rust cannot check is in this directory; every decision is in the library beside it. As a
//! program of the host it only says what it is, so that the workspace builds and is checked without special flags.
#![cfg_attr(freestanding, no_std, no_main)]

#[cfg(freestanding)]
mod acpi;
#[cfg(freestanding)]
mod apic;
#[cfg(freestanding)]
mod boot;
#[cfg(freestanding)]
mod cpu;
#[cfg(freestanding)]
mod descriptors;
#[cfg(freestanding)]
mod dispatch;
#[cfg(freestanding)]
mod entry;
#[cfg(freestanding)]
mod features;
#[cfg(freestanding)]
mod hardware;
#[cfg(freestanding)]
mod ioapic;
#[cfg(freestanding)]
mod lock;
#[cfg(freestanding)]
mod paging;
#[cfg(freestanding)]
mod panic;
#[cfg(freestanding)]
mod percpu;
#[cfg(freestanding)]
mod serial;
#[cfg(freestanding)]
mod smp;
#[cfg(freestanding)]
mod start;
#[cfg(freestanding)]
mod symbols;
#[cfg(freestanding)]
mod timer;
#[cfg(freestanding)]
mod window;

#[cfg(not(freestanding))]
fn main() {
    eprintln!("bulkhead runs on a machine of its own: `cargo xtask run`");
}
