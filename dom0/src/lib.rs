//! The control plane: everything but the machine under it.
//!
//! dom0 builds all other domains from the boot bundle, watches over them and listens to the operator. All of it is here as
//! plain logic over the trait [`hypervisor::Hypervisor`], so that it runs on the host against a simulated machine; the binary
//! beside it puts the real one under it. [`builder`] can be used without the rest, by images that are started instead of dom0.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod backoff;
pub mod builder;
pub mod bundle;
pub mod channel;
pub mod config;
pub mod guest;
pub mod hypervisor;
pub mod image;
pub mod plane;
pub mod report;
pub mod rtc;
pub mod shell;
pub mod symbols;
