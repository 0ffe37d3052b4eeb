//! Both rings of a network connection with a frontend that writes what it likes, and a driver that dies now and then: packets
//! keep to their limits, nothing is given out twice, and no more is answered than was taken.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::record::net::{RECEIVE_AT, Receive, SIZE, Transmit};
use protocol::ring::net::{RECEIVE, ReceiveResponse, SLOTS_MAX, TRANSMIT, packet, status};

/// Of the frontend.
const INCARNATION: u32 = 1;
/// Steps of one driver's life.
const STEPS: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let lives = [script.part(STEPS), script.part(STEPS)];
    let (transmits, receives) = (Page::private(RECEIVE_AT, &[]), Page::private(SIZE - RECEIVE_AT, &[]));
    let (slots, buffers) = (script.part(4096), script);
    let pages = (Page::new(PAGE_SIZE as usize, Script::new(slots)), Page::new(PAGE_SIZE as usize, buffers));
    for life in lives {
        send(&transmits, &pages.0, life);
        receive(&receives, &pages.1, life);
    }
});

fn send(record: &Page<'_>, page: &Page<'_>, steps: &[u8]) {
    let Ok(attached) = Transmit::attach(record, page, INCARNATION, b"parameters") else { return };
    assert!(attached.dropped <= TRANSMIT.entries);
    let (mut ring, mut open) = (attached.ring, Vec::new());
    assert_eq!(ring.in_flight(), 0);
    for step in steps {
        match step % 4 {
            0 | 1 => match ring.look(page, 0) {
                Ok(Some(mut taken)) => {
                    let data = taken.data.len();
                    assert!((1..=SLOTS_MAX).contains(&data) && taken.slots() as usize >= data);
                    ring.take(record, &mut taken, || ());
                    // Whether it is well-formed is another matter.
                    let _ = packet(&taken.data);
                    open.push(taken);
                }
                Ok(None) => {}
                Err(_) => return,
            },
            2 if !open.is_empty() => {
                let taken = open.swap_remove(usize::from(step / 4) % open.len());
                ring.answer(record, page, &taken, status::OKAY, || ());
            }
            2 => {}
            _ => drop(ring.publish(record, page)),
        }
        let slots: u32 = open.iter().map(|packet| packet.slots()).sum();
        assert!(slots <= ring.in_flight() && ring.in_flight() <= TRANSMIT.entries);
    }
}

fn receive(record: &Page<'_>, page: &Page<'_>, steps: &[u8]) {
    let Ok((mut ring, _)) = Receive::attach(record, page, INCARNATION, b"parameters") else { return };
    let mut given = 0;
    for step in steps {
        match step % 4 {
            0 | 1 => match ring.take(record, page, || ()) {
                Ok(buffer) => given += u32::from(buffer.is_some()),
                Err(_) => return,
            },
            2 => {
                ring.answer(record, page, ReceiveResponse::default(), || ());
                given = given.saturating_sub(1);
            }
            _ => drop(ring.publish(record, page)),
        }
        assert!(given <= RECEIVE.entries);
    }
}
