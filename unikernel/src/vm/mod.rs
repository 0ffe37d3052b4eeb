//! Virtual machines: what a monitor sees of the guest it is there for.

pub mod cpu;

pub use cpu::VirtualCpu;
