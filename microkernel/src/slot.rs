//! Domain slots, and tables with an entry for each.
//!
//! A slot cannot be out of range, so that looking one up needs no branch and cannot panic.

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

/// Something for each slot.
pub struct PerSlot<T>(pub [T; MAX_DOMAINS]);

impl<T> Index<Slot> for PerSlot<T> {
    type Output = T;
    fn index(&self, slot: Slot) -> &T {
        &self.0[slot.number()]
    }
}

impl<T> IndexMut<Slot> for PerSlot<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.0[slot.number()]
    }
}
