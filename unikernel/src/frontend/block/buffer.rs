//! Pages that a disk domain may read and write for a long time, so that a request costs no grant operation.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use protocol::error::Result;
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use protocol::ring::block::{SECTOR, SECTORS_PER_PAGE, Segment};

use crate::grant::{Access, Granted};
use crate::pages::Page;
use crate::spread::Spread;

/// Memory for transfers, whole pages granted to the disk domain. Its contents are shared: what a read left there counts only
/// once it was copied out.
#[derive(Debug)]
pub struct Buffer {
    peer: u16,
    pages: Spread<Granted>,
}

impl Buffer {
    pub(super) fn new(pages: usize, peer: u16) -> Result<Rc<Buffer>> {
        let pages: Vec<Granted> =
            (0..pages).map(|_| Granted::new(Page::new()?, peer, Access::Write)).collect::<Result<_>>()?;
        Ok(Rc::new(Buffer { peer, pages: Spread::new(pages) }))
    }

    /// Bytes it holds.
    pub fn length(&self) -> usize {
        self.pages.pages().len() * PAGE_SIZE as usize
    }

    /// Copies bytes out. Beyond the end it panics.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        self.pages.read(offset, out);
    }

    /// Copies bytes in. Beyond the end it panics.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.pages.write(offset, bytes);
    }

    /// All of it.
    pub fn whole(self: &Rc<Self>) -> Piece {
        self.sectors(0..(self.length() / SECTOR as usize) as u32)
    }

    /// Some of its sectors, of 512 bytes.
    pub fn sectors(self: &Rc<Self>, range: Range<u32>) -> Piece {
        Piece { buffer: self.clone(), range }
    }
}

/// Sectors of a buffer, the source or the destination of a transfer.
#[derive(Clone, Debug)]
pub struct Piece {
    buffer: Rc<Buffer>,
    range: Range<u32>,
}

impl Piece {
    pub(super) fn peer(&self) -> u16 {
        self.buffer.peer
    }

    /// How many sectors.
    pub fn count(&self) -> u64 {
        u64::from(self.range.end.saturating_sub(self.range.start))
    }

    /// Pages it touches.
    pub fn pages(&self) -> usize {
        let per_page = u32::from(SECTORS_PER_PAGE);
        if self.count() == 0 { 0 } else { ((self.range.end - 1) / per_page - self.range.start / per_page + 1) as usize }
    }

    /// Whether it is not empty and lies in its buffer.
    pub(super) fn is_sound(&self) -> bool {
        self.range.start < self.range.end && u64::from(self.range.end) * SECTOR <= self.buffer.length() as u64
    }

    /// The segments of a request, one for each of the `count` pages it touches.
    #[inline(always)]
    pub(super) fn segments(&self, count: usize) -> impl Iterator<Item = Segment> {
        (0..count).map_while(move |at| {
            let (page, first, last) = cut(&self.range, count, at);
            Some(Segment { reference: self.buffer.pages.pages().get(page)?.reference(), first, last })
        })
    }
}

/// Cuts sectors at the ends of so many pages as they touch; gives the number of the page `at`, and the first and the last
/// sector in it.
#[inline(always)]
fn cut(range: &Range<u32>, pages: usize, at: usize) -> (usize, u8, u8) {
    let per_page = u32::from(SECTORS_PER_PAGE);
    let first = if at == 0 { (range.start % per_page) as u8 } else { 0 };
    let last = if at + 1 == pages { (range.end.wrapping_sub(1) % per_page) as u8 } else { SECTORS_PER_PAGE - 1 };
    ((range.start / per_page) as usize + at, first, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The segments cover exactly the sectors, in order.
        #[test]
        fn nothing_is_left_out_or_covered_twice(start in 0u32..80, count in 1u32..80) {
            let pages = (start + count).div_ceil(8) - start / 8;
            let segments: std::vec::Vec<_> =
                (0..pages as usize).map(|at| cut(&(start..start + count), pages as usize, at)).collect();
            let covered: std::vec::Vec<u32> = segments
                .iter()
                .flat_map(|&(page, first, last)| (first..=last).map(move |at| page as u32 * 8 + u32::from(at)))
                .collect();
            prop_assert_eq!(covered, (start..start + count).collect::<std::vec::Vec<_>>());
            prop_assert!(segments.iter().all(|&(_, first, last)| first <= last && last < 8));
        }
    }
}
