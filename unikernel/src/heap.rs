//! The heap: one range that grows from the start of the heap window as it is needed.
//!
//! `talc` does the allocating; this module decides when pages come and go. They come in chunks, so that small domains stay
//! small and large ones do not make a hypercall for every few pages; whole pages at the end go back when the control plane
//! asks for memory ([`crate::memory`]).

use core::alloc::Layout;
use core::ptr::NonNull;

use protocol::layout::PAGE_SIZE;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Smallest growth, in pages: 16 KiB.
const GROW_MIN: u64 = 4;
/// Largest growth beyond what is needed, in pages: 2 MiB, which one hypercall can populate. Growth of that much ends with a large page.
const GROW_MAX: u64 = 512;

/// Where the pages of the heap come from.
pub trait Pages: core::fmt::Debug {
    /// Makes `count` zeroed writable pages appear at `address`; all or nothing.
    fn populate(&mut self, address: u64, count: u64) -> bool;
    /// Takes pages away again; all or nothing.
    fn release(&mut self, address: u64, count: u64) -> bool;
}

/// How the heap grows and shrinks inside its window.
#[derive(Debug)]
pub struct Growth<P> {
    pages: P,
    base: u64,
    /// End of the populated range.
    end: u64,
    /// End of the window.
    limit: u64,
    /// End of the range as the allocator has it, once there is one.
    claimed: Option<NonNull<u8>>,
}

// SAFETY: the pointer is only an address that the allocator gave out; the pages behind it belong to the allocator.
unsafe impl<P: Send> Send for Growth<P> {}

impl<P: Pages> Growth<P> {
    /// An empty heap that may fill the window from `base` to `limit`, both page-aligned.
    pub const fn new(pages: P, base: u64, limit: u64) -> Growth<P> {
        Growth { pages, base, end: base, limit, claimed: None }
    }

    /// Bytes populated.
    pub fn size(&self) -> u64 {
        self.end - self.base
    }

    /// Populates at least `bytes` more at the end; a quarter of the heap at a time where memory allows.
    fn grow(&mut self, bytes: u64) -> bool {
        let needed = bytes.div_ceil(PAGE_SIZE).max(1);
        let room = (self.limit - self.end) / PAGE_SIZE;
        if needed > room {
            return false;
        }
        let wanted = (self.size() / PAGE_SIZE / 4).clamp(GROW_MIN, GROW_MAX).max(needed).min(room);
        let whole = if wanted < GROW_MAX {
            wanted
        } else {
            (self.end / PAGE_SIZE + wanted).next_multiple_of(GROW_MAX) - self.end / PAGE_SIZE
        };
        for count in [whole.min(room), needed] {
            if self.pages.populate(self.end, count) {
                self.end += count * PAGE_SIZE;
                return true;
            }
        }
        false
    }
}

// SAFETY: neither `acquire` nor `Pages` uses an allocator; the range given to `claim` and `extend` is freshly populated, used
// by nobody else and stays until `trim` truncates it.
unsafe impl<P: Pages> Source for Growth<P> {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let old_end = talc.source.end;
        // Room for the request at its alignment, and for the allocator's own tables in a first range.
        let bytes =
            layout.size() as u64 + layout.align() as u64 + if talc.source.claimed.is_none() { PAGE_SIZE } else { 64 };
        if !talc.source.grow(bytes) {
            return Err(());
        }
        let end = talc.source.end;
        let claimed = match talc.source.claimed {
            // SAFETY: the range from the old end to the new one was populated just now, for the allocator alone.
            Some(old) => Some(unsafe { talc.extend(old, end as *mut u8) }),
            // SAFETY: as above.
            None => unsafe { talc.claim(old_end as *mut u8, (end - old_end) as usize) },
        };
        talc.source.claimed = claimed;
        claimed.map(|_| ()).ok_or(())
    }
}

