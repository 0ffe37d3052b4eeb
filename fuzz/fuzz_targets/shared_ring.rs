//! Both ends of the shared ring, each against a peer that does what it likes.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::ring::block::{REQUEST_SIZE, RESPONSE_SIZE};
use protocol::ring::sring::{Back, Front, Geometry};

/// A ring of one page of block requests.
const GEOMETRY: Geometry = Geometry::of(1, REQUEST_SIZE);
/// Steps of one run.
const STEPS: usize = 128;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (front, start) = (script.byte() & 1 == 0, script.word());
    let steps = script.part(STEPS);
    let page = Page::new(PAGE_SIZE as usize, script);
    // A violation ends the connection, so the rest of the run is of no interest.
    let _ = if front { ask(&page, steps) } else { answer(&page, start, steps) };
});

fn ask(page: &Page<'_>, steps: &[u8]) -> Result<(), protocol::ring::Violation> {
    let mut front = Front::new(GEOMETRY);
    for step in steps {
        match step % 4 {
            0 => drop(front.write(page, &[*step; REQUEST_SIZE])),
            1 => drop(front.publish(page)),
            2 => drop(front.take(page, &mut [0; RESPONSE_SIZE])?),
            _ => drop(front.rearm(page)?),
        }
        assert!(front.room() <= GEOMETRY.entries);
    }
    Ok(())
}

fn answer(page: &Page<'_>, start: u32, steps: &[u8]) -> Result<(), protocol::ring::Violation> {
    let mut back = Back::resume(GEOMETRY, start, start);
    for step in steps {
        match step % 4 {
            0 => {
                if let Some(index) = back.peek(page, &mut [0; REQUEST_SIZE])? {
                    assert_eq!(index, back.consumed());
                    back.take();
                }
            }
            1 => drop(back.write(page, &[*step; RESPONSE_SIZE])),
            2 => drop(back.publish(page)),
            _ => drop(back.rearm(page)?),
        }
        assert!(back.consumed().wrapping_sub(back.published()) <= GEOMETRY.entries);
    }
    Ok(())
}
