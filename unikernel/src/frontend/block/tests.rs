//! The queue against an honest backend that answers in any order, and against dishonest ones.

use std::collections::BTreeMap;
use std::task::Waker;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::ring::block::{
    Body, Limits, REQUEST_SIZE, RawRequest, Request, SECTOR, SEGMENT_SIZE, Segment, Segments, Status, operation,
    response,
};
use protocol::ring::sring::{Back, Geometry, RESPONSE_PRODUCER};
use protocol::ring::{Shared, Violation};

use super::Failure;
use super::queue::{Ask, Queue, Ticket};
use crate::frontend::Fault;
use crate::frontend::testing::Page;
use crate::spread::Spread;

const LIMITS: Limits = Limits { sectors: 64, read_only: false, flush: true, discard: true, indirect: 512 };

/// A backend with a small disk, which takes requests and answers them when and in the order it is told.
struct Disk {
    ring: Spread<Page>,
    back: Back,
    memory: BTreeMap<u32, Page>,
    contents: Vec<u8>,
    taken: Vec<Request>,
}

impl Disk {
    fn new(queue: &Queue<Page, u32>, memory: BTreeMap<u32, Page>) -> Disk {
        let pages = queue.pages().to_vec();
        let back = Back::resume(Geometry::of(pages.len(), REQUEST_SIZE), 0, 0);
        let contents = vec![0; (LIMITS.sectors * SECTOR) as usize];
        Disk { ring: Spread::new(pages), back, memory, contents, taken: Vec::new() }
    }

    fn take(&mut self) -> usize {
        let mut raw: RawRequest = [0; REQUEST_SIZE];
        while self.back.peek(&self.ring, &mut raw).unwrap().is_some() {
            self.back.take();
            self.taken.push(Request::parse(&raw, &LIMITS).unwrap());
        }
        self.taken.len()
    }

    fn segments(&self, segments: &Segments) -> Vec<Segment> {
        match segments {
            Segments::Direct(list) => list.to_vec(),
            Segments::Indirect { count, pages } => (0..*count as usize)
                .map(|at| {
                    let mut raw = [0; SEGMENT_SIZE];
                    self.memory[&pages[0]].read(at * SEGMENT_SIZE, &mut raw);
                    Segment::parse(&raw).unwrap()
                })
                .collect(),
        }
    }

    fn carry_out(&mut self, request: &Request) {
        match &request.body {
            Body::Transfer { write, sector, segments } => {
                let mut at = (sector * SECTOR) as usize;
                for segment in self.segments(segments) {
                    let length = (segment.sectors() * SECTOR) as usize;
                    let (page, offset) = (&self.memory[&segment.reference], segment.first as usize * SECTOR as usize);
                    match write {
                        true => page.read(offset, &mut self.contents[at..at + length]),
                        false => page.write(offset, &self.contents[at..at + length]),
                    }
                    at += length;
                }
            }
            Body::Discard { sector, sectors } => {
                self.contents[(sector * SECTOR) as usize..((sector + sectors) * SECTOR) as usize].fill(0);
            }
            Body::Flush => {}
        }
    }

    fn answer(&mut self, which: usize) {
        let request = self.taken.remove(which);
        self.carry_out(&request);
        self.say(&response(request.id, request.echo, Status::Okay));
    }

    /// Publishes a response, whatever it says.
    fn say(&mut self, raw: &[u8]) {
        assert!(self.back.write(&self.ring, raw));
        let _ = self.back.publish(&self.ring);
    }
}

/// A queue with one ring page, its backend, and data pages with references from 100 on.
fn pair() -> (Queue<Page, u32>, Disk) {
    let queue = Queue::new(vec![Page::new(0)]);
    let memory = (100..400).map(|reference| (reference, Page::new(reference))).collect();
    let disk = Disk::new(&queue, memory);
    (queue, disk)
}

fn ask(queue: &mut Queue<Page, u32>, disk: &Disk, write: bool, sector: u64, list: &[Segment]) -> Ticket {
    let ask = Ask::Transfer { write, sector, count: list.len(), segments: &mut list.iter().copied() };
    queue.ask(ask, 7, || Ok(disk.memory[&399].clone())).unwrap()
}

fn page_at(reference: u32) -> [Segment; 1] {
    [Segment { reference, first: 0, last: 7 }]
}

fn poll(queue: &mut Queue<Page, u32>, ticket: Ticket) -> Option<Result<(), Failure>> {
    queue.poll(ticket, Waker::noop())
}

