//! Requests byte by byte as blkfront of Linux writes them (`struct blkif_request` of x86-64 and of i386), built without our own
//! encoder.

use std::rc::Rc;
use std::vec::Vec;

use protocol::control::FromDomain;
use protocol::ring::Shared;
use protocol::ring::block::Layout;
use protocol::ring::sring::{REQUEST_PRODUCER, RESPONSE_PRODUCER};

use super::frontend::{Domain, Frontend, start};
use super::world::{Dice, Memory, World};

/// Where things are in a slot of the ring.
#[derive(Clone, Copy)]
struct Offsets {
    layout: Layout,
    size: usize,
    id: usize,
    sector: usize,
    /// The direct segments; the number of sectors of a discard; the handle of an indirect request.
    segments: usize,
    /// The pages of an indirect request.
    pages: usize,
}

const LAYOUTS: [Offsets; 2] = [
    Offsets { layout: Layout::X86_64, size: 112, id: 8, sector: 16, segments: 24, pages: 28 },
    Offsets { layout: Layout::X86_32, size: 108, id: 4, sector: 12, segments: 20, pages: 24 },
];

impl Offsets {
    /// A raw request slot; what Linux leaves of the former user of the slot is no zeros.
    fn slot(&self, fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut raw = std::vec![0xa5; self.size];
        for (at, bytes) in fields {
            raw[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        raw
    }
}

/// `struct blkif_request_segment`: whole pages, but for the first and the last.
fn segments(references: &[u32], first: u8, last: u8) -> Vec<u8> {
    let end = references.len() - 1;
    let segment = |(index, reference): (usize, &u32)| {
        let [a, b, c, d] = reference.to_le_bytes();
        let first = if index == 0 { first } else { 0 };
        [a, b, c, d, first, if index == end { last } else { 7 }, 0xa5, 0xa5]
    };
    references.iter().enumerate().flat_map(segment).collect()
}

struct Guest {
    world: Rc<World>,
    domain: Domain,
    frontend: Frontend,
    at: Offsets,
    asked: u32,
}

impl Guest {
    fn new(at: Offsets) -> Guest {
        let world = World::new(400);
        let mut domain = start(&world);
        let frontend = Frontend::new(&world, 0, 1).in_layout(at.layout);
        assert!(matches!(frontend.attach(&mut domain), Some(FromDomain::BlockAttached { .. })));
        Guest { world, domain, frontend, at, asked: 0 }
    }

    fn pages(&self, first: u32, count: u32, writable: bool) -> (Vec<u32>, Vec<Memory>) {
        let references: Vec<u32> = (first..first + count).collect();
        let pages = references.iter().map(|&reference| self.world.grant(self.frontend.who.peer, reference, writable));
        let pages = pages.collect();
        (references, pages)
    }

    /// Id, operation and status of the answer.
    fn ask(&mut self, raw: &[u8]) -> (u64, u8, i16) {
        let (page, slot) = (&self.frontend.page, 64 + self.asked as usize * self.at.size);
        page.write(slot, raw);
        self.asked += 1;
        page.store_u32(REQUEST_PRODUCER, self.asked);
        while self.domain.turn() || self.world.work(&mut Dice(3)) {}
        let page = &self.frontend.page;
        assert_eq!(page.load_u32(RESPONSE_PRODUCER), self.asked, "an answer");
        assert!(self.world.mapped.borrow().is_empty(), "Linux disables a disk whose grants are in use when it answers");
        let mut answer = [0; 12];
        page.read(slot, &mut answer);
        let [id @ .., operation, _, status_low, status_high] = answer;
        (u64::from_le_bytes(id), operation, i16::from_le_bytes([status_low, status_high]))
    }
}

#[test]
fn what_is_written_directly_is_read_indirectly() {
    for at in LAYOUTS {
        let mut guest = Guest::new(at);
        // Pages to be written are granted for reading only.
        let (references, pages) = guest.pages(100, 11, false);
        for (index, page) in pages.iter().enumerate() {
            let bytes: Vec<u8> = (0..4096).map(|at| (at / 512 + index * 8) as u8).collect();
            page.write(0, &bytes);
        }
        let (id, sector) = (7u64.to_le_bytes(), 16u64.to_le_bytes());
        let list = segments(&references, 3, 4);
        let write = at.slot(&[(0, &[1, 11]), (at.id, &id), (at.sector, &sector), (at.segments, &list)]);
        assert_eq!(guest.ask(&write), (7, 1, 0));
        // 5 sectors of the first page, 9 whole pages, 5 sectors of the last one.
        let written: Vec<u8> = (3..8).chain(8..80).chain(80..85).collect();
        assert_eq!(guest.world.sectors.borrow()[16..98].iter().map(|sector| sector[511]).collect::<Vec<_>>(), written);

        let (references, pages) = guest.pages(200, 32, true);
        let (descriptors, page) = guest.pages(300, 1, false);
        page[0].write(0, &segments(&references, 0, 7));
        let (id, sector) = (8u64.to_le_bytes(), 16u64.to_le_bytes());
        // operation, indirect_op, nr_segments; then the handle, and the pages with the descriptors.
        let page = descriptors[0].to_le_bytes();
        let read = at.slot(&[
            (0, &[6, 0, 32, 0]),
            (at.id, &id),
            (at.sector, &sector),
            (at.segments, &[0, 202]),
            (at.pages, &page),
        ]);
        assert_eq!(guest.ask(&read), (8, 0, 0), "the answer names the operation inside");
        let read = pages.iter().flat_map(|page| {
            let mut bytes = [0; 4096];
            page.read(0, &mut bytes);
            bytes.into_iter().step_by(512).collect::<Vec<u8>>()
        });
        assert_eq!(read.collect::<Vec<u8>>()[..82], written);
    }
}

#[test]
fn a_flush_has_no_segments_and_no_sector() {
    for at in LAYOUTS {
        let mut guest = Guest::new(at);
        let flush = at.slot(&[(0, &[3, 0]), (at.id, &9u64.to_le_bytes()), (at.sector, &u64::MAX.to_le_bytes())]);
        assert_eq!(guest.ask(&flush), (9, 3, 0));
        assert_eq!(guest.world.flushes.get(), 1);
    }
}

#[test]
fn a_discard_has_its_length_behind_the_sector() {
    for at in LAYOUTS {
        let mut guest = Guest::new(at);
        guest.world.sectors.borrow_mut()[30..40].fill([7; 512]);
        let (id, sector, count) = (5u64.to_le_bytes(), 32u64.to_le_bytes(), 4u64.to_le_bytes());
        let discard = at.slot(&[(0, &[5, 0]), (at.id, &id), (at.sector, &sector), (at.segments, &count)]);
        assert_eq!(guest.ask(&discard), (5, 5, 0));
        let left: Vec<u8> = guest.world.sectors.borrow()[30..40].iter().map(|sector| sector[0]).collect();
        assert_eq!(left, [7, 7, 0, 0, 0, 0, 7, 7, 7, 7]);
    }
}

#[test]
fn an_operation_that_was_not_offered_is_told_so() {
    for at in LAYOUTS {
        let mut guest = Guest::new(at);
        let barrier = at.slot(&[(0, &[2, 0]), (at.id, &4u64.to_le_bytes()), (at.sector, &u64::MAX.to_le_bytes())]);
        assert_eq!(guest.ask(&barrier), (4, 2, -2));
    }
}
