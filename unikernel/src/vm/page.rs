//! A page of the guest that stays where it is, for words that both sides change at once.

use core::sync::atomic::Ordering;

use crate::area::{Area, shared_by_area};

/// Such a page. Offsets beyond its end, and unaligned ones, are the monitor's own mistake and panic.
#[derive(Debug)]
pub struct GuestPage(Area);

impl GuestPage {
    /// The page in this area, of which the guest memory vouches that it stays populated.
    pub(super) const fn new(area: Area) -> GuestPage {
        GuestPage(area)
    }

    fn area(&self) -> &Area {
        &self.0
    }

    /// Reads an aligned 64-bit word.
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.0.double(offset).load(Ordering::SeqCst)
    }

    /// Writes one.
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.0.double(offset).store(value, Ordering::SeqCst);
    }

    /// Sets bits of one; gives what it was.
    pub fn set_bits(&self, offset: usize, bits: u64) -> u64 {
        self.0.double(offset).fetch_or(bits, Ordering::SeqCst)
    }

    /// Clears bits of one; gives what it was.
    pub fn clear_bits(&self, offset: usize, bits: u64) -> u64 {
        self.0.double(offset).fetch_and(!bits, Ordering::SeqCst)
    }

    /// Reads a byte.
    pub fn load_u8(&self, offset: usize) -> u8 {
        self.0.byte(offset).load(Ordering::SeqCst)
    }

    /// Writes a byte; gives what it was.
    pub fn swap_u8(&self, offset: usize, value: u8) -> u8 {
        self.0.byte(offset).swap(value, Ordering::SeqCst)
    }
}

shared_by_area!(GuestPage);
