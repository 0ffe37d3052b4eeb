//! The pages of one ring as one piece of memory.

use heapless::Vec;
use protocol::connection::RING_PAGES_MAX;
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;

/// Bytes of a page.
const SIZE: usize = PAGE_SIZE as usize;

/// Pages that need not lie side by side. Accesses beyond the last one panic.
#[derive(Debug)]
pub struct RingPages<P>(Vec<P, RING_PAGES_MAX>);

impl<P: Shared> RingPages<P> {
    /// These pages, in order.
    pub const fn new(pages: Vec<P, RING_PAGES_MAX>) -> RingPages<P> {
        RingPages(pages)
    }

    /// Page and offset in it of each part of an access.
    fn parts(&self, offset: usize, length: usize) -> impl Iterator<Item = (&P, usize, core::ops::Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = offset + done;
            let now = (length - done).min(SIZE - at % SIZE);
            let part = (now > 0).then(|| (&self.0[at / SIZE], at % SIZE, done..done + now));
            done += now;
            part
        })
    }
}

impl<P: Shared> Shared for RingPages<P> {
    fn load_u32(&self, offset: usize) -> u32 {
        self.0[offset / SIZE].load_u32(offset % SIZE)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.0[offset / SIZE].store_u32(offset % SIZE, value);
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        let length = out.len();
        for (page, at, range) in self.parts(offset, length) {
            page.read(at, &mut out[range]);
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (page, at, range) in self.parts(offset, bytes.len()) {
            page.write(at, &bytes[range]);
        }
    }

    fn fence(&self) {
        self.0[0].fence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::Area;
    use proptest::prelude::*;
    use std::vec;

    proptest! {
        /// Compared with memory in one piece.
        #[test]
        fn pages_are_one_piece(accesses in prop::collection::vec((0usize..3 * SIZE, 0usize..200, any::<u8>()), 1..40)) {
            let mut memory = vec![0u64; 3 * SIZE / 8];
            // SAFETY: the vector outlives the areas and is not touched otherwise. The pages are used in another order than
            // they lie.
            let page = |index: usize| unsafe { Area::page(memory.as_mut_ptr() as u64 + (index * SIZE) as u64) };
            let pages = RingPages::new([2, 0, 1].map(page).into_iter().collect());
            let mut model = vec![0; 3 * SIZE];
            for (offset, length, byte) in accesses {
                let length = length.min(3 * SIZE - offset);
                let bytes: vec::Vec<u8> = (0..length).map(|i| byte.wrapping_add(i as u8)).collect();
                pages.write(offset, &bytes);
                model[offset..offset + length].copy_from_slice(&bytes);
                let from = offset.saturating_sub(50);
                let mut back = vec![0; offset + length - from];
                pages.read(from, &mut back);
                prop_assert_eq!(&back[..], &model[from..offset + length]);
            }
        }
    }
}
