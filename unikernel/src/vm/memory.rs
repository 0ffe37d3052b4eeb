//! The guest's memory, as the monitor reaches it.
//!
//! Guest-physical addresses come from the guest, so every access is checked against what is populated: a bad address is an
//! error, never a fault, and a frame that nobody touched yet is populated if the guest may have it. Only places that were declared at
//! the start can be populated; the rest of the window is left to grant-table pages, which the monitor never looks into.

use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, Ordering};

use protocol::error::{Error, Result};
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};
use protocol::ring::Shared;

use super::GuestPage;
pub use super::frames::LARGE_PAGE;
#[cfg(freestanding)]
use super::frames::address;
use super::frames::{FRAMES, Frames};
use crate::area::Area;
#[cfg(freestanding)]
use crate::hypercall::{raw, to_the_end};

/// The guest's memory. There is one value of this type in a domain.
#[derive(Debug)]
pub struct GuestMemory(RefCell<Frames>);

impl GuestMemory {
    /// The memory of this domain's guest, for which `ranges` of frames (the first, and how many) can be populated. `None` if
    /// somebody has it already, or if a range does not fit in the window.
    pub fn take(ranges: &[(u64, u64)]) -> Option<GuestMemory> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let fits = |&(first, frames): &(u64, u64)| first <= FRAMES && frames <= FRAMES - first;
        if !ranges.iter().all(fits) || (cfg!(freestanding) && TAKEN.swap(true, Ordering::Relaxed)) {
            return None;
        }
        Some(GuestMemory(RefCell::new(Frames::new(ranges))))
    }

    /// Whether there is memory at a frame.
    pub fn populated(&self, frame: u64) -> bool {
        self.0.borrow().populated(frame)
    }

    /// Whether the memory of a frame was taken away, or will not come.
    pub fn released(&self, frame: u64) -> bool {
        self.0.borrow().released(frame)
    }

    /// Frames that are populated.
    pub fn count(&self) -> u64 {
        self.0.borrow().count()
    }

    /// Those of them that lie in ranges that were declared.
    pub fn count_in(&self, ranges: &[(u64, u64)]) -> u64 {
        self.0.borrow().count_in(ranges)
    }

    /// Frames of ranges that were declared, that were neither populated nor released yet.
    pub fn untouched_in(&self, ranges: &[(u64, u64)]) -> u64 {
        self.0.borrow().untouched_in(ranges)
    }

    /// Large pages of which something was released. Each of them has a page table since then.
    pub fn split(&self) -> u64 {
        self.0.borrow().split()
    }

    /// Frames that there may be in the ranges that are supplied.
    pub fn most(&self) -> u64 {
        self.0.borrow().most()
    }

    /// From now on untouched frames of these ranges that were declared are supplied to those who reach for them, until there are `most`.
    pub fn allow(&mut self, ranges: &[(u64, u64)], most: u64) {
        self.0.get_mut().allow(ranges, most);
    }

    /// Whether there is memory at a frame, after it was supplied if that can be.
    pub fn reach(&self, frame: u64) -> bool {
        self.0.borrow_mut().reach(frame)
    }

    /// Puts zeroed memory at all frames of these ranges that are untouched.
    pub fn supply_all(&mut self, ranges: &[(u64, u64)]) -> Result<()> {
        self.0.get_mut().supply_all(ranges)
    }

    /// Puts zeroed memory at `count` frames from `first` on, where there is none; all of them or none.
    pub fn populate(&mut self, first: u64, count: u64) -> Result<()> {
        self.0.get_mut().populate(first, count)
    }

    /// The same before the guest runs, leaving alone what its builder put there. It goes from one large page to the next where all of
    /// them can be populated.
    pub fn complete(&mut self, first: u64, count: u64) -> Result<()> {
        self.0.get_mut().complete(first, count)
    }

    /// Takes the memory of a frame away; what is untouched just does not come. `Busy` if it has to stay, or a peer has it mapped.
    pub fn release(&mut self, frame: u64) -> Result<()> {
        self.0.get_mut().release(frame)
    }

    fn area(&self, frame: u64) -> Option<Area> {
        self.0.borrow_mut().area(frame)
    }

    /// A page for good: it cannot be released any more.
    pub fn pin(&mut self, frame: u64) -> Result<GuestPage> {
        let area = self.area(frame).ok_or(Error::BadAddress)?;
        self.0.get_mut().keep(frame);
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

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
    fn what_is_reached_for_is_supplied_up_to_a_bound() {
        let ram = [(0, 8 * LARGE_PAGE)];
        let mut memory = GuestMemory::take(&[ram[0], (0xf_0000, 4)]).unwrap();
        memory.populate(0, 4).unwrap();
        assert!(!memory.reach(4) && memory.load_u64(0x4000).is_err(), "nothing is allowed");
        memory.allow(&ram, 1200);
        // A large page comes as a whole where it is untouched, and while that leaves half; then single ones come.
        assert_eq!(memory.write(0x5000, &[7; 8]), Ok(()));
        assert_eq!((memory.count(), memory.load_u64(0x5000)), (5, Ok(0x0707_0707_0707_0707)));
        assert_eq!(memory.load_u64(LARGE_PAGE << PAGE_SHIFT), Ok(0));
        assert_eq!(memory.count(), 5 + LARGE_PAGE);
        memory.pin(2 * LARGE_PAGE + 3).unwrap();
        assert_eq!((memory.count(), memory.release(2 * LARGE_PAGE + 3)), (6 + LARGE_PAGE, Err(Error::Busy)));
        assert!(!memory.reach(0xf_0001) && !memory.reach(8 * LARGE_PAGE) && !memory.reach(u64::MAX));
        // What is given back before it is touched does not come, until it is populated.
        memory.release(7).unwrap();
        assert_eq!((memory.reach(7), memory.released(7), memory.release(7)), (false, true, Err(Error::BadAddress)));
        memory.populate(7, 1).unwrap();
        assert!(memory.reach(7) && memory.split() == 0);
        let first = 4 * LARGE_PAGE;
        let reached = (first..).take_while(|&frame| memory.reach(frame)).count() as u64;
        assert_eq!((reached, memory.count()), (1200 - 7 - LARGE_PAGE, 1200));
        assert!(memory.write((first + reached) << PAGE_SHIFT, &[1]).is_err());
        assert_eq!(memory.untouched_in(&ram), 8 * LARGE_PAGE - 1200);
        // All the rest.
        memory.release(first).unwrap();
        memory.supply_all(&ram).unwrap();
        assert_eq!((memory.untouched_in(&ram), memory.count()), (0, 8 * LARGE_PAGE - 1));
        assert!(!memory.populated(first));
    }

    #[test]
    fn a_range_beyond_the_window_is_refused() {
        assert!(GuestMemory::take(&[(FRAMES, 1)]).is_none());
        assert!(GuestMemory::take(&[(1, FRAMES)]).is_none());
    }
}
