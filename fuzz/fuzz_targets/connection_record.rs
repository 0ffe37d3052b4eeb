//! The connection record: damaged in any way, or left behind by a driver that died at any point, with a frontend that does
//! what it likes.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::record::{self, AttachError, Attached, Journal};
use protocol::ring::block::{Blocks, Layout, REQUEST_SIZE, RESPONSE_SIZE};
use protocol::ring::sring::Geometry;

/// Of the frontend; the record may hold another one.
const INCARNATION: u32 = 1;
/// Steps of one driver's life.
const STEPS: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let kind = script.byte();
    // A ring of one page of block requests.
    let layout = if kind & 2 == 0 { Layout::X86_64 } else { Layout::X86_32 };
    let geometry = layout.geometry(1);
    let (size, whole) = (record::size(geometry), kind & 1 == 0);
    if whole {
        // A record from nowhere.
        let record = Page::private(size, script.part(size));
        let page = Page::new(PAGE_SIZE as usize, script);
        let _ = attach(&record, &page, geometry);
        return;
    }
    let lives = [script.part(STEPS), script.part(STEPS)];
    let damage = script.part(8);
    // Two lives in one record, damaged in between; a life may end with requests in flight.
    let record = Page::private(size, &[]);
    let page = Page::new(PAGE_SIZE as usize, script);
    for life in lives {
        let Ok(attached) = attach(&record, &page, geometry) else { return };
        live(&record, &page, attached, life);
        for place in damage.chunks_exact(4) {
            let at = usize::from(u16::from_le_bytes([place[0], place[1]])) % size;
            protocol::ring::Shared::write(&record, at, &place[2..3]);
        }
    }
});

fn attach(record: &Page<'_>, page: &Page<'_>, geometry: Geometry) -> Result<Attached<Blocks>, AttachError> {
    let attached = Journal::attach(record, page, geometry, INCARNATION, b"parameters")?;
    let (journal, replays) = (&attached.journal, &attached.replays);
    assert_eq!(journal.in_flight() as usize, replays.len());
    assert!(replays.len() <= geometry.entries as usize);
    assert!(replays.windows(2).all(|pair| pair[1].index.wrapping_sub(pair[0].index) < 1 << 31));
    Ok(attached)
}

fn live(record: &Page<'_>, page: &Page<'_>, attached: Attached<Blocks>, steps: &[u8]) {
    let (mut journal, mut open) = (attached.journal, attached.replays.to_vec());
    let mut request = [0; REQUEST_SIZE];
    for step in steps {
        match step % 4 {
            0 | 1 => match journal.next(record, page, &mut request, || ()) {
                Ok(Some(ticket)) => open.push(ticket),
                Ok(None) => {}
                Err(_) => return,
            },
            2 if !open.is_empty() => {
                let ticket = open.swap_remove(usize::from(step / 4) % open.len());
                journal.request(record, ticket, &mut request);
                journal.answer(record, page, ticket, &[*step; RESPONSE_SIZE], || ());
            }
            2 => {}
            _ => drop(journal.publish(record, page)),
        }
        assert!(journal.in_flight() <= journal.geometry().entries);
    }
}
