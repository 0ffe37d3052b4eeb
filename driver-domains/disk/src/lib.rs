//! The disk domain: disks and partitions for guests.
//!
//! A driver is a [`disk::Disk`]; everything else here knows no hardware: [`partition`] finds what is on a disk, [`targets`]
//! names it, [`connection`] is what is under way for one frontend, and [`service`] connects them with what every driver
//! domain has ([`unikernel::backend`]). All of it runs, and dies, on the host. A driver can be linked without the rest.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ata;
pub mod connection;
pub mod disk;
pub mod kept;
pub mod null;
pub mod parameters;
pub mod partition;
pub mod pieces;
pub mod service;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod virtio;
