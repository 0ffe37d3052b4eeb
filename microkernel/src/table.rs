//! Numbers that name things in the core's own tables, and the tables.
//!
//! A table is as large as a power of two, and only as many bits of a number count: looking something up needs no branch and
//! cannot panic, so the numbers are those that the core gave itself.

use core::ops::{Index, IndexMut};

use protocol::domain::MAX_DOMAINS;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const _: () = assert!(MAX_DOMAINS.is_power_of_two() && MAX_DOMAINS <= 256);

/// The place of a domain in the core's tables: its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Slot(u8);

impl Slot {
    /// The first domain.
    pub const DOM0: Slot = Slot(0);

    /// The slot with this number; only the bits that a slot has count.
    pub const fn new(number: usize) -> Slot {
        Slot((number & (MAX_DOMAINS - 1)) as u8)
    }

    /// Its number, below [`MAX_DOMAINS`].
    pub const fn number(self) -> usize {
        self.0 as usize & (MAX_DOMAINS - 1)
    }
}

impl From<Slot> for usize {
    fn from(slot: Slot) -> usize {
        slot.number()
    }
}

/// A table of `N` things, `N` a power of two.
pub struct Table<T, const N: usize>(pub [T; N]);

impl<T, const N: usize, I: Into<usize>> Index<I> for Table<T, N> {
    type Output = T;
    #[inline]
    fn index(&self, at: I) -> &T {
        const { assert!(N.is_power_of_two()) };
        &self.0[at.into() % N]
    }
}

impl<T, const N: usize, I: Into<usize>> IndexMut<I> for Table<T, N> {
    #[inline]
    fn index_mut(&mut self, at: I) -> &mut T {
        &mut self.0[at.into() % N]
    }
}

/// Something for each domain.
pub type PerSlot<T> = Table<T, MAX_DOMAINS>;
