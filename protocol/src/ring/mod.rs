//! Rings in shared memory: layouts and the index rules, without the memory itself.
//!
//! Both ends hold private copies of their own index and treat the peer's as a claim to be checked. How a page is reached is
//! the caller's matter ([`Shared`]): the same code runs over mapped pages, in tests and under loom.

pub mod block;
pub mod byte;
pub mod console;
pub mod net;
pub mod order;
pub mod sring;
#[cfg(test)]
pub(crate) mod testing;

/// Access to a page that a peer can change at any moment. No reference to the page is ever made: values are copied in and
/// out. Offsets beyond the page are a bug of this crate, and implementations may panic on them.
pub trait Shared {
    /// Reads an index with acquire ordering.
    fn load_u32(&self, offset: usize) -> u32;
    /// Publishes an index with release ordering.
    fn store_u32(&self, offset: usize, value: u32);
    /// Copies bytes out.
    fn read(&self, offset: usize, out: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Full barrier: what was stored before it is visible before anything after it is loaded.
    fn fence(&self);

    /// `length` bytes from `offset` on, both multiples of 8, for who reaches them more than once: who checks bounds checks them
    /// here.
    fn part(&self, offset: usize, length: usize) -> impl Shared {
        let _ = length;
        Part { whole: self, offset }
    }
}

/// A part of shared memory, reached through the whole.
struct Part<'s, S: ?Sized> {
    whole: &'s S,
    offset: usize,
}

impl<S: Shared + ?Sized> Shared for Part<'_, S> {
    fn load_u32(&self, offset: usize) -> u32 {
        self.whole.load_u32(self.offset + offset)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.whole.store_u32(self.offset + offset, value);
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.whole.read(self.offset + offset, out);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.whole.write(self.offset + offset, bytes);
    }

    fn fence(&self) {
        self.whole.fence();
    }
}

/// The peer broke a rule of the ring; the connection has to be closed, and the peer is the guilty side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An index moved further than the ring is large.
    IndexJump {
        /// What the peer published.
        found: u32,
        /// Our own index on the other side of the ring.
        own: u32,
        /// Size of the ring in the unit of the indexes.
        size: u32,
    },
    /// A record in the ring claims a length that cannot be.
    Length {
        /// What it claims, in bytes.
        found: u32,
        /// What is possible, in bytes.
        limit: u32,
    },
    /// A packet goes on beyond the last slot it may take, or beyond what was published.
    Endless {
        /// Slots it takes at least.
        slots: u32,
    },
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Violation::IndexJump { found, own, size } => {
                write!(f, "peer's ring index {found} is more than {size} away from {own}")
            }
            Violation::Length { found, limit } => write!(f, "peer's record length {found} exceeds {limit}"),
            Violation::Endless { slots } => write!(f, "peer's packet does not end within {slots} slots"),
        }
    }
}

/// Bytes (or entries) between a consumer and a producer index, if that is possible in a ring of `size`.
pub const fn used(producer: u32, consumer: u32, size: u32) -> Option<u32> {
    let used = producer.wrapping_sub(consumer);
    if used <= size { Some(used) } else { None }
}
