//! Byte rings against a queue, and against a peer that keeps to no rule.

use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::vec::Vec;

use super::*;
use crate::ring::console;
use crate::ring::testing::Page;

const PAGE: usize = 4096;
/// What lies in the page before anybody wrote there.
const BACKGROUND: u8 = 0xa5;

/// A page in which both indexes of a ring stand at `start`.
fn page(place: Place, start: u32) -> Page {
    let page = Page::new(BACKGROUND);
    page.store_u32(place.producer, start);
    page.store_u32(place.consumer, start);
    page
}

/// A page that shows something else each time it is looked at.
struct Fickle(RefCell<Vec<u32>>);

impl Fickle {
    fn next(&self) -> u32 {
        let mut script = self.0.borrow_mut();
        let value = script.pop().unwrap_or_default();
        script.insert(0, value.wrapping_add(1));
        value
    }
}

impl Shared for Fickle {
    fn load_u32(&self, _: usize) -> u32 {
        self.next()
    }
    fn store_u32(&self, _: usize, _: u32) {}
    fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= PAGE);
        out.fill_with(|| self.next() as u8);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE);
    }
    fn fence(&self) {}
}

fn place() -> impl Strategy<Value = Place> {
    prop::sample::select(std::vec![CONTROL, console::INPUT, console::OUTPUT])
}

/// Indexes at which something happens: at the wrap of the ring, of the indexes, anywhere.
fn index() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX - 3), Just(1 << 31), any::<u32>()]
}

#[test]
fn indexes_that_cannot_be_are_named() {
    let page = page(CONTROL, 7);
    let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
    let fault = |found| Violation::IndexJump { found, own: 7, size: CONTROL.size };
    for wrong in [6, 7 + CONTROL.size + 1, 7 + (1 << 31), u32::MAX] {
        page.store_u32(CONTROL.producer, wrong);
        assert_eq!(consumer.read(&page, &mut [0; 1]), Err(fault(wrong)));
    }
    assert_eq!(page.load_u32(CONTROL.consumer), 7, "who finds a fault publishes nothing");
    page.store_u32(CONTROL.producer, 7);
    for wrong in [8, 7_u32.wrapping_sub(CONTROL.size + 1), 7 + (1 << 31)] {
        page.store_u32(CONTROL.consumer, wrong);
        assert_eq!(producer.write(&page, &[0]), Err(fault(wrong)));
    }
    assert_eq!(page.load_u32(CONTROL.producer), 7);
}

proptest! {
    #[test]
    fn bytes_come_out_as_they_went_in_and_touch_nothing_else(
        place in place(),
        start in index(),
        steps in prop::collection::vec((0..3_u8, 0..2500_usize), 1..60),
    ) {
        let page = page(place, start);
        let (mut producer, mut consumer) = (Producer::attach(place, &page), Consumer::attach(place, &page));
        let (mut queue, mut counter) = (VecDeque::<u8>::new(), 0_u8);
        for (what, length) in steps {
            let room = place.size as usize - queue.len();
            prop_assert_eq!(producer.room(&page), Ok(room as u32));
            prop_assert_eq!(consumer.available(&page), Ok(queue.len() as u32));
            if what == 0 {
                let bytes: Vec<u8> = (0..length).map(|at| counter.wrapping_add(at as u8)).collect();
                let written = producer.write(&page, &bytes).unwrap();
                prop_assert_eq!(written, length.min(room));
                queue.extend(&bytes[..written]);
                counter = counter.wrapping_add(written as u8);
            } else {
                let mut bytes = std::vec![0; length];
                let count = if what == 1 { consumer.peek(&page, &mut bytes) } else { consumer.read(&page, &mut bytes) };
                let count = count.unwrap();
                prop_assert_eq!(count, length.min(queue.len()));
                prop_assert!(queue.iter().take(count).eq(&bytes[..count]));
                prop_assert!(bytes[count..].iter().all(|&byte| byte == 0));
                if what == 2 {
                    queue.drain(..count);
                }
            }
        }
        let used = [place.data..place.data + place.size as usize, place.producer..place.producer + 4, place.consumer..place.consumer + 4];
        let outside = |at: &usize| !used.iter().any(|range| range.contains(at));
        prop_assert!((0..PAGE).filter(outside).all(|at| page.0.borrow()[at] == BACKGROUND));
        // Whoever attaches next goes on where they stopped.
        prop_assert_eq!(Consumer::attach(place, &page).available(&page), Ok(queue.len() as u32));
        prop_assert_eq!(Producer::attach(place, &page).room(&page), Ok(place.size - queue.len() as u32));
    }

    #[test]
    fn an_index_is_believed_within_the_ring_only(place in place(), own in index(), found in index()) {
        let page = page(place, own);
        let (producer, consumer) = (Producer::attach(place, &page), Consumer::attach(place, &page));
        page.store_u32(place.producer, found);
        page.store_u32(place.consumer, found);
        let fault = Err(Violation::IndexJump { found, own, size: place.size });
        let (ahead, behind) = (found.wrapping_sub(own), own.wrapping_sub(found));
        prop_assert_eq!(consumer.available(&page), if ahead <= place.size { Ok(ahead) } else { fault });
        prop_assert_eq!(producer.room(&page), if behind <= place.size { Ok(place.size - behind) } else { fault });
    }

    #[test]
    fn a_page_that_changes_while_it_is_read_stays_a_page(
        place in place(),
        script in prop::collection::vec(prop_oneof![0..5000_u32, any::<u32>()], 1..40),
        lengths in prop::collection::vec(0..5000_usize, 1..20),
    ) {
        let page = Fickle(RefCell::new(script));
        let (mut producer, mut consumer) = (Producer::attach(place, &page), Consumer::attach(place, &page));
        for length in lengths {
            let mut bytes = std::vec![0; length];
            let moved = [producer.write(&page, &bytes), consumer.read(&page, &mut bytes)];
            for moved in moved.into_iter().flatten() {
                prop_assert!(moved <= length.min(place.size as usize));
            }
        }
    }
}
