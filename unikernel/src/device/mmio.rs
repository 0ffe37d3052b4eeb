//! Registers of a device in memory.

use core::ops::Range;

/// The memory of a BAR. Accesses happen once and have the width of their name; those outside, unaligned, or in what the core
/// keeps to itself panic, so an offset that a device named is to be checked with [`Mmio::contains`] first.
#[derive(Debug)]
pub struct Mmio {
    base: u64,
    size: u64,
    hidden: Range<u64>,
}

macro_rules! accesses {
    ($($read:ident $write:ident $type:ty, $what:literal;)*) => {$(
        #[doc = concat!("Reads ", $what, " at `offset`.")]
        #[inline]
        pub fn $read(&self, offset: u64) -> $type {
            // SAFETY: in range and aligned (checked), mapped (condition 1 of `new`).
            unsafe { (self.place(offset, size_of::<$type>()) as *const $type).read_volatile() }
        }

        #[doc = concat!("Writes ", $what, " at `offset`.")]
        #[inline]
        pub fn $write(&self, offset: u64, value: $type) {
            // SAFETY: as above; a register is no Rust object.
            unsafe { (self.place(offset, size_of::<$type>()) as *mut $type).write_volatile(value) }
        }
    )*};
}

impl Mmio {
    /// Registers at `base`.
    ///
    /// # Safety
    /// 1. `size` bytes from `base`, a page boundary, are mapped for good and no memory that Rust uses, except for the offsets
    ///    in `hidden`.
    pub(super) const unsafe fn new(base: u64, size: u64, hidden: Range<u64>) -> Mmio {
        Mmio { base, size, hidden }
    }

    /// Bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether `width` bytes at `offset` can be accessed at once.
    #[inline]
    pub fn contains(&self, offset: u64, width: usize) -> bool {
        let width = width as u64;
        let inside = offset < self.size && width <= self.size - offset;
        inside && offset.is_multiple_of(width) && (offset >= self.hidden.end || offset + width <= self.hidden.start)
    }

    #[inline]
    fn place(&self, offset: u64, width: usize) -> u64 {
        assert!(self.contains(offset, width), "access to {offset:#x} outside a device's registers");
        self.base + offset
    }

    accesses! {
        read8 write8 u8, "a byte";
        read16 write16 u16, "16 bits";
        read32 write32 u32, "32 bits";
        read64 write64 u64, "64 bits";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn only_registers_that_are_there_can_be_reached() {
        let mut memory = vec![0_u64; 16];
        // SAFETY: the vector outlives the value and is not touched otherwise.
        let mmio = unsafe { Mmio::new(memory.as_mut_ptr() as u64, 100, 32..64) };
        mmio.write32(8, 0x1234_5678);
        assert_eq!((mmio.read8(8), mmio.read16(10), mmio.read64(8)), (0x78, 0x1234, 0x1234_5678));
        for (offset, width) in [(100, 1), (97, 4), (96, 8), (1, 2), (32, 4), (63, 1), (56, 8), (u64::MAX, 1), (!7, 8)] {
            assert!(!mmio.contains(offset, width), "{offset} {width}");
        }
        assert!(mmio.contains(24, 8) && mmio.contains(64, 8) && mmio.contains(96, 4));
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn an_access_beyond_the_end_is_refused() {
        // SAFETY: nothing is accessed.
        let mmio = unsafe { Mmio::new(0x1000, 4096, 0..0) };
        mmio.read32(4096);
    }
}
