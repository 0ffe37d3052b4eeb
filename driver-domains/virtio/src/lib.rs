//! Virtio 1.2 over PCI, as far as the disk and the network domain need it.
//!
//! Shared by both, since queue and transport are the same. The device is a peer like any other: what it writes is copied once, then
//! checked. Memory and registers are reached through traits, so that the whole of it runs on the host against a simulated device.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod hardware;
pub mod queue;
pub mod transport;
