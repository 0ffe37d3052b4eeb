//! The shared ring of the Xen I/O protocols (`public/io/ring.h`): requests one way, responses the other, in the same slots.
//!
//! The page begins with four indexes - request producer, request event, response producer, response event - and the entries follow at
//! byte 64. The number of entries is the largest power of two that fits. Notification is avoided by the event indexes: whoever sleeps says
//! at which index it wants to be woken, and looks once more after saying so.

use super::{Shared, Violation, used};

/// Offset of the index up to which requests are published.
pub const REQUEST_PRODUCER: usize = 0;
/// Offset of the request index at which the backend wants a notification.
pub const REQUEST_EVENT: usize = 4;
/// Offset of the index up to which responses are published.
pub const RESPONSE_PRODUCER: usize = 8;
/// Offset of the response index at which the frontend wants a notification.
pub const RESPONSE_EVENT: usize = 12;
/// Offset of the first entry.
pub const ENTRIES: usize = 64;

/// How many entries of which size a ring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Entries; a power of two.
    pub entries: u32,
    /// Bytes of one entry, the larger of request and response.
    pub entry_size: usize,
    /// Requests lie in the ring without their bytes 4 to 8: padding before a 64-bit word, which i386 does not have. Whoever
    /// reads or writes a request sees zeros there.
    pub narrow: bool,
}

/// The padding that narrow requests do not have in the ring.
const PADDING: core::ops::Range<usize> = 4..8;

impl Geometry {
    /// The ring that `pages` contiguous pages hold (`__CONST_RING_SIZE`).
    pub const fn of(pages: usize, entry_size: usize) -> Geometry {
        let fit = (pages * crate::layout::PAGE_SIZE as usize - ENTRIES) / entry_size;
        Geometry { entries: 1 << fit.ilog2(), entry_size, narrow: false }
    }

    /// The same for requests of `request_size` bytes that lie there without their padding.
    pub const fn narrow(pages: usize, request_size: usize) -> Geometry {
        Geometry { narrow: true, ..Geometry::of(pages, request_size - PADDING.end + PADDING.start) }
    }

    /// Bytes of the largest request, as it is seen.
    pub const fn request_size(self) -> usize {
        if self.narrow { self.entry_size + PADDING.end - PADDING.start } else { self.entry_size }
    }

    /// Offset of the entry that an index falls on.
    pub const fn slot(self, index: u32) -> usize {
        ENTRIES + (index & (self.entries - 1)) as usize * self.entry_size
    }

    /// Copies the bytes from `from` on out of the request that lies at `at`, each once.
    #[inline(always)]
    pub fn read(self, page: &impl Shared, at: usize, from: usize, out: &mut [u8]) {
        if self.narrow {
            return read_narrow(page, at, from, out);
        }
        page.read(at + from, out);
    }

    /// Copies a request to `at`.
    #[inline(always)]
    fn write(self, page: &impl Shared, at: usize, request: &[u8]) {
        if self.narrow {
            return write_narrow(page, at, request);
        }
        page.write(at, request);
    }
}

#[inline(never)]
fn read_narrow(page: &impl Shared, at: usize, from: usize, out: &mut [u8]) {
    let (before, rest) = out.split_at_mut(out.len().min(PADDING.end.saturating_sub(from)));
    let (word, padding) = before.split_at_mut(before.len().min(PADDING.start.saturating_sub(from)));
    page.read(at + from, word);
    padding.fill(0);
    page.read(at + from.max(PADDING.end) - PADDING.len(), rest);
}

#[inline(never)]
fn write_narrow(page: &impl Shared, at: usize, request: &[u8]) {
    let (word, rest) = request.split_at(request.len().min(PADDING.start));
    page.write(at, word);
    page.write(at + PADDING.start, rest.get(PADDING.len()..).unwrap_or(&[]));
}

