//! The guest's memory, as the monitor reaches it.
//!
//! Guest-physical addresses come from the guest, so every access is checked against what is populated: a bad address is an
//! error, never a fault. Only places that were declared at the start can be populated; the rest of the window is left to
//! grant-table pages, which the monitor never looks into.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use protocol::error::{Error, Result};
use protocol::layout::{GUEST_MEMORY, GUEST_MEMORY_END, PAGE_SHIFT, PAGE_SIZE};
use protocol::ring::Shared;

use super::GuestPage;
use crate::area::Area;
#[cfg(freestanding)]
use crate::hypercall::{raw, to_the_end};
use crate::memory::{PAGES_PER_CALL, to_the_next};

/// Frames of a large page.
pub const LARGE_PAGE: u64 = PAGES_PER_CALL;
/// Frames there can be: the window's size.
const FRAMES: u64 = (GUEST_MEMORY_END - GUEST_MEMORY) >> PAGE_SHIFT;

/// A bit for each frame of a range.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u64) -> Bits {
        Bits(vec![0; count.div_ceil(64) as usize])
    }

    fn get(&self, index: u64) -> bool {
        self.0.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: u64, value: bool) {
        if let Some(word) = self.0.get_mut(index as usize / 64) {
            *word = *word & !(1 << (index % 64)) | u64::from(value) << (index % 64);
        }
    }
}

/// Frames that can be populated.
#[derive(Debug)]
struct Range {
    first: u64,
    frames: u64,
    populated: Bits,
    /// How many these are.
    count: u64,
    /// Frames that stay, because somebody holds a [`GuestPage`] of them.
    pinned: Bits,
    /// Large pages, by their numbers in the window, of which something was released, and how many these are.
    split: (Bits, u64),
}

/// The guest's memory. There is one value of this type in a domain.
#[derive(Debug)]
pub struct GuestMemory {
    ranges: Vec<Range>,
    #[cfg(not(freestanding))]
    simulated: super::simulated::Pages,
}

