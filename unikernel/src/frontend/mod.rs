//! The frontend ends of block and network rings: devices that a driver domain serves.
//!
//! [`Devices`] is where a guest gets its disks and network interfaces, by the names of its configuration, and what it passes
//! dom0's messages to. The backend is not trusted: whatever it writes is copied once and checked, and a rule that it breaks
//! costs it the connection and nothing else ([`Fault`]). That it dies is no event here: rings, requests and what was negotiated stay, and
//! answers come once it runs again.

pub mod block;
mod devices;
mod fault;
mod link;
pub mod network;
#[cfg(test)]
pub(crate) mod testing;

pub use devices::Devices;
pub use fault::Fault;
pub use link::Traffic;

use protocol::grant::GrantRef;
use protocol::ring::Shared;

/// A page that the backend may use.
pub trait Share: Shared {
    /// What the backend calls it.
    fn reference(&self) -> GrantRef;
}
