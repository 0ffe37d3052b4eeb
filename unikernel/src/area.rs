//! Memory that somebody else can change at any moment.
//!
//! No reference to such memory is ever made: an [`Area`] is an address range, and every access copies. Rust's memory model
//! knows nothing of other domains; volatile and atomic accesses are what holds across that border.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;

/// A range of shared memory in this domain's address space. Accesses beyond its end panic.
#[derive(Debug)]
pub struct Area {
    address: usize,
    length: usize,
}

impl Area {
    /// The area at `address`.
    ///
    /// # Safety
    /// 1. `length` bytes from `address`, both multiples of 8, stay mapped while the value exists, writable unless nothing
    ///    writes through it.
    /// 2. No Rust object lies there: whoever else reaches the range inside this domain does so through an `Area` too.
    pub(crate) const unsafe fn new(address: u64, length: usize) -> Area {
        Area { address: address as usize, length }
    }

    /// One of the domain's own fixed pages.
    ///
    /// # Safety
    /// As for [`Area::new`].
    pub(crate) const unsafe fn page(address: u64) -> Area {
        // SAFETY: the caller's condition.
        unsafe { Area::new(address, PAGE_SIZE as usize) }
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Bytes it has.
    pub fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn check(&self, offset: usize, length: usize) -> usize {
        // SAFETY: condition 1 of `new`.
        unsafe { core::hint::assert_unchecked(self.address.is_multiple_of(8)) };
        // In this order: whoever has looked at the offset already spares the second comparison.
        assert!(length <= self.length && offset <= self.length - length, "access beyond a shared area");
        self.address + offset
    }

    /// Checks the offset of an aligned word of `size` bytes, 2 or 4. The length of the area is a multiple of that, so that a word
    /// that begins inside ends inside.
    #[inline(always)]
    fn check_word(&self, offset: usize, size: usize) -> usize {
        // The area itself is aligned.
        assert!(offset.is_multiple_of(size), "unaligned word in a shared area");
        assert!(offset < self.length, "access beyond a shared area");
        self.address + offset
    }

    /// The aligned 32-bit word at `offset`, for atomic access.
    #[inline(always)]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        let address = self.check_word(offset, 4);
        // SAFETY: mapped (condition 1 of `new`), in range and aligned (checked above), only accessed as shared memory
        // (condition 2); the reference lives no longer than the area.
        unsafe { AtomicU32::from_ptr(address as *mut u32) }
    }

    /// The aligned 16-bit word at `offset`, for atomic access.
    #[inline(always)]
    pub(crate) fn half(&self, offset: usize) -> &AtomicU16 {
        let address = self.check_word(offset, 2);
        // SAFETY: as in `word`.
        unsafe { AtomicU16::from_ptr(address as *mut u16) }
    }

    /// Tells the compiler that this is a page, so that offsets that lie in one are not checked again.
    ///
    /// # Safety
    /// It was made by [`Area::page`].
    #[inline(always)]
    pub(crate) unsafe fn known_page(&self) -> &Area {
        // SAFETY: the caller's condition.
        unsafe { core::hint::assert_unchecked(self.length == PAGE_SIZE as usize) };
        self
    }

