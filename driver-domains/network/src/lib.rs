//! The network domain: a learning bridge between guests and the wire.
//!
//! [`bridge`] decides who gets a frame, [`service`] moves it, [`wire`] is what a driver implements; [`virtio_net`] and [`e1000`] are
//! such drivers. Without a device the domain is a bridge between guests alone.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod batch;
pub mod bridge;
pub mod checksum;
pub mod e1000;
mod patience;
pub mod service;
#[cfg(test)]
mod testing;
pub mod virtio_net;
pub mod wire;
