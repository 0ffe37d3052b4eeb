//! Sharing single pages with peers: granting one's own, mapping and copying theirs.

mod copy;
mod map;
mod table;

pub use copy::Copies;
pub use map::{Mapped, Source, map, map_batch, unmap_batch};
pub use table::Granted;

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