    /// The aligned 64-bit word at `offset`, for atomic access.
    pub(crate) fn double(&self, offset: usize) -> &AtomicU64 {
        let address = self.check(offset, 8);
        assert!(offset.is_multiple_of(8), "unaligned word in a shared area");
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    /// The byte at `offset`, for atomic access.
    pub(crate) fn byte(&self, offset: usize) -> &AtomicU8 {
        let address = self.check(offset, 1);
        // SAFETY: as in `word`.
        unsafe { AtomicU8::from_ptr(address as *mut u8) }
    }
}

/// Reads byte by byte. An array of bytes would be no better: volatile accesses are compiled one by one.
///
/// # Safety
/// The range is shared memory as in [`Area::new`].
#[inline(never)]
unsafe fn read_bytes(from: usize, out: &mut [u8]) {
    for (at, byte) in out.iter_mut().enumerate() {
        // SAFETY: the caller's condition.
        *byte = unsafe { ((from + at) as *const u8).read_volatile() };
    }
}

/// Writes byte by byte.
///
/// # Safety
/// As for [`read_bytes`], and writable.
#[inline(never)]
unsafe fn write_bytes(to: usize, bytes: &[u8]) {
    for (at, &byte) in bytes.iter().enumerate() {
        // SAFETY: the caller's condition.
        unsafe { ((to + at) as *mut u8).write_volatile(byte) };
    }
}

/// Makes a type with a method `area` shared memory that is reached through it.
macro_rules! shared_by_area {
    ($type:ty) => {
        impl protocol::ring::Shared for $type {
            #[inline(always)]
            fn load_u32(&self, offset: usize) -> u32 {
                self.area().load_u32(offset)
            }

            #[inline(always)]
            fn store_u32(&self, offset: usize, value: u32) {
                self.area().store_u32(offset, value);
            }

            #[inline(always)]
            fn read(&self, offset: usize, out: &mut [u8]) {
                self.area().read(offset, out);
            }

            #[inline(always)]
            fn write(&self, offset: usize, bytes: &[u8]) {
                self.area().write(offset, bytes);
            }

            fn fence(&self) {
                self.area().fence();
            }

            #[inline(always)]
            fn part(&self, offset: usize, length: usize) -> impl protocol::ring::Shared {
                self.area().part(offset, length)
            }
        }
    };
}
pub(crate) use shared_by_area;

impl Shared for Area {
    #[inline(always)]
    fn load_u32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn store_u32(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    // For lengths that are known where it is called there is no loop.
    #[inline(always)]
    fn read(&self, offset: usize, out: &mut [u8]) {
        let mut from = self.check(offset, out.len());
        if !from.is_multiple_of(8) {
            // SAFETY: in range (checked above) and mapped (condition 1 of `new`).
            return unsafe { read_bytes(from, out) };
        }
        let (words, tail) = out.as_chunks_mut::<8>();
        for word in words {
            // SAFETY: as above, and aligned.
            *word = unsafe { (from as *const u64).read_volatile() }.to_ne_bytes();
            from += 8;
        }
        if !tail.is_empty() {
            // SAFETY: as above.
            unsafe { read_bytes(from, tail) };
        }
    }

    #[inline(always)]
    fn write(&self, offset: usize, bytes: &[u8]) {
        let mut to = self.check(offset, bytes.len());
        if !to.is_multiple_of(8) {
            // SAFETY: in range (checked above), mapped and no Rust object (conditions of `new`).
            return unsafe { write_bytes(to, bytes) };
        }
        let (words, tail) = bytes.as_chunks::<8>();
        for &word in words {
            // SAFETY: as above, and aligned.
            unsafe { (to as *mut u64).write_volatile(u64::from_ne_bytes(word)) };
            to += 8;
        }
        if !tail.is_empty() {
            // SAFETY: as above.
            unsafe { write_bytes(to, tail) };
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn part(&self, offset: usize, length: usize) -> impl Shared {
        assert!((offset | length).is_multiple_of(8), "unaligned part of a shared area");
        // SAFETY: it lies in this area, which is borrowed for as long as the value is there, and is aligned.
        unsafe { Area::new(self.check(offset, length) as u64, length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn copies_go_through_at_every_alignment_and_length() {
        let mut memory = vec![0u64; 512];
        // SAFETY: the vector outlives the area and is not touched otherwise.
        let area = unsafe { Area::page(memory.as_mut_ptr() as u64) };
        for offset in 0..9 {
            for length in 0..20 {
                let bytes: vec::Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
                area.write(offset, &bytes);
                let mut back = vec![0; length];
                area.read(offset, &mut back);
                assert_eq!(back, bytes);
            }
        }
        area.store_u32(4092, 7);
        assert_eq!(area.load_u32(4092), 7);
    }

    #[test]
    fn a_part_is_the_same_memory_and_ends_where_it_says() {
        let mut memory = vec![0u64; 512];
        // SAFETY: as above.
        let area = unsafe { Area::page(memory.as_mut_ptr() as u64) };
        let part = area.part(4080, 16);
        part.store_u32(12, 5);
        part.write(0, &[7; 9]);
        assert_eq!((area.load_u32(4092), area.load_u32(4088) & 0xffff), (5, 7));
        for (offset, length) in [(4088, 16), (8, usize::MAX - 7), (4096, 8)] {
            assert!(std::panic::catch_unwind(|| area.part(offset, length).fence()).is_err(), "{length} at {offset}");
        }
        assert!(std::panic::catch_unwind(|| part.load_u32(16)).is_err());
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn an_access_beyond_the_end_is_refused() {
        let mut memory = vec![0u64; 512];
        // SAFETY: as above.
        let area = unsafe { Area::page(memory.as_mut_ptr() as u64) };
        area.read(4090, &mut [0; 7]);
    }
}
