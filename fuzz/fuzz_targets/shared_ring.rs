//! Both ends of the shared ring, each against a peer that does what it likes.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::ring::block::{Layout, REQUEST_SIZE, RESPONSE_SIZE};
use protocol::ring::sring::{Back, Front, Geometry};

/// Steps of one run.
const STEPS: usize = 128;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (kind, start) = (script.byte(), script.word());
    // A ring of one page of block requests.
    let layout = if kind & 2 == 0 { Layout::X86_64 } else { Layout::X86_32 };
    let geometry = layout.geometry(1);
    let steps = script.part(STEPS);
    let page = Page::new(PAGE_SIZE as usize, script);
    // A violation ends the connection, so the rest of the run is of no interest.
    let _ = if kind & 1 == 0 { ask(&page, geometry, steps) } else { answer(&page, geometry, start, steps) };
});

fn ask(page: &Page<'_>, geometry: Geometry, steps: &[u8]) -> Result<(), protocol::ring::Violation> {
    let mut front = Front::new(geometry);
    for step in steps {
        match step % 4 {
            0 => drop(front.write(page, &[*step; REQUEST_SIZE])),
            1 => drop(front.publish(page)),
            2 => drop(front.take(page, &mut [0; RESPONSE_SIZE])?),
            _ => drop(front.rearm(page)?),
        }
        assert!(front.room() <= geometry.entries);
    }
    Ok(())
}

fn answer(page: &Page<'_>, geometry: Geometry, start: u32, steps: &[u8]) -> Result<(), protocol::ring::Violation> {
    let mut back = Back::resume(geometry, start, start);
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
        assert!(back.consumed().wrapping_sub(back.published()) <= geometry.entries);
    }
    Ok(())
}