#[test]
fn a_backend_that_is_awake_is_not_notified() {
    let (mut queue, mut disk) = pair();
    ask(&mut queue, &disk, true, 0, &page_at(100));
    assert!(queue.publish(), "it never looked, so it sleeps");
    ask(&mut queue, &disk, true, 8, &page_at(101));
    assert!(!queue.publish());
    assert!(!queue.publish(), "nothing new");
    assert_eq!(disk.take(), 2);
    assert_eq!(disk.back.rearm(&disk.ring), Ok(false));
    ask(&mut queue, &disk, true, 16, &page_at(102));
    assert!(queue.publish());
}

#[test]
fn many_segments_go_by_a_page_of_descriptors() {
    let (mut queue, mut disk) = pair();
    let list: Vec<Segment> = (100..140).map(|reference| Segment { reference, first: 1, last: 1 }).collect();
    for (&Segment { reference, .. }, mark) in list.iter().zip(1..) {
        disk.memory[&reference].write(SECTOR as usize, &[mark; SECTOR as usize]);
    }
    let ticket = ask(&mut queue, &disk, true, 10, &list);
    let _ = queue.publish();
    disk.take();
    disk.answer(0);
    assert_eq!((queue.collect(), poll(&mut queue, ticket)), (Ok(1), Some(Ok(()))));
    for (at, mark) in (10..50).zip(1..) {
        assert_eq!(disk.contents[at * SECTOR as usize], mark);
    }
    let much = Ask::Transfer { write: true, sector: 0, count: 513, segments: &mut list.iter().copied() };
    assert_eq!(queue.ask(much, 7, || Err(Failure::NoRoom)), Err(Failure::TooLarge));
}

#[test]
fn what_finds_the_ring_full_waits_in_line() {
    let (mut queue, mut disk) = pair();
    let tickets: Vec<Ticket> =
        (0..50).map(|at| ask(&mut queue, &disk, false, at % 8, &page_at(100 + at as u32))).collect();
    let _ = queue.publish();
    assert_eq!((disk.take(), queue.unanswered()), (32, 50));
    (0..32).for_each(|_| disk.answer(0));
    assert_eq!(queue.collect(), Ok(32));
    let _ = queue.publish();
    assert_eq!(disk.take(), 18);
    (0..18).for_each(|_| disk.answer(0));
    assert_eq!((queue.collect(), queue.unanswered()), (Ok(18), 0));
    assert!(tickets.into_iter().all(|ticket| poll(&mut queue, ticket) == Some(Ok(()))));
}

#[test]
fn an_abandoned_request_is_carried_out_and_frees_its_place() {
    let (mut queue, mut disk) = pair();
    let first = ask(&mut queue, &disk, true, 0, &page_at(100));
    queue.abandon(first);
    let _ = queue.publish();
    disk.take();
    disk.answer(0);
    assert_eq!(queue.collect(), Ok(1));
    let second = ask(&mut queue, &disk, true, 0, &page_at(100));
    assert_ne!(first, second);
    assert_eq!(poll(&mut queue, first), Some(Err(Failure::Gone)));
    assert_eq!(poll(&mut queue, second), None);
}

/// Asks for two pages, lets the backend take them, and gives it to `attack` with the first request's id.
fn attacked(attack: impl FnOnce(&mut Disk, u64)) -> (Queue<Page, u32>, Result<u32, Fault>) {
    let (mut queue, mut disk) = pair();
    let tickets = [100, 101].map(|page| ask(&mut queue, &disk, false, 0, &page_at(page)));
    let _ = queue.publish();
    disk.take();
    let id = disk.taken[0].id;
    attack(&mut disk, id);
    let outcome = queue.collect();
    queue.fail();
    for ticket in tickets {
        assert!(poll(&mut queue, ticket).is_some(), "nobody waits for ever");
    }
    assert_eq!(queue.unanswered(), 0);
    (queue, outcome)
}

#[test]
fn r1_a_response_index_that_jumps_closes_the_connection() {
    for jump in [3, 32, 33, 1 << 31, u32::MAX] {
        let (_, outcome) = attacked(|disk, _| disk.ring.store_u32(RESPONSE_PRODUCER, jump));
        assert_eq!(outcome, Err(Fault::Ring(Violation::IndexJump { found: jump, own: 0, size: 2 })));
    }
}

#[test]
fn r2_an_id_that_is_not_under_way_closes_the_connection() {
    for wrong in [5, 0xffff, 1 << 16, u64::MAX] {
        let (_, outcome) = attacked(|disk, _| disk.say(&response(wrong, operation::READ, Status::Okay)));
        assert_eq!(outcome, Err(Fault::UnknownId { id: wrong }));
    }
}

#[test]
fn r2_a_second_answer_closes_the_connection() {
    let (_, outcome) = attacked(|disk, id| {
        disk.say(&response(id, operation::READ, Status::Okay));
        disk.say(&response(id, operation::READ, Status::Okay));
    });
    assert!(matches!(outcome, Err(Fault::UnknownId { .. })));
}

