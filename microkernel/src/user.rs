//! Addresses that a domain gave: an allegation until proven.
//!
//! The core never dereferences one. It is checked that the range lies in the domain's half, and that every page of it is mapped
//! with the access needed; only a range that was ([`Checked`]) can be copied from or to, by way of the frames behind it. So a
//! copy is done whole or not at all.

use core::ops::Range;

use protocol::layout::USER_END;

use crate::domain::NO_FRAME;
use crate::prelude::*;
use crate::space::Space;

/// A range of which every page is mapped. What it says stays true while the lock is held and no frame is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    space: Space,
    start: u64,
    /// The frame of the first page: most ranges need no other.
    first: Frame,
}

/// Offset of an address in its page.
const fn offset(address: u64) -> usize {
    (address & (PAGE_SIZE - 1)) as usize
}

impl Checked {
    /// The range of `length` bytes at `start`, if the domain itself can read, or write, all of it.
    pub fn new(m: &impl Memory, space: Space, start: u64, length: u64, write: bool) -> Result<Checked> {
        let end = start.checked_add(length).filter(|&end| end <= USER_END).ok_or(Error::BadAddress)?;
        let base = start & !(PAGE_SIZE - 1);
        let pages = if length == 0 { 0 } else { (end - base).div_ceil(PAGE_SIZE) };
        let mut first = NO_FRAME;
        for page in (0..pages).rev() {
            first = space.translate(m, base + page * PAGE_SIZE, write).ok_or(Error::BadAddress)?;
        }
        Ok(Checked { space, start, first })
    }

    /// Place of the byte at `at`, and how many bytes from there lie in the same page. Nothing if it was unmapped since.
    #[inline]
    fn place(self, m: &impl Memory, at: usize) -> Option<(Phys, usize)> {
        let address = self.start + at as u64;
        let same = address / PAGE_SIZE == self.start / PAGE_SIZE;
        let frame = if same { self.first } else { self.space.translate(m, address, false)? };
        Some((frame.at(offset(address)), PAGE_SIZE as usize - offset(address)))
    }

    /// Where `T` lies whole and aligned for words at `at`, if it does.
    #[inline]
    fn whole<T>(self, m: &impl Memory, at: usize) -> Option<Phys> {
        let (place, room) = self.place(m, at)?;
        (room >= size_of::<T>() && place.0.is_multiple_of(8) && size_of::<T>().is_multiple_of(8)).then_some(place)
    }

    /// Cuts `length` bytes from `at` on where pages end; gives the place of each part, and which of the bytes it is.
    pub fn parts(self, m: &impl Memory, at: usize, length: usize, mut each: impl FnMut(Phys, Range<usize>)) {
        let mut done = 0;
        while done < length {
            let Some((place, room)) = self.place(m, at + done) else { return };
            let part = done..length.min(done + room);
            done = part.end;
            each(place, part);
        }
    }

    /// Copies bytes from `at` out.
    pub fn read(self, m: &impl Memory, at: usize, out: &mut [u8]) {
        self.parts(m, at, out.len(), |place, part| m.read(place, &mut out[part]));
    }

    /// Copies bytes to `at`.
    pub fn write(self, m: &impl Memory, at: usize, bytes: &[u8]) {
        self.parts(m, at, bytes.len(), |place, part| m.write(place, &bytes[part]));
    }

    /// Copies element `index` of an array out.
    #[inline]
    pub fn get<T: FromBytes + IntoBytes>(self, m: &impl Memory, index: usize) -> T {
        let at = index * size_of::<T>();
        if let Some(place) = self.whole::<T>(m, at) {
            return m.get(place);
        }
        let mut value = T::new_zeroed();
        self.read(m, at, value.as_mut_bytes());
        value
    }

    /// Copies element `index` of an array in.
    #[inline]
    pub fn put<T: IntoBytes + Immutable>(self, m: &impl Memory, index: usize, value: &T) {
        let at = index * size_of::<T>();
        match self.whole::<T>(m, at) {
            Some(place) => m.put(place, value),
            None => self.write(m, at, value.as_bytes()),
        }
    }
}

impl<M: Machine> Core<M> {
    /// Memory of a domain.
    pub(crate) fn reach(&self, slot: Slot, address: u64, length: usize, write: bool) -> Result<Checked> {
        Checked::new(&self.machine, self.domains[slot].space, address, length as u64, write)
    }
}

#[cfg(test)]
mod tests;
