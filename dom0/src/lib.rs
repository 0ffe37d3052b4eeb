//! The control plane: everything but the machine under it.
//!
//! dom0 builds all other domains from the boot bundle, watches over them and listens to the operator. All of it is here as
//! plain logic over the trait [`hypervisor::Hypervisor`], so that it runs on the host against a simulated machine; the binary
//! beside it puts the real one under it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod config;
