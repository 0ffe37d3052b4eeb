//! Sharing single pages with peers: granting one's own, mapping and copying theirs.

mod copy;
mod device;
mod map;
mod table;
mod transfer;

pub use copy::Copies;
pub use device::{DevicePage, map_for_device, unmap_for_device};
pub use map::{Mapped, Source, map, map_batch, unmap_batch};
pub use table::Granted;
pub use transfer::{Place, Transfer, transfer};

/// What a peer may do with a page, or we with a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

impl Access {
    /// The bit in grant flags.
    fn flags(self) -> u16 {
        match self {
            Access::Read => protocol::grant::READONLY,
            Access::Write => 0,
        }
    }
}