/// Whether a move of a producer index from `old` to `new` passed the index at which the peer wants to be woken.
const fn passed(event: u32, old: u32, new: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// Publishes `new` at `producer` and says whether the peer, which sleeps at `event`, has to be notified.
fn publish(page: &impl Shared, producer: usize, event: usize, old: u32, new: u32) -> bool {
    page.store_u32(producer, new);
    page.fence();
    passed(page.load_u32(event), old, new)
}

/// Makes a ring page ready for a first connection (`SHARED_RING_INIT`).
pub fn initialise(page: &impl Shared) {
    for (offset, value) in [(REQUEST_PRODUCER, 0), (RESPONSE_PRODUCER, 0), (REQUEST_EVENT, 1), (RESPONSE_EVENT, 1)] {
        page.store_u32(offset, value);
    }
}

/// The end that asks.
#[derive(Debug)]
pub struct Front {
    geometry: Geometry,
    written: u32,
    published: u32,
    consumed: u32,
    /// Up to where responses were seen: those are taken without looking at the peer's index again.
    seen: u32,
}

impl Front {
    /// The asking end of a ring that was just initialised.
    pub const fn new(geometry: Geometry) -> Front {
        Front { geometry, written: 0, published: 0, consumed: 0, seen: 0 }
    }

    /// Requests that can be written before a response has to be taken.
    pub const fn room(&self) -> u32 {
        self.geometry.entries - self.written.wrapping_sub(self.consumed)
    }

    /// Writes a request without publishing it; `false` if the ring is full.
    #[inline(always)]
    pub fn write(&mut self, page: &impl Shared, request: &[u8]) -> bool {
        if self.room() == 0 || request.len() > self.geometry.request_size() {
            return false;
        }
        self.geometry.write(page, self.geometry.slot(self.written), request);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Publishes what was written; `true` if the backend has to be notified.
    #[must_use]
    pub fn publish(&mut self, page: &impl Shared) -> bool {
        let old = core::mem::replace(&mut self.published, self.written);
        publish(page, REQUEST_PRODUCER, REQUEST_EVENT, old, self.written)
    }

    /// Responses that can be taken.
    pub fn available(&self, page: &impl Shared) -> Result<u32, Violation> {
        let found = page.load_u32(RESPONSE_PRODUCER);
        let outstanding = self.published.wrapping_sub(self.consumed);
        used(found, self.consumed, outstanding).ok_or(Violation::IndexJump {
            found,
            own: self.consumed,
            size: outstanding,
        })
    }

    /// Takes the next response; `false` if there is none.
    #[inline(always)]
    pub fn take(&mut self, page: &impl Shared, response: &mut [u8]) -> Result<bool, Violation> {
        if self.seen == self.consumed {
            self.seen = self.consumed.wrapping_add(self.available(page)?);
            if self.seen == self.consumed {
                return Ok(false);
            }
        }
        page.read(self.geometry.slot(self.consumed), response);
        self.consumed = self.consumed.wrapping_add(1);
        Ok(true)
    }

    /// Asks to be notified of the next response, and looks once more: `true` if one came meanwhile, so do not sleep.
    pub fn rearm(&self, page: &impl Shared) -> Result<bool, Violation> {
        page.store_u32(RESPONSE_EVENT, self.consumed.wrapping_add(1));
        page.fence();
        Ok(self.available(page)? > 0)
    }
}

/// The end that answers.
#[derive(Debug)]
pub struct Back {
    geometry: Geometry,
    consumed: u32,
    written: u32,
    published: u32,
    /// Up to where requests were seen: for those the peer's index is not looked at again.
    seen: u32,
}

impl Back {
    /// The answering end, continuing after `consumed` requests and `published` responses.
    pub const fn resume(geometry: Geometry, consumed: u32, published: u32) -> Back {
        Back { geometry, consumed, written: published, published, seen: consumed }
    }

    /// Requests taken so far.
    pub const fn consumed(&self) -> u32 {
        self.consumed
    }

    /// Responses published so far.
    pub const fn published(&self) -> u32 {
        self.published
    }

    /// Responses written so far, published or not.
    pub const fn written(&self) -> u32 {
        self.written
    }

    /// Requests that can be taken. A frontend that publishes more than there are free slots breaks the ring.
    pub fn available(&self, page: &impl Shared) -> Result<u32, Violation> {
        let found = page.load_u32(REQUEST_PRODUCER);
        let free = self.geometry.entries - self.consumed.wrapping_sub(self.published);
        used(found, self.consumed, free).ok_or(Violation::IndexJump { found, own: self.consumed, size: free })
    }

    /// Copies the next request out without taking it; gives its index, or `None` if there is none.
    pub fn peek(&self, page: &impl Shared, request: &mut [u8]) -> Result<Option<u32>, Violation> {
        self.peek_ahead(page, 0, request)
    }

    /// Copies the request `ahead` places after the next one out.
    pub fn peek_ahead(&self, page: &impl Shared, ahead: u32, request: &mut [u8]) -> Result<Option<u32>, Violation> {
        if self.available(page)? <= ahead {
            return Ok(None);
        }
        let index = self.consumed.wrapping_add(ahead);
        self.geometry.read(page, self.geometry.slot(index), 0, request);
        Ok(Some(index))
    }

    /// Where in the page the next request lies; `None` if there is none.
    #[inline(always)]
    pub fn next(&mut self, page: &impl Shared) -> Result<Option<usize>, Violation> {
        if self.seen == self.consumed {
            self.seen = self.consumed.wrapping_add(self.available(page)?);
        }
        Ok((self.seen != self.consumed).then(|| self.geometry.slot(self.consumed)))
    }

    /// Takes the request that a peek gave.
    pub fn take(&mut self) {
        if self.seen == self.consumed {
            self.seen = self.seen.wrapping_add(1);
        }
        self.consumed = self.consumed.wrapping_add(1);
    }

    /// Writes a response without publishing it; `false` if every request taken has one already.
    #[inline(always)]
    pub fn write(&mut self, page: &impl Shared, response: &[u8]) -> bool {
        if self.written == self.consumed || response.len() > self.geometry.entry_size {
            return false;
        }
        page.write(self.geometry.slot(self.written), response);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Publishes what was written; `true` if the frontend has to be notified.
    #[must_use]
    pub fn publish(&mut self, page: &impl Shared) -> bool {
        let old = core::mem::replace(&mut self.published, self.written);
        publish(page, RESPONSE_PRODUCER, RESPONSE_EVENT, old, self.written)
    }

    /// Asks to be notified of the next request, and looks once more: `true` if one came meanwhile, so do not sleep.
    pub fn rearm(&self, page: &impl Shared) -> Result<bool, Violation> {
        page.store_u32(REQUEST_EVENT, self.consumed.wrapping_add(1));
        page.fence();
        Ok(self.available(page)? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::testing::Page;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const GEOMETRY: Geometry = Geometry { entries: 8, entry_size: 12, narrow: false };

    fn fresh() -> Page {
        let page = Page::new(0);
        initialise(&page);
        page
    }

    #[test]
    fn a_peer_that_is_awake_is_not_notified() {
        let page = fresh();
        let (mut front, mut back) = (Front::new(GEOMETRY), Back::resume(GEOMETRY, 0, 0));
        assert!(front.write(&page, &[1; 12]));
        assert!(front.publish(&page), "the backend never looked: it sleeps");
        assert_eq!(back.peek(&page, &mut [0; 12]), Ok(Some(0)));
        back.take();
        assert!(front.write(&page, &[2; 12]));
        assert!(!front.publish(&page), "the backend did not say that it sleeps again");
        assert_eq!(back.rearm(&page), Ok(true), "and finds it when it wants to");
        back.take();
        assert_eq!(back.rearm(&page), Ok(false));
        assert!(front.write(&page, &[3; 12]));
        assert!(front.publish(&page));
    }

    #[test]
    fn indexes_that_cannot_be_are_named() {
        let page = fresh();
        let back = Back::resume(GEOMETRY, 0, 0);
        for wrong in [9, 1 << 31, u32::MAX] {
            page.store_u32(REQUEST_PRODUCER, wrong);
            assert_eq!(back.available(&page), Err(Violation::IndexJump { found: wrong, own: 0, size: 8 }));
        }
        let mut front = Front::new(GEOMETRY);
        page.store_u32(REQUEST_PRODUCER, 0);
        assert!(front.write(&page, &[0; 12]));
        let _ = front.publish(&page);
        page.store_u32(RESPONSE_PRODUCER, 2);
        assert_eq!(front.available(&page), Err(Violation::IndexJump { found: 2, own: 0, size: 1 }));
    }

    proptest! {
        /// Whatever part of a narrow request is read, it is what was written, but for the padding; its neighbours are left alone.
        #[test]
        fn narrow_requests_are_read_as_they_were_written(request: [u8; 24], ahead in 0usize..4, from in 0usize..24, length in 0usize..24) {
            let narrow = Geometry { entries: 4, ..Geometry::narrow(1, 24) };
            prop_assert_eq!((narrow.entry_size, narrow.request_size()), (20, 24));
            let page = Page::new(0xa5);
            initialise(&page);
            let mut front = Front::new(narrow);
            for at in 0..4 {
                let written = if at == ahead { request } else { [0xa5; 24] };
                prop_assert!(front.write(&page, &written));
            }
            let mut expected = request;
            expected[PADDING].fill(0);
            let mut slots = [0; 4 * 20];
            page.read(ENTRIES, &mut slots);
            let mut model = [0xa5; 4 * 20];
            model[ahead * 20..][..4].copy_from_slice(&request[..4]);
            model[ahead * 20 + 4..][..16].copy_from_slice(&request[8..]);
            prop_assert_eq!(slots, model);
            let range = from..(from + length).min(24);
            let mut part = [0xff; 24];
            narrow.read(&page, narrow.slot(ahead as u32), from, &mut part[range.clone()]);
            prop_assert_eq!(&part[range.clone()], &expected[range]);
        }
    }

    #[test]
    fn no_more_responses_than_requests() {
        let page = fresh();
        let mut back = Back::resume(GEOMETRY, 0, 0);
        assert!(!back.write(&page, &[0; 4]));
    }

    proptest! {
        /// Both ends against two queues, across the wrap of the indexes.
        #[test]
        fn everything_arrives_once_and_in_order(start: u32, steps in prop::collection::vec(0u8..6, 1..200)) {
            let page = fresh();
            for offset in [REQUEST_PRODUCER, RESPONSE_PRODUCER] {
                page.store_u32(offset, start);
            }
            let mut front = Front { written: start, published: start, consumed: start, seen: start, ..Front::new(GEOMETRY) };
            let mut back = Back::resume(GEOMETRY, start, start);
            let (mut asked, mut answered) = (VecDeque::new(), VecDeque::new());
            let (mut counter, mut taken) = (0u32, VecDeque::new());
            for step in steps {
                match step {
                    0 | 1 => {
                        let mut entry = [0; 12];
                        entry[..4].copy_from_slice(&counter.to_le_bytes());
                        if front.write(&page, &entry) {
                            asked.push_back(counter);
                            counter += 1;
                        }
                    }
                    2 => { let _ = front.publish(&page); }
                    3 => {
                        let mut entry = [0; 12];
                        if back.peek(&page, &mut entry).unwrap().is_some() {
                            back.take();
                            let number = u32::from_le_bytes(entry[..4].try_into().unwrap());
                            prop_assert_eq!(Some(number), asked.pop_front());
                            taken.push_back(number);
                        }
                    }
                    4 => {
                        if let Some(number) = taken.pop_front() {
                            prop_assert!(back.write(&page, &number.to_le_bytes()));
                            answered.push_back(number);
                        }
                        let _ = back.publish(&page);
                    }
                    _ => {
                        let mut entry = [0; 4];
                        if front.take(&page, &mut entry).unwrap() {
                            prop_assert_eq!(Some(u32::from_le_bytes(entry)), answered.pop_front());
                        }
                    }
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering, fence};

    /// A page of words; entries of the test rings are single words.
    struct Page([AtomicU32; 20]);

    impl Shared for Page {
        fn load_u32(&self, offset: usize) -> u32 {
            self.0[offset / 4].load(Ordering::Acquire)
        }
        fn store_u32(&self, offset: usize, value: u32) {
            self.0[offset / 4].store(value, Ordering::Release);
        }
        fn read(&self, offset: usize, out: &mut [u8]) {
            out.copy_from_slice(&self.0[offset / 4].load(Ordering::Relaxed).to_le_bytes()[..out.len()]);
        }
        fn write(&self, offset: usize, bytes: &[u8]) {
            self.0[offset / 4].store(u32::from_le_bytes(bytes.try_into().unwrap()), Ordering::Relaxed);
        }
        fn fence(&self) {
            fence(Ordering::SeqCst);
        }
    }

    const GEOMETRY: Geometry = Geometry { entries: 2, entry_size: 4, narrow: false };

    /// Nobody sleeps with work pending: either the backend sees the request after it re-armed, or the frontend is told to notify.
    #[test]
    fn loom_a_wakeup_is_never_lost_and_payload_precedes_the_index() {
        loom::model(|| {
            let page = Arc::new(Page(core::array::from_fn(|_| AtomicU32::new(0))));
            // The backend has been awake: its event index lies behind.
            page.store_u32(REQUEST_EVENT, 0);
            let peer = page.clone();
            let frontend = loom::thread::spawn(move || {
                let mut front = Front::new(GEOMETRY);
                assert!(front.write(&*peer, &7u32.to_le_bytes()));
                front.publish(&*peer)
            });
            let back = Back::resume(GEOMETRY, 0, 0);
            let mut entry = [0; 4];
            let stays_awake = back.rearm(&*page).unwrap();
            if stays_awake {
                assert_eq!(back.peek(&*page, &mut entry), Ok(Some(0)));
                assert_eq!(u32::from_le_bytes(entry), 7);
            }
            let notified = frontend.join().unwrap();
            assert!(stays_awake || notified, "the backend sleeps with a request in the ring");
        });
    }

    /// The same the other way round: either the frontend sees the response, or the backend is told to notify.
    #[test]
    fn loom_an_answer_is_never_slept_through() {
        loom::model(|| {
            let page = Arc::new(Page(core::array::from_fn(|_| AtomicU32::new(0))));
            let mut front = Front::new(GEOMETRY);
            assert!(front.write(&*page, &7u32.to_le_bytes()));
            let _ = front.publish(&*page);
            let mut back = Back::resume(GEOMETRY, 0, 0);
            assert_eq!(back.peek(&*page, &mut [0; 4]), Ok(Some(0)));
            back.take();
            let peer = page.clone();
            let backend = loom::thread::spawn(move || {
                assert!(back.write(&*peer, &9u32.to_le_bytes()));
                back.publish(&*peer)
            });
            let mut entry = [0; 4];
            let stays_awake = front.rearm(&*page).unwrap();
            if stays_awake {
                assert_eq!(front.take(&*page, &mut entry), Ok(true));
                assert_eq!(u32::from_le_bytes(entry), 9);
            }
            let notified = backend.join().unwrap();
            assert!(stays_awake || notified, "the frontend sleeps with a response in the ring");
        });
    }
}
