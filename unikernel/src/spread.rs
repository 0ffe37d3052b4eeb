//! Several pages as one range, for rings that take more than one.

use alloc::vec::Vec;

use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;

/// Pages that lie anywhere, reached as if they lay one after the other. Accesses beyond the last one panic.
#[derive(Debug)]
pub struct Spread<P>(Vec<P>);

impl<P: Shared> Spread<P> {
    /// The pages in this order.
    pub const fn new(pages: Vec<P>) -> Spread<P> {
        Spread(pages)
    }

    /// The pages.
    pub fn pages(&self) -> &[P] {
        &self.0
    }

    #[inline(always)]
    fn at(&self, offset: usize) -> (&P, usize) {
        (&self.0[offset / PAGE_SIZE as usize], offset % PAGE_SIZE as usize)
    }

    /// The first page, if all of a range lies there; with most rings there is no other. `length` is best known to the compiler.
    #[inline(always)]
    fn first(&self, offset: usize, length: usize) -> Option<&P> {
        let fits = length <= PAGE_SIZE as usize && offset <= PAGE_SIZE as usize - length;
        if fits { self.0.first() } else { None }
    }

    #[inline(never)]
    fn read_pieces(&self, offset: usize, out: &mut [u8]) {
        for (at, begin, end) in pieces(offset, out.len()) {
            let (page, offset) = self.at(at);
            page.read(offset, &mut out[begin..end]);
        }
    }

    #[inline(never)]
    fn write_pieces(&self, offset: usize, bytes: &[u8]) {
        for (at, begin, end) in pieces(offset, bytes.len()) {
            let (page, offset) = self.at(at);
            page.write(offset, &bytes[begin..end]);
        }
    }
}

/// Cuts `length` bytes from `offset` at the ends of pages; gives offset, and where the piece begins and ends.
fn pieces(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done;
        let now = (length - done).min(PAGE_SIZE as usize - at % PAGE_SIZE as usize);
        let begin = done;
        done += now;
        (now > 0).then_some((at, begin, done))
    })
}

impl<P: Shared> Shared for Spread<P> {
    #[inline(always)]
    fn load_u32(&self, offset: usize) -> u32 {
        let (page, offset) = self.at(offset);
        page.load_u32(offset)
    }

    #[inline(always)]
    fn store_u32(&self, offset: usize, value: u32) {
        let (page, offset) = self.at(offset);
        page.store_u32(offset, value);
    }

    #[inline(always)]
    fn read(&self, offset: usize, out: &mut [u8]) {
        if let Some(page) = self.first(offset, out.len()) {
            return page.read(offset, out);
        }
        self.read_pieces(offset, out);
    }

    #[inline(always)]
    fn write(&self, offset: usize, bytes: &[u8]) {
        if let Some(page) = self.first(offset, bytes.len()) {
            return page.write(offset, bytes);
        }
        self.write_pieces(offset, bytes);
    }

    fn fence(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::testing::Page;
    use proptest::prelude::*;
    use std::vec;

    proptest! {
        #[test]
        fn behaves_like_one_range(writes in prop::collection::vec((0usize..4 * 4096, prop::collection::vec(any::<u8>(), 0..6000)), 0..10)) {
            let spread = Spread::new((0..4).map(|_| Page::new(0)).collect());
            let mut whole = vec![0; 4 * 4096];
            for (offset, mut bytes) in writes {
                bytes.truncate(whole.len() - offset);
                spread.write(offset, &bytes);
                whole[offset..offset + bytes.len()].copy_from_slice(&bytes);
                let mut back = vec![0xff; bytes.len()];
                spread.read(offset, &mut back);
                prop_assert_eq!(back, bytes);
            }
            let mut all = vec![0xff; whole.len()];
            spread.read(0, &mut all);
            prop_assert_eq!(all, whole);
        }
    }
}
