//! Both halves against an honest backend and against dishonest ones.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::ring::net::{
    RECEIVE, ReceiveRequest, ReceiveResponse, TRANSMIT, TransmitRequest, flag, packet, status, transmit_response,
};
use protocol::ring::sring::{Back, RESPONSE_PRODUCER};
use protocol::ring::{Shared, Violation};

use super::receive::Receive;
use super::transmit::Transmit;
use crate::frontend::Fault;
use crate::frontend::testing::Page;

const RING: u32 = 1;
const COUNT: u32 = 16;

fn memory() -> (Page, Vec<Page>) {
    (Page::new(RING), (100..100 + COUNT).map(Page::new).collect())
}

/// The backend of one ring, with the pages of the other side.
struct Backend {
    ring: Page,
    back: Back,
    memory: BTreeMap<u32, Page>,
}

impl Backend {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut raw = [0; N];
        self.back.peek(&self.ring, &mut raw).unwrap()?;
        self.back.take();
        Some(raw)
    }

    fn say(&mut self, raw: &[u8]) {
        assert!(self.back.write(&self.ring, raw));
        let _ = self.back.publish(&self.ring);
    }
}

fn sender() -> (Transmit<Page>, Backend) {
    let (ring, pages) = memory();
    let memory = pages.iter().map(|page| (crate::frontend::Share::reference(page), page.clone())).collect();
    let transmit = Transmit::new(ring.clone(), pages);
    (transmit, Backend { ring, back: Back::resume(TRANSMIT, 0, 0), memory })
}

fn receiver() -> (Receive<Page>, Backend) {
    let (ring, pages) = memory();
    let memory = pages.iter().map(|page| (crate::frontend::Share::reference(page), page.clone())).collect();
    let mut receive = Receive::new(ring.clone(), pages);
    assert!(receive.publish(), "the backend has never looked");
    (receive, Backend { ring, back: Back::resume(RECEIVE, 0, 0), memory })
}

/// Takes one packet off the transmit ring; gives the ids of its slots, and its bytes.
fn packet_off(backend: &mut Backend) -> Option<(Vec<u16>, Vec<u8>, u16)> {
    let mut slots = vec![TransmitRequest::parse(&backend.next()?)];
    while slots.last()?.flags & flag::transmit::MORE_DATA != 0 {
        slots.push(TransmitRequest::parse(&backend.next()?));
    }
    let mut bytes = Vec::new();
    for (slot, size) in slots.iter().zip(packet(&slots).unwrap()) {
        let at = bytes.len();
        bytes.resize(at + size as usize, 0);
        backend.memory[&slot.reference].read(slot.offset.into(), &mut bytes[at..]);
    }
    Some((slots.iter().map(|slot| slot.id).collect(), bytes, slots[0].flags))
}

/// Fills posted pages with a frame, in slots of at most `slot` bytes.
fn deliver(backend: &mut Backend, frame: &[u8], slot: usize, flags: u16) -> bool {
    let parts = frame.chunks(slot).len();
    if (backend.back.available(&backend.ring).unwrap() as usize) < parts {
        return false;
    }
    for (at, part) in frame.chunks(slot).enumerate() {
        let request = ReceiveRequest::parse(&backend.next().unwrap());
        backend.memory[&request.reference].write(0, part);
        let more = if at + 1 < parts { flag::receive::MORE_DATA } else { 0 };
        let response = ReceiveResponse { id: request.id, offset: 0, flags: flags | more, status: part.len() as i16 };
        backend.say(&response.encode());
    }
    true
}

fn pattern(length: usize, mark: u8) -> Vec<u8> {
    (0..length).map(|at| mark.wrapping_add(at as u8)).collect()
}

proptest! {
    /// Frames of any length arrive whole and in order, and pages come back.
    #[test]
    fn what_is_sent_arrives(lengths in prop::collection::vec(14usize..20_000, 1..60)) {
        let (mut transmit, mut backend) = sender();
        for (mark, length) in (0u8..).zip(lengths) {
            let frame = pattern(length, mark);
            prop_assert!(transmit.send(&frame, mark % 2 == 0));
            let _ = transmit.publish();
            let (ids, bytes, flags) = packet_off(&mut backend).unwrap();
            prop_assert_eq!(bytes, frame);
            prop_assert_eq!(flags & flag::transmit::CHECKSUM_BLANK != 0, mark % 2 == 0);
            ids.iter().for_each(|&id| backend.say(&transmit_response(id, status::OKAY)));
            prop_assert_eq!(transmit.collect(), Ok((ids.len() as u32, 0)));
            prop_assert_eq!(transmit.unanswered(), 0);
        }
    }

    /// The same for the other direction, with pages that are posted again.
    #[test]
    fn what_is_delivered_is_received(frames in prop::collection::vec((1usize..12_000, 1000usize..4096), 1..60)) {
        let (mut receive, mut backend) = receiver();
        for (mark, (length, slot)) in (0u8..).zip(frames) {
            let frame = pattern(length, mark);
            let validated = if mark % 2 == 0 { flag::receive::DATA_VALIDATED } else { 0 };
            prop_assert!(deliver(&mut backend, &frame, slot, validated));
            let received = receive.take().unwrap().unwrap();
            prop_assert_eq!(&received.bytes, &frame);
            prop_assert_eq!(received.checked, validated != 0);
            receive.recycle(received);
            prop_assert_eq!(receive.take(), Ok(None));
            let _ = receive.publish();
        }
    }

    /// No bytes in a response can do harm.
    #[test]
    fn r3_no_response_can_do_harm(raw: [u8; 8], other: [u8; 4]) {
        let (mut receive, mut backend) = receiver();
        backend.next::<8>();
        backend.say(&raw);
        if let Ok(Some(frame)) = receive.take() {
            prop_assert!(frame.bytes.len() <= 4096);
        }
        let (mut transmit, mut backend) = sender();
        assert!(transmit.send(&[1; 100], false));
        let _ = transmit.publish();
        backend.next::<12>();
        backend.say(&other);
        let _ = transmit.collect();
        prop_assert!(transmit.unanswered() <= 1);
    }
}

