//! Sharing single pages with peers: granting one's own, mapping and copying theirs.

/// Makes a type with a method `area` a page that is reached through it.
macro_rules! shared_by_area {
    ($type:ty) => {
        impl protocol::ring::Shared for $type {
            fn load_u32(&self, offset: usize) -> u32 {
                self.area().load_u32(offset)
            }

            fn store_u32(&self, offset: usize, value: u32) {
                self.area().store_u32(offset, value);
            }

            fn read(&self, offset: usize, out: &mut [u8]) {
                self.area().read(offset, out);
            }

            fn write(&self, offset: usize, bytes: &[u8]) {
                self.area().write(offset, bytes);
            }

            fn fence(&self) {
                self.area().fence();
            }
        }
    };
}

mod copy;
mod map;
mod table;
mod transfer;

pub use copy::Copies;
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