/// Gives the whole pages behind the last object back; gives their number.
pub fn trim<P: Pages, B: Binning>(talc: &mut Talc<Growth<P>, B>) -> u64 {
    let Some(claimed) = talc.source.claimed else { return 0 };
    // SAFETY: `claimed` is the end of the one heap there is, as the allocator gave it last.
    let used_end = unsafe { talc.reserved(claimed) }.up_to.as_ptr() as u64;
    let (keep, end) = (used_end.next_multiple_of(PAGE_SIZE), talc.source.end);
    let count = end.saturating_sub(keep) / PAGE_SIZE;
    if count == 0 {
        return 0;
    }
    // SAFETY: as above; whatever is in use lies below `keep`.
    talc.source.claimed = unsafe { talc.truncate(claimed, keep as *mut u8) };
    if talc.source.pages.release(keep, count) {
        talc.source.end = keep;
        return count;
    }
    // SAFETY: the pages are still there, and still the allocator's alone.
    talc.source.claimed = talc.source.claimed.map(|claimed| unsafe { talc.extend(claimed, end as *mut u8) });
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;
    use talc::DefaultBinning;

    /// Pages out of a buffer, so many at most.
    #[derive(Debug)]
    struct Buffer {
        left: u64,
        populated: u64,
    }

    impl Pages for Buffer {
        fn populate(&mut self, _: u64, count: u64) -> bool {
            if count > self.left {
                return false;
            }
            self.left -= count;
            self.populated += count;
            true
        }

        fn release(&mut self, _: u64, count: u64) -> bool {
            self.left += count;
            self.populated -= count;
            true
        }
    }

    const WINDOW: usize = 4 << 20;

    fn heap(buffer: &mut Vec<u128>, pages: u64) -> Talc<Growth<Buffer>, DefaultBinning> {
        buffer.resize((WINDOW + PAGE_SIZE as usize) / 16, 0);
        let base = (buffer.as_mut_ptr() as u64).next_multiple_of(PAGE_SIZE);
        Talc::new(Growth::new(Buffer { left: pages, populated: 0 }, base, base + WINDOW as u64))
    }

    fn take(talc: &mut Talc<Growth<Buffer>, DefaultBinning>, size: usize) -> Option<(NonNull<u8>, Layout)> {
        let layout = Layout::from_size_align(size, 16).unwrap();
        // SAFETY: the size is not zero.
        Some((unsafe { talc.allocate(layout) }?, layout))
    }

    #[test]
    fn the_last_pages_are_still_used_when_a_whole_chunk_is_not_there() {
        let mut buffer = Vec::new();
        let mut talc = heap(&mut buffer, 20);
        assert!(take(&mut talc, 60_000).is_some());
        assert_eq!(talc.source.pages.populated, 16);
        assert!(take(&mut talc, 12_000).is_some());
        assert!(take(&mut talc, 40_000).is_none());
    }

    #[test]
    fn the_window_bounds_the_heap() {
        let mut buffer = Vec::new();
        let mut talc = heap(&mut buffer, u64::MAX);
        assert!(take(&mut talc, WINDOW).is_none());
        assert!(take(&mut talc, WINDOW / 2).is_some());
    }

    proptest! {
        /// Whatever is allocated and freed, objects stay whole, and after everything is freed a trim leaves a page or two.
        #[test]
        fn grows_and_trims(steps in prop::collection::vec((0usize..40, 1usize..100_000, prop::bool::ANY), 1..80)) {
            let mut buffer = Vec::new();
            let mut talc = heap(&mut buffer, 600);
            let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
            for (which, size, free) in steps {
                if free && !live.is_empty() {
                    let (at, layout, mark) = live.swap_remove(which % live.len());
                    // SAFETY: allocated below with this layout.
                    unsafe {
                        for i in 0..layout.size() {
                            prop_assert_eq!(at.add(i).read(), mark);
                        }
                        talc.deallocate(at.as_ptr(), layout);
                    }
                    trim(&mut talc);
                } else if let Some((at, layout)) = take(&mut talc, size) {
                    let mark = size as u8;
                    // SAFETY: freshly allocated.
                    unsafe { at.write_bytes(mark, layout.size()) };
                    live.push((at, layout, mark));
                }
                prop_assert_eq!(talc.source.pages.populated * PAGE_SIZE, talc.source.size());
            }
            for (at, layout, _) in live {
                // SAFETY: allocated above with this layout.
                unsafe { talc.deallocate(at.as_ptr(), layout) };
            }
            trim(&mut talc);
            prop_assert!(talc.source.pages.populated <= 2, "{} pages left", talc.source.pages.populated);
        }
    }
}
