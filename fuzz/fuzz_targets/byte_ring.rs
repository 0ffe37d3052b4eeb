//! Byte rings whose other end does what it likes.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::ring::byte::{CONTROL, Consumer, Producer};
use protocol::ring::console::{INPUT, OUTPUT};

/// Steps of one run; a ring has no more states than that brings about.
const STEPS: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let place = [CONTROL, INPUT, OUTPUT][usize::from(script.byte() % 3)];
    let steps = script.part(STEPS);
    let page = Page::new(PAGE_SIZE as usize, script);
    let mut producer = Producer::attach(place, &page);
    let mut consumer = Consumer::attach(place, &page);
    let mut buffer = [0; PAGE_SIZE as usize];
    for step in steps {
        let length = usize::from(step >> 1) * 33 % buffer.len();
        let moved = if step & 1 == 0 {
            producer.write(&page, &buffer[..length])
        } else {
            consumer.read(&page, &mut buffer[..length])
        };
        // A peer that broke the ring is not talked to again.
        let Ok(moved) = moved else { return };
        assert!(moved <= length && moved <= place.size as usize);
    }
});
