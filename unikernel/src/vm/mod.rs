//! Virtual machines: what a monitor sees of the guest it is there for.

pub mod cpu;
mod frames;
pub mod memory;
pub mod page;
#[cfg(not(freestanding))]
mod simulated;

pub use crate::cpu::cpuid;
pub use cpu::VirtualCpu;
pub use memory::GuestMemory;
pub use page::GuestPage;
