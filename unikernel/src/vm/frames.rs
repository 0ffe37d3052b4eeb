//! Which frames of the guest's memory are there.
//!
//! A frame is untouched first. It is populated before the guest runs, or when somebody reaches for it, if the guest may have that
//! many; it can be released then, and populated again. Those that are released before they were touched stay away, too.

use alloc::vec;
use alloc::vec::Vec;

use protocol::error::{Error, Result};
use protocol::layout::{GUEST_MEMORY, GUEST_MEMORY_END, PAGE_SHIFT};

use crate::area::Area;
use crate::memory::{PAGES_PER_CALL, to_the_next};

/// Frames of a large page.
pub const LARGE_PAGE: u64 = PAGES_PER_CALL;
/// Frames there can be: the window's size.
pub(super) const FRAMES: u64 = (GUEST_MEMORY_END - GUEST_MEMORY) >> PAGE_SHIFT;

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
    /// Of frames that are populated those that stay; of others those that were released.
    marked: Bits,
    /// How many the latter are.
    released: u64,
    /// Large pages, by their numbers in the window, of which something was released, and how many these are.
    split: (Bits, u64),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Frames {
    ranges: Vec<Range>,
    /// Ranges of frames that are populated when somebody reaches for them, and how many there may be then.
    supplied: (Vec<(u64, u64)>, u64),
    #[cfg(not(freestanding))]
    simulated: super::simulated::Pages,
}

impl Frames {
    pub fn new(ranges: &[(u64, u64)]) -> Frames {
        let range = |&(first, frames): &(u64, u64)| Range {
            first,
            frames,
            populated: Bits::new(frames),
            count: 0,
            marked: Bits::new(frames),
            released: 0,
            split: (Bits::new(frames / PAGES_PER_CALL + 2), 0),
        };
        Frames {
            ranges: ranges.iter().map(range).collect(),
            supplied: (Vec::new(), 0),
            #[cfg(not(freestanding))]
            simulated: Default::default(),
        }
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

    fn these(&self, ranges: &[(u64, u64)]) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| ranges.contains(&(range.first, range.frames)))
    }

    pub fn populated(&self, frame: u64) -> bool {
        self.range(frame).is_some_and(|(range, index)| range.populated.get(index))
    }

    pub fn released(&self, frame: u64) -> bool {
        self.range(frame).is_some_and(|(range, index)| !range.populated.get(index) && range.marked.get(index))
    }

    fn untouched(&self, frame: u64) -> bool {
        self.range(frame).is_some_and(|(range, index)| !range.populated.get(index) && !range.marked.get(index))
    }

    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.count).sum()
    }

    pub fn count_in(&self, ranges: &[(u64, u64)]) -> u64 {
        self.these(ranges).map(|range| range.count).sum()
    }

    pub fn untouched_in(&self, ranges: &[(u64, u64)]) -> u64 {
        self.these(ranges).map(|range| range.frames - range.count - range.released).sum()
    }

    pub fn split(&self) -> u64 {
        self.ranges.iter().map(|range| range.split.1).sum()
    }

    pub fn most(&self) -> u64 {
        self.supplied.1
    }

    pub fn allow(&mut self, ranges: &[(u64, u64)], most: u64) {
        self.supplied = (ranges.to_vec(), most);
    }

    /// Whether a frame is there, now that somebody reaches for it. A large page comes as a whole as long as the guest has less than half
    /// of what it may have: after that one that touches a little here and there gets no more than it touches.
    pub fn reach(&mut self, frame: u64) -> bool {
        if self.populated(frame) {
            return true;
        }
        let (ranges, most) = &self.supplied;
        let inside = ranges.iter().any(|&(first, frames)| frame >= first && frame - first < frames);
        let count = self.count_in(ranges);
        if !inside || !self.untouched(frame) || count >= *most {
            return false;
        }
        let large = frame - frame % LARGE_PAGE;
        let whole = count + LARGE_PAGE <= most / 2 && (large..large + LARGE_PAGE).all(|frame| self.untouched(frame));
        whole && self.populate(large, LARGE_PAGE).is_ok() || self.populate(frame, 1).is_ok()
    }

    pub fn supply_all(&mut self, ranges: &[(u64, u64)]) -> Result<()> {
        for &(first, frames) in ranges {
            let (mut at, end) = (first, first.saturating_add(frames));
            while at < end {
                let some = at..at + to_the_next(at, end - at);
                let run = some.take_while(|&frame| self.untouched(frame)).count() as u64;
                if run > 0 {
                    self.populate(at, run)?;
                }
                at += run.max(1);
            }
        }
        Ok(())
    }

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

    /// Makes a frame stay that is there.
    pub fn keep(&mut self, frame: u64) {
        if let Some((range, index)) = self.range_mut(frame) {
            range.marked.set(index, true);
        }
    }

    pub fn release(&mut self, frame: u64) -> Result<()> {
        let (range, index) = self.range(frame).ok_or(Error::BadAddress)?;
        match (range.populated.get(index), range.marked.get(index)) {
            (true, true) => return Err(Error::Busy),
            (false, true) => return Err(Error::BadAddress),
            (false, false) => {
                self.mark(frame, 1, false);
                return Ok(());
            }
            (true, false) => {}
        }
        #[cfg(freestanding)]
        // SAFETY: no object lies in guest memory, and nobody holds an area of this page: it does not have to stay.
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
                let (was, marked) = (range.populated.get(index), range.marked.get(index));
                range.count = range.count + u64::from(populated) - u64::from(was);
                range.released = range.released + u64::from(!populated) - u64::from(!was && marked);
                range.populated.set(index, populated);
                range.marked.set(index, !populated || was && marked);
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
    pub fn area(&mut self, frame: u64) -> Option<Area> {
        // SAFETY: there, writable for the monitor, and not taken away while the memory is borrowed or the frame has to stay; no
        // object ever lies in the window.
        self.reach(frame).then(|| unsafe { Area::page(address(frame)) })
    }

    #[cfg(not(freestanding))]
    pub fn area(&mut self, frame: u64) -> Option<Area> {
        self.reach(frame);
        self.simulated.area(frame)
    }
}

/// Where a frame lies in the monitor's address space.
#[cfg(freestanding)]
pub(super) const fn address(frame: u64) -> u64 {
    GUEST_MEMORY + (frame << PAGE_SHIFT)
}