#[test]
fn r2_a_request_in_line_cannot_be_answered() {
    let (mut queue, mut disk) = pair();
    let tickets: Vec<Ticket> = (0..33).map(|_| ask(&mut queue, &disk, false, 0, &page_at(100))).collect();
    let _ = queue.publish();
    disk.take();
    disk.say(&response(32, operation::READ, Status::Okay));
    assert_eq!(queue.collect(), Err(Fault::UnknownId { id: 32 }));
    assert_eq!(poll(&mut queue, tickets[32]), None);
}

#[test]
fn r3_another_operation_than_asked_closes_the_connection() {
    let (_, outcome) = attacked(|disk, id| disk.say(&response(id, operation::WRITE, Status::Okay)));
    assert_eq!(outcome, Err(Fault::Operation { found: operation::WRITE, asked: operation::READ }));
}

#[test]
fn r9_a_status_that_there_is_not_closes_the_connection() {
    let (_, outcome) = attacked(|disk, id| {
        let mut raw = response(id, operation::READ, Status::Okay);
        raw[10] = 1;
        disk.say(&raw);
    });
    assert!(matches!(outcome, Err(Fault::Status { found: 1, .. })));
}

#[test]
fn refusals_are_handed_on() {
    let (mut queue, mut disk) = pair();
    let tickets = [100, 101].map(|page| ask(&mut queue, &disk, false, 0, &page_at(page)));
    let _ = queue.publish();
    disk.take();
    for (request, status) in disk.taken.clone().iter().zip([Status::Error, Status::NotSupported]) {
        disk.say(&response(request.id, request.echo, status));
    }
    assert_eq!(queue.collect(), Ok(2));
    assert_eq!(poll(&mut queue, tickets[0]), Some(Err(Failure::Refused(Status::Error))));
    assert_eq!(poll(&mut queue, tickets[1]), Some(Err(Failure::Refused(Status::NotSupported))));
}

#[test]
fn r10_nothing_but_the_request_is_in_the_ring() {
    let (mut queue, disk) = pair();
    ask(&mut queue, &disk, true, 0, &page_at(100));
    let _ = queue.publish();
    let mut raw = [0xff; REQUEST_SIZE];
    disk.ring.read(64, &mut raw);
    assert!(raw[32..].iter().all(|&byte| byte == 0), "{raw:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Ask { write: bool, sector: u64, pages: usize },
    Publish,
    Answer(prop::sample::Index),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0u64..8, 1usize..20).prop_map(|(write, sector, pages)| Step::Ask { write, sector, pages: pages.min(7) }),
        2 => Just(Step::Publish),
        4 => any::<prop::sample::Index>().prop_map(Step::Answer),
        2 => Just(Step::Collect),
    ]
}

proptest! {
    /// Whatever the interleaving and the order of the answers: each request has one outcome, and none is lost.
    #[test]
    fn every_request_is_answered_once(steps in prop::collection::vec(step(), 1..300)) {
        let (mut queue, mut disk) = pair();
        let mut waiting = Vec::new();
        let mut answered = 0;
        for step in steps {
            match step {
                Step::Ask { write, sector, pages } => {
                    let list: Vec<Segment> = (0..pages as u32).flat_map(|at| page_at(100 + at)).collect();
                    waiting.push(ask(&mut queue, &disk, write, sector, &list));
                }
                Step::Publish => { let _ = queue.publish(); }
                Step::Answer(which) => {
                    let count = disk.take();
                    if count > 0 {
                        disk.answer(which.index(count));
                        answered += 1;
                    }
                }
                Step::Collect => {
                    answered -= queue.collect().unwrap();
                    prop_assert_eq!(answered, 0);
                    waiting.retain(|&ticket| poll(&mut queue, ticket).is_none());
                    prop_assert_eq!(waiting.len(), queue.unanswered());
                }
            }
        }
        while queue.unanswered() > 0 {
            let _ = queue.publish();
            (0..disk.take()).for_each(|_| disk.answer(0));
            queue.collect().unwrap();
        }
        prop_assert!(waiting.into_iter().all(|ticket| poll(&mut queue, ticket) == Some(Ok(()))));
    }

    /// No bytes in the ring can make it panic, or complete a request twice.
    #[test]
    fn r3_no_response_can_do_harm(raw in prop::collection::vec(prop::array::uniform16(any::<u8>()), 0..2), small: bool) {
        let (_, outcome) = attacked(|disk, _| {
            for mut raw in raw {
                if small { raw[1..8].fill(0); }
                disk.say(&raw);
            }
        });
        prop_assert!(outcome.is_err() || outcome.unwrap() <= 2);
    }
}
