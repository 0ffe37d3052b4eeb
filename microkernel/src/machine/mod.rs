//! The unsafe shell of the core: boots the machine, keeps registers, and calls the safe core with its one lock held.
//!
//! Everything that ring 0 does and Rust cannot check is in this directory; every decision is in the library beside it.

mod acpi;
mod apic;
mod boot;
mod cpu;
mod descriptors;
mod dispatch;
mod entry;
mod features;
mod hardware;
mod ioapic;
mod lock;
mod paging;
mod panic;
mod percpu;
mod serial;
mod smp;
mod start;
mod symbols;
mod timer;
mod vm;
mod window;