#[test]
fn nothing_is_sent_without_room_and_answers_make_room() {
    let (mut transmit, mut backend) = sender();
    let mut sent = 0;
    while transmit.send(&[7; 60], false) {
        sent += 1;
    }
    assert_eq!((sent, transmit.has_room(1), transmit.is_short()), (COUNT, false, true));
    let _ = transmit.publish();
    let (ids, ..) = packet_off(&mut backend).unwrap();
    backend.say(&transmit_response(ids[0], status::DROPPED));
    assert_eq!(transmit.collect(), Ok((1, 1)));
    assert!(transmit.has_room(4096) && !transmit.has_room(4097));
}

#[test]
fn a_frame_with_an_error_in_a_slot_is_dropped_and_the_next_is_not() {
    let (mut receive, mut backend) = receiver();
    for (status, flags) in [(500, flag::receive::MORE_DATA), (status::ERROR, 0)] {
        let request = ReceiveRequest::parse(&backend.next().unwrap());
        backend.say(&ReceiveResponse { id: request.id, offset: 0, flags, status }.encode());
    }
    assert_eq!(receive.take(), Ok(None));
    assert!(deliver(&mut backend, &[3; 100], 4096, 0));
    assert_eq!(receive.take().unwrap().unwrap().bytes, [3; 100]);
}

#[test]
fn r1_a_response_index_that_jumps_closes_the_connection() {
    for jump in [2, 17, 1 << 31, u32::MAX] {
        let (mut transmit, backend) = sender();
        assert!(transmit.send(&[1; 100], false));
        let _ = transmit.publish();
        backend.ring.store_u32(RESPONSE_PRODUCER, jump);
        assert_eq!(transmit.collect(), Err(Fault::Ring(Violation::IndexJump { found: jump, own: 0, size: 1 })));
        let (mut receive, backend) = receiver();
        // All pages are posted: up to COUNT responses are possible.
        let jump = if jump == 2 { COUNT + 1 } else { jump };
        backend.ring.store_u32(RESPONSE_PRODUCER, jump);
        assert_eq!(receive.take(), Err(Fault::Ring(Violation::IndexJump { found: jump, own: 0, size: COUNT })));
    }
}

#[test]
fn r2_unknown_and_repeated_ids_close_the_connection() {
    for id in [COUNT as u16, u16::MAX] {
        let (mut receive, mut backend) = receiver();
        backend.next::<8>();
        backend.say(&ReceiveResponse { id, status: 60, ..ReceiveResponse::default() }.encode());
        assert_eq!(receive.take(), Err(Fault::UnknownId { id: id.into() }));
        let (mut transmit, mut backend) = sender();
        assert!(transmit.send(&[1; 100], false));
        let _ = transmit.publish();
        backend.next::<12>();
        backend.say(&transmit_response(id, status::OKAY));
        assert_eq!(transmit.collect(), Err(Fault::UnknownId { id: id.into() }));
    }
    let (mut transmit, mut backend) = sender();
    for _ in 0..2 {
        assert!(transmit.send(&[1; 100], false));
        let _ = transmit.publish();
    }
    let (ids, ..) = packet_off(&mut backend).unwrap();
    packet_off(&mut backend);
    (0..2).for_each(|_| backend.say(&transmit_response(ids[0], status::OKAY)));
    assert_eq!(transmit.collect(), Err(Fault::UnknownId { id: ids[0].into() }));
}

#[test]
fn r5_data_beyond_the_page_closes_the_connection() {
    for (offset, length) in [(1, 4096), (4000, 97), (u16::MAX, i16::MAX)] {
        let (mut receive, mut backend) = receiver();
        let request = ReceiveRequest::parse(&backend.next().unwrap());
        backend.say(&ReceiveResponse { id: request.id, offset, flags: 0, status: length }.encode());
        assert_eq!(receive.take(), Err(Fault::Place { offset, length: length as u16 }));
    }
}

#[test]
fn r4_a_frame_without_end_closes_the_connection() {
    let (mut receive, mut backend) = receiver();
    for slot in 0..20 {
        let request = ReceiveRequest::parse(&backend.next().unwrap());
        let flags = flag::receive::MORE_DATA;
        backend.say(&ReceiveResponse { id: request.id, offset: 0, flags, status: 100 }.encode());
        let taken = receive.take();
        let _ = receive.publish();
        if slot == 18 {
            assert_eq!(taken, Err(Fault::Slots));
            return;
        }
        assert_eq!(taken, Ok(None));
    }
}

#[test]
fn r9_what_was_not_agreed_on_closes_the_connection() {
    let (mut receive, mut backend) = receiver();
    let request = ReceiveRequest::parse(&backend.next().unwrap());
    let flags = flag::receive::EXTRA_INFO;
    backend.say(&ReceiveResponse { id: request.id, offset: 0, flags, status: 100 }.encode());
    assert_eq!(receive.take(), Err(Fault::Flags { found: flags }));
    let (mut transmit, mut backend) = sender();
    assert!(transmit.send(&[1; 100], false));
    let _ = transmit.publish();
    let (ids, ..) = packet_off(&mut backend).unwrap();
    backend.say(&transmit_response(ids[0], status::NULL));
    assert!(matches!(transmit.collect(), Err(Fault::Status { found: status::NULL, .. })));
}