impl GuestMemory {
    /// The memory of this domain's guest, for which `ranges` of frames (the first, and how many) can be populated. `None` if
    /// somebody has it already, or if a range does not fit in the window.
    pub fn take(ranges: &[(u64, u64)]) -> Option<GuestMemory> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let fits = |&(first, frames): &(u64, u64)| first <= FRAMES && frames <= FRAMES - first;
        if !ranges.iter().all(fits) || (cfg!(freestanding) && TAKEN.swap(true, Ordering::Relaxed)) {
            return None;
        }
        let range = |&(first, frames): &(u64, u64)| Range {
            first,
            frames,
            populated: Bits::new(frames),
            count: 0,
            pinned: Bits::new(frames),
            split: (Bits::new(frames / PAGES_PER_CALL + 2), 0),
        };
        Some(GuestMemory {
            ranges: ranges.iter().map(range).collect(),
            #[cfg(not(freestanding))]
            simulated: Default::default(),
        })
    }

    fn range(&self, frame: u64) -> Option<(&Range, u64)> {
        let inside = |range: &&Range| frame >= range.first && frame - range.first < range.frames;
        self.ranges.iter().find(inside).map(|range| (range, frame - range.first))
    }

    fn range_mut(&mut self, frame: u64) -> Option<(&mut Range, u64)> {
        let inside = |range: &&mut Range| frame >= range.first && frame - range.first < range.frames;
        self.ranges.iter_mut().find(inside).map(|range| {
            let index = frame - range.first;
            (range, index)
        })
    }

    /// Whether there is memory at a frame.
    pub fn populated(&self, frame: u64) -> bool {
        self.range(frame).is_some_and(|(range, index)| range.populated.get(index))
    }

    /// Frames that are populated.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.count).sum()
    }

    /// Those of them that lie in ranges that were declared.
    pub fn count_in(&self, ranges: &[(u64, u64)]) -> u64 {
        self.ranges.iter().filter(|range| ranges.contains(&(range.first, range.frames))).map(|range| range.count).sum()
    }

    /// Large pages of which something was released. Each of them has a page table since then.
    pub fn split(&self) -> u64 {
        self.ranges.iter().map(|range| range.split.1).sum()
    }

    /// Puts zeroed memory at `count` frames from `first` on, where there is none; all of them or none.
    pub fn populate(&mut self, first: u64, count: u64) -> Result<()> {
        for frame in first..first.checked_add(count).ok_or(Error::BadAddress)? {
            let (range, index) = self.range(frame).ok_or(Error::BadAddress)?;
            if range.populated.get(index) {
                return Err(Error::Exists);
            }
        }
        self.place(first, count)?;
        self.mark(first, count, true);
        Ok(())
    }

    /// The same before the guest runs, leaving alone what its builder put there. It goes from one large page to the next where all of
    /// them can be populated.
    pub fn complete(&mut self, first: u64, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let end = first.checked_add(count).ok_or(Error::BadAddress)?;
        let (range, _) = self.range(first).ok_or(Error::BadAddress)?;
        let whole = |page: u64| page >= range.first && page + LARGE_PAGE <= range.first + range.frames;
        let (before, last) = (first - first % LARGE_PAGE, end - 1 - (end - 1) % LARGE_PAGE);
        let mut at = if whole(before) { before } else { first };
        let end = if whole(last) { last + LARGE_PAGE } else { end };
        while at < end {
            let some = to_the_next(at, end - at);
            match self.populate(at, some) {
                Ok(()) => {}
                Err(Error::Exists) => (at..at + some).try_for_each(|frame| match self.populate(frame, 1) {
                    Err(Error::Exists) => {
                        self.mark(frame, 1, true);
                        Ok(())
                    }
                    result => result,
                })?,
                Err(error) => return Err(error),
            }
            at += some;
        }
        Ok(())
    }

    /// Takes the memory of a frame away. `Busy` if it has to stay, or a peer has it mapped.
    pub fn release(&mut self, frame: u64) -> Result<()> {
        let (range, index) = self.range(frame).ok_or(Error::BadAddress)?;
        if !range.populated.get(index) {
            return Err(Error::BadAddress);
        }
        if range.pinned.get(index) {
            return Err(Error::Busy);
        }
        #[cfg(freestanding)]
        // SAFETY: no object lies in guest memory, and nobody holds an area of this page, for it is not pinned.
        unsafe {
            crate::memory::release(address(frame), 1)?;
        }
        #[cfg(not(freestanding))]
        self.simulated.remove(frame);
        self.mark(frame, 1, false);
        if let Some((range, _)) = self.range_mut(frame) {
            let page = frame / PAGES_PER_CALL - range.first / PAGES_PER_CALL;
            range.split.1 += u64::from(!range.split.0.get(page));
            range.split.0.set(page, true);
        }
        Ok(())
    }

    fn mark(&mut self, first: u64, count: u64, populated: bool) {
        for frame in first..first + count {
            if let Some((range, index)) = self.range_mut(frame) {
                range.count = range.count + u64::from(populated) - u64::from(range.populated.get(index));
                range.populated.set(index, populated);
            }
        }
    }

    #[cfg(freestanding)]
    fn place(&mut self, first: u64, count: u64) -> Result<()> {
        crate::memory::populate(address(first), count)
    }

    #[cfg(not(freestanding))]
    fn place(&mut self, first: u64, count: u64) -> Result<()> {
        self.simulated.place(first, count);
        Ok(())
    }

    #[cfg(freestanding)]
    fn area(&self, frame: u64) -> Option<Area> {
        // SAFETY: populated, writable for the monitor, and not taken away while `self` is borrowed or the frame pinned; no
        // object ever lies in the window.
        self.populated(frame).then(|| unsafe { Area::page(address(frame)) })
    }

    #[cfg(not(freestanding))]
    fn area(&self, frame: u64) -> Option<Area> {
        self.simulated.area(frame)
    }

    /// A page for good: it cannot be released any more.
    pub fn pin(&mut self, frame: u64) -> Result<GuestPage> {
        let area = self.area(frame).ok_or(Error::BadAddress)?;
        if let Some((range, index)) = self.range_mut(frame) {
            range.pinned.set(index, true);
        }
        Ok(GuestPage::new(area))
    }

    /// Does something with each page of a range: the offset in the page, and the part of the range that lies there.
    fn each_page(
        &self,
        address: u64,
        length: usize,
        mut act: impl FnMut(&Area, usize, core::ops::Range<usize>),
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64).ok_or(Error::BadAddress)?;
            let offset = (at % PAGE_SIZE) as usize;
            let now = (PAGE_SIZE as usize - offset).min(length - done);
            let area = self.area(at >> PAGE_SHIFT).ok_or(Error::BadAddress)?;
            act(&area, offset, done..done + now);
            done += now;
        }
        Ok(())
    }

    /// Copies bytes out of guest memory, perhaps some of them if there is none everywhere.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        self.each_page(address, out.len(), |area, offset, part| area.read(offset, &mut out[part]))
    }

    /// Copies bytes into guest memory, perhaps some of them if there is none everywhere.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.each_page(address, bytes.len(), |area, offset, part| area.write(offset, &bytes[part]))
    }

    /// Fills a range with zeros.
    pub fn clear(&self, address: u64, length: usize) -> Result<()> {
        self.each_page(address, length, |area, offset, part| area.write(offset, &[0; PAGE_SIZE as usize][..part.len()]))
    }

    /// Reads a 64-bit word, little endian.
    pub fn load_u64(&self, address: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Puts page `index` of the guest's grant table at a frame where nothing is.
#[cfg_attr(not(freestanding), allow(unused_variables))]
pub fn place_grant_table(index: u64, frame: u64) -> Result<()> {
    if frame >= FRAMES {
        return Err(Error::BadAddress);
    }
    #[cfg(freestanding)]
    // SAFETY: the core refuses places where there is something, and nothing else of this domain's changes.
    to_the_end(|| unsafe { raw::vm_grant_table(index, address(frame)) })?;
    Ok(())
}

/// Where a frame lies in the monitor's address space.
#[cfg(freestanding)]
const fn address(frame: u64) -> u64 {
    GUEST_MEMORY + (frame << PAGE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let mut memory = GuestMemory::take(&[(0, 16), (0xf_0000, 4)]).unwrap();
        memory.populate(0, 8).unwrap();
        memory.populate(0xf_0001, 1).unwrap();
        memory
    }

    #[test]
    fn what_is_not_populated_is_an_error() {
        let memory = memory();
        let mut out = [0; 16];
        memory.write(0x7ff0, &[5; 16]).unwrap();
        memory.read(0x7ff0, &mut out).unwrap();
        assert_eq!(out, [5; 16]);
        for address in [0x7ff1, 0x8000, 0xf000_0ff8, 0xf000_1ff8, u64::MAX - 8, u64::MAX, 1 << 40] {
            assert_eq!(memory.read(address, &mut out), Err(Error::BadAddress), "{address:#x}");
            assert_eq!(memory.write(address, &out), Err(Error::BadAddress), "{address:#x}");
        }
        memory.read(u64::MAX, &mut []).unwrap();
        assert_eq!(memory.count(), 9);
    }

    #[test]
    fn a_copy_crosses_pages() {
        let memory = memory();
        let bytes: Vec<u8> = (0..10_000).map(|at| at as u8).collect();
        memory.write(0x123, &bytes).unwrap();
        let mut out = vec![0; bytes.len()];
        memory.read(0x123, &mut out).unwrap();
        assert_eq!(out, bytes);
        memory.clear(0x124, 9_000).unwrap();
        memory.read(0x123, &mut out).unwrap();
        assert!(out[0] == bytes[0] && out[1..9_001].iter().all(|&byte| byte == 0) && out[9_001..] == bytes[9_001..]);
    }

    #[test]
    fn pages_come_zeroed_go_and_stay_where_they_are_pinned() {
        let mut memory = memory();
        assert_eq!(memory.populate(7, 2), Err(Error::Exists));
        assert_eq!(memory.populate(16, 1), Err(Error::BadAddress));
        assert_eq!(memory.populate(15, u64::MAX), Err(Error::BadAddress));
        memory.write(0x2000, &[1; 8]).unwrap();
        memory.release(2).unwrap();
        assert_eq!(memory.release(2), Err(Error::BadAddress));
        memory.populate(2, 1).unwrap();
        assert_eq!(memory.load_u64(0x2000), Ok(0));
        let page = memory.pin(3).unwrap();
        assert_eq!(memory.release(3), Err(Error::Busy));
        page.store_u64(8, 0x11);
        assert_eq!(page.set_bits(8, 0x100), 0x11);
        assert_eq!(page.clear_bits(8, 1), 0x111);
        assert_eq!((page.swap_u8(8, 7), page.load_u8(8)), (0x10, 7));
        assert_eq!(memory.load_u64(0x3008), Ok(0x107));
        assert!(memory.pin(9).is_err() && memory.pin(u64::MAX).is_err());
        memory.complete(6, 4).unwrap();
        // No file lies at the end of memory.
        memory.complete(1 << 30, 0).unwrap();
        assert_eq!(memory.count(), 11);
    }

    #[test]
    fn large_pages_are_populated_whole_and_counted_once_when_a_part_is_released() {
        // Of the first range only the second large page lies in it as a whole, of the other one all of it.
        let mut memory = GuestMemory::take(&[(100, 1000), (4 * LARGE_PAGE, 2 * LARGE_PAGE)]).unwrap();
        memory.complete(700, 3).unwrap();
        assert_eq!(memory.count(), LARGE_PAGE);
        assert!(memory.populated(512) && memory.populated(1023) && !memory.populated(511));
        memory.complete(110, 2).unwrap();
        memory.complete(1030, 1).unwrap();
        assert_eq!(memory.count(), LARGE_PAGE + 2 + 1);
        assert_eq!(memory.complete(1099, 2), Err(Error::BadAddress));
        memory.complete(5 * LARGE_PAGE - 1, 2).unwrap();
        assert_eq!(memory.count_in(&[(4 * LARGE_PAGE, 2 * LARGE_PAGE)]), 2 * LARGE_PAGE);
        for (frame, split) in [(600, 1), (601, 1), (1030, 2), (5 * LARGE_PAGE, 3), (6 * LARGE_PAGE - 1, 3)] {
            memory.release(frame).unwrap();
            assert_eq!(memory.split(), split);
        }
        memory.populate(600, 1).unwrap();
        assert_eq!((memory.release(600), memory.split()), (Ok(()), 3));
    }

    #[test]
    fn a_range_beyond_the_window_is_refused() {
        assert!(GuestMemory::take(&[(FRAMES, 1)]).is_none());
        assert!(GuestMemory::take(&[(1, FRAMES)]).is_none());
    }
}
