//! A machine, guests and a wire for tests of the whole domain on the host.
//!
//! Every store of the domain goes through a fuse, so that it can die at any of them: what comes after has no effect, as if it had
//! never been done. Then a new life of the domain attaches to the same records and rings.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

use protocol::connection::{Frontend, NetworkAttach, Offload};
use protocol::control::{FromDomain, ToDomain};
use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::ring::Shared;
use protocol::ring::net::{RECEIVE, ReceiveRequest, ReceiveResponse, TRANSMIT, TransmitRequest, flag};
use protocol::ring::sring::{self, Front};
use unikernel::backend::{Backend, Machine, Mover, NetworkRings};
use unikernel::event::Channel;
use unikernel::grant::{Place, Source, Transfer};

use crate::bridge::frame::Mac;
use crate::checksum::Blank;
use crate::service::Network;
use crate::wire::{Arrival, Checksum, Wire};

/// Stores that are left.
pub type Fuse = Rc<Cell<u64>>;

/// Memory, seen by somebody who may die.
#[derive(Clone, Debug)]
pub struct Memory {
    pub bytes: Rc<RefCell<Vec<u8>>>,
    fuse: Fuse,
    base: usize,
}

impl Memory {
    pub fn new(size: usize) -> Memory {
        Memory { bytes: Rc::new(RefCell::new(std::vec![0; size])), fuse: Rc::new(Cell::new(u64::MAX)), base: 0 }
    }

    /// The same memory, whose stores end with this fuse.
    fn with(&self, fuse: &Fuse, base: usize) -> Memory {
        Memory { bytes: self.bytes.clone(), fuse: fuse.clone(), base }
    }
}

/// Uses the fuse up by one; whether there was any left.
fn burn(fuse: &Fuse) -> bool {
    let left = fuse.get();
    fuse.set(left.saturating_sub(1));
    left > 0
}

impl Shared for Memory {
    fn load_u32(&self, offset: usize) -> u32 {
        let mut raw = [0; 4];
        self.read(offset, &mut raw);
        u32::from_le_bytes(raw)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        let at = self.base + offset;
        out.copy_from_slice(&self.bytes.borrow()[at..at + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        let at = self.base + offset;
        if burn(&self.fuse) {
            self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
    fn fence(&self) {}
}

/// What all lives of the domain share.
#[derive(Clone, Debug)]
pub struct Board {
    pages: Rc<RefCell<BTreeMap<(u16, u32), Memory>>>,
    retained: Memory,
    pub notified: Rc<RefCell<Vec<Port>>>,
    pub clock: Rc<Cell<u64>>,
    /// Batches of copies.
    pub calls: Rc<Cell<u64>>,
    /// Done to a sender's page after each batch of copies: what a sender does who wants to be quicker than the judge.
    pub meddle: Rc<Cell<Option<(u16, u32)>>>,
    pub fuse: Fuse,
}

/// Connections there is room for.
pub const PLACES: usize = 4;
const PLACE: usize = NetworkRings::<Board>::RECORD;

impl Board {
    pub fn new() -> Board {
        Board {
            pages: Rc::default(),
            retained: Memory::new(PLACES * PLACE),
            notified: Rc::default(),
            clock: Rc::new(Cell::new(1)),
            calls: Rc::default(),
            meddle: Rc::default(),
            fuse: Rc::new(Cell::new(u64::MAX)),
        }
    }

    fn page(&self, source: Source) -> Result<Memory> {
        self.pages.borrow().get(&(source.peer, source.reference)).cloned().ok_or(Error::BadGrant)
    }

    /// The memory at a place, and where in it.
    fn place(&self, place: Place, length: usize, own: &[&Memory]) -> Result<(Memory, usize)> {
        match place {
            Place::Granted { source, offset } if offset as usize + length <= 4096 => {
                Ok((self.page(source)?.with(&self.fuse, 0), offset as usize))
            }
            Place::Granted { .. } => Err(Error::Invalid),
            Place::Own { area, offset } => {
                let (first, last) = (offset as usize / 4096, (offset as usize + length - 1) / 4096);
                assert_eq!(first, last, "a copy crosses the end of a page");
                Ok((own[area as usize].clone(), offset as usize))
            }
        }
    }
}

impl Machine for Board {
    type Page = Memory;
    type Record = Memory;

    fn map(&self, source: Source) -> Result<Memory> {
        Ok(self.page(source)?.with(&self.fuse, 0))
    }
    fn places(&self) -> usize {
        PLACES
    }
    fn record(&self, connection: u16, offset: usize, bytes: usize) -> Memory {
        assert!(offset + bytes <= PLACE);
        self.retained.with(&self.fuse, connection as usize * PLACE + offset)
    }
    fn pulse(&self, _: usize, _: u64) {}
    fn notify(&self, port: Port) {
        if burn(&self.fuse) {
            self.notified.borrow_mut().push(port);
        }
    }
    fn fired(&self, _: &Channel) -> bool {
        false
    }
    fn now(&self) -> u64 {
        self.clock.get()
    }
    fn die(&self) {
        self.fuse.set(0);
    }
}

impl Mover for Board {
    type Own = Memory;

    fn transfer(&self, list: &mut [Transfer], own: &[&Memory]) -> u64 {
        assert!(!list.is_empty() && list.len() <= protocol::grant::MAX_BATCH);
        self.calls.set(self.calls.get() + 1);
        for transfer in list {
            let length = transfer.length as usize;
            assert!(length > 0);
            let ends = self
                .place(transfer.from, length, own)
                .and_then(|from| Ok((from, self.place(transfer.to, length, own)?)));
            transfer.error = ends.as_ref().err().copied();
            if let Ok(((from, at), (to, place))) = ends {
                let mut bytes = std::vec![0; length];
                from.read(at, &mut bytes);
                to.write(place, &bytes);
            }
        }
        if let Some((peer, reference)) = self.meddle.get() {
            self.pages.borrow()[&(peer, reference)].bytes.borrow_mut().fill(0xee);
        }
        1
    }
}

/// Bytes for each frame in the memory of the wire.
const BUFFER: usize = 2048;

/// A wire that keeps what is sent over it.
#[derive(Debug)]
pub struct TestWire {
    memory: Memory,
    free: Vec<u32>,
    pub state: Rc<WireState>,
    fuse: Fuse,
}

/// The far side of the wire.
#[derive(Debug, Default)]
pub struct WireState {
    pub sent: RefCell<Vec<Vec<u8>>>,
    pub arriving: RefCell<VecDeque<(Vec<u8>, Checksum)>>,
    /// Frames that can still be sent; without a limit if `None`.
    pub room: Cell<Option<usize>>,
    pub down: Cell<bool>,
}

impl TestWire {
    pub fn new(state: &Rc<WireState>, board: &Board) -> TestWire {
        let memory = Memory::new(64 * BUFFER * 2).with(&board.fuse, 0);
        let free = (0..128).map(|number| number * BUFFER as u32).collect();
        TestWire { memory, free, state: state.clone(), fuse: board.fuse.clone() }
    }
}

impl Wire for TestWire {
    type Memory = Memory;

    fn mac(&self) -> Mac {
        [0x52, 0x54, 0, 0, 0, 1]
    }
    fn link(&self) -> bool {
        !self.state.down.get()
    }
    fn memory(&self) -> &Memory {
        &self.memory
    }
    fn room(&mut self) -> usize {
        self.state.room.get().unwrap_or(self.free.len())
    }
    fn reserve(&mut self) -> Option<u32> {
        match self.state.room.get() {
            Some(0) => return None,
            Some(room) => self.state.room.set(Some(room - 1)),
            None => {}
        }
        self.free.pop()
    }
    fn send(&mut self, at: u32, length: u16, blank: Option<Blank>) {
        if let Some(blank) = blank {
            blank.fill(&self.memory, at as usize);
        }
        let mut frame = std::vec![0; length as usize];
        self.memory.read(at as usize, &mut frame);
        // The device sees what happens before the end only.
        if burn(&self.fuse) {
            self.state.sent.borrow_mut().push(frame);
        }
        self.free.push(at);
    }
    fn give_up(&mut self, at: u32) {
        self.free.push(at);
    }
    fn receive(&mut self) -> Option<Arrival> {
        if self.fuse.get() == 0 {
            return None;
        }
        let (frame, checksum) = self.state.arriving.borrow_mut().pop_front()?;
        let at = self.free.pop()?;
        self.memory.write(at as usize, &frame);
        Some(Arrival { at, length: frame.len() as u16, checksum })
    }
    fn recycle(&mut self, at: u32) {
        self.free.push(at);
    }
    fn flush(&mut self) {}
    fn rearm(&mut self, _: bool) -> bool {
        !self.state.arriving.borrow().is_empty()
    }
    fn awake(&mut self) {}
    fn tick(&mut self, _: u64) -> u64 {
        0
    }
}

/// A guest: frontends of both rings, and all its pages.
pub struct Guest {
    pub number: u16,
    pub mac: Mac,
    pub offload: Offload,
    board: Board,
    pub transmit: (Memory, Front),
    pub receive: (Memory, Front),
    next: u16,
    /// Slots without an answer.
    pub open: BTreeMap<u16, ()>,
    pub answers: Vec<i16>,
    posted: VecDeque<u16>,
    buffer: u16,
    half: Vec<u8>,
}

const TRANSMIT_RING: u32 = 8;
const RECEIVE_RING: u32 = 9;
const TRANSMIT_PAGES: u32 = 1000;
const RECEIVE_PAGES: u32 = 2000;

impl Guest {
    pub fn new(board: &Board, number: u16, offload: Offload) -> Guest {
        let rings = [TRANSMIT_RING, RECEIVE_RING].map(|reference| {
            let page = Memory::new(4096);
            sring::initialise(&page);
            board.pages.borrow_mut().insert((number, reference), page.clone());
            page
        });
        for reference in (0..256).flat_map(|page| [TRANSMIT_PAGES + page, RECEIVE_PAGES + page]) {
            board.pages.borrow_mut().insert((number, reference), Memory::new(4096));
        }
        let [transmit, receive] = rings;
        Guest {
            number,
            mac: mac(number),
            offload,
            board: board.clone(),
            transmit: (transmit, Front::new(TRANSMIT)),
            receive: (receive, Front::new(RECEIVE)),
            next: 0,
            open: BTreeMap::new(),
            answers: Vec::new(),
            posted: VecDeque::new(),
            buffer: 0,
            half: Vec::new(),
        }
    }

    pub fn attach(&self) -> ToDomain {
        ToDomain::NetworkAttach(NetworkAttach {
            frontend: Frontend {
                connection: self.number,
                peer: self.number,
                incarnation: 1,
                port: Port(self.number.into()),
            },
            transmit: TRANSMIT_RING,
            receive: RECEIVE_RING,
            mac: self.mac,
            offload: self.offload,
        })
    }

    /// The page of a transmit slot's id.
    pub fn page(&self, id: u16) -> (u16, u32) {
        (self.number, TRANSMIT_PAGES + u32::from(id % 256))
    }

    /// Queues a frame, cut where `cuts` say; with these flags in its first slot.
    pub fn send(&mut self, frame: &[u8], cuts: &[usize], flags: u16) {
        let ends = cuts.iter().copied().chain([frame.len()]);
        let mut from = 0;
        for end in ends {
            let (id, size) = (self.next, if from == 0 { frame.len() } else { end - from });
            self.next = self.next.wrapping_add(1);
            let page = self.board.pages.borrow()[&self.page(id)].clone();
            page.bytes.borrow_mut()[7..7 + end - from].copy_from_slice(&frame[from..end]);
            let more = if end < frame.len() { flag::transmit::MORE_DATA } else { 0 };
            let flags = more | if from == 0 { flags } else { 0 };
            self.slot(TransmitRequest { reference: self.page(id).1, offset: 7, flags, id, size: size as u16 });
            from = end;
        }
    }

    /// Queues a slot as it is.
    pub fn slot(&mut self, slot: TransmitRequest) {
        let (page, front) = &mut self.transmit;
        assert!(front.write(page, &slot.encode()), "the ring is full");
        self.open.insert(slot.id, ());
    }

    /// Publishes what was queued, and takes the answers.
    pub fn turn(&mut self) {
        let (page, front) = &mut self.transmit;
        let _ = front.publish(page);
        let mut raw = [0; 4];
        while front.take(page, &mut raw).unwrap() {
            let id = u16::from_le_bytes([raw[0], raw[1]]);
            assert!(self.open.remove(&id).is_some(), "{id} was answered twice");
            self.answers.push(i16::from_le_bytes([raw[2], raw[3]]));
        }
    }

    /// Posts receive buffers.
    pub fn post(&mut self, count: usize) {
        let (page, front) = &mut self.receive;
        for _ in 0..count {
            let id = self.buffer % 256;
            if !front.write(page, &ReceiveRequest { id, reference: RECEIVE_PAGES + u32::from(id) }.encode()) {
                break;
            }
            self.buffer += 1;
            self.posted.push_back(id);
        }
        let _ = front.publish(page);
    }

    /// Takes the frames that came, each with the flags of its first slot. Failed buffers are skipped.
    pub fn frames(&mut self) -> Vec<(Vec<u8>, u16)> {
        let (page, front) = &mut self.receive;
        let (mut frames, mut raw) = (Vec::new(), [0; 8]);
        while front.take(page, &mut raw).unwrap() {
            let response = ReceiveResponse::parse(&raw);
            assert_eq!(Some(response.id), self.posted.pop_front(), "an answer in the wrong place");
            if response.status < 0 {
                continue;
            }
            let buffer = &self.board.pages.borrow()[&(self.number, RECEIVE_PAGES + u32::from(response.id))];
            let (from, to) = (response.offset as usize, response.offset as usize + response.status as usize);
            self.half.extend_from_slice(&buffer.bytes.borrow()[from..to]);
            if response.flags & flag::receive::MORE_DATA == 0 {
                frames.push((core::mem::take(&mut self.half), response.flags));
            }
        }
        frames
    }
}

/// The address of a guest.
pub fn mac(number: u16) -> Mac {
    [2, 0, 0, 0, 0, number as u8]
}

/// A frame with a number in it, and a payload that follows from it.
pub fn frame(to: Mac, from: Mac, number: u32, length: usize) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.extend_from_slice(&number.to_be_bytes());
    let start = frame.len();
    frame.resize(length.max(start), 0);
    for (at, byte) in frame.iter_mut().enumerate().skip(start) {
        *byte = (at as u32).wrapping_mul(31).wrapping_add(number) as u8;
    }
    frame
}

/// The number in a frame, if the frame is whole.
pub fn number(found: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(found.get(14..18)?.try_into().ok()?);
    let (to, from) = (found[..6].try_into().ok()?, found[6..12].try_into().ok()?);
    (frame(to, from, number, found.len()) == found).then_some(number)
}

/// The domain, its machine, its guests and its wire.
pub struct World {
    pub board: Board,
    pub domain: Backend<Network<Board>, ()>,
    pub guests: Vec<Guest>,
    pub wire: Rc<WireState>,
}

pub const ALL: Offload = Offload { checksum: true, scatter_gather: true };

impl World {
    pub fn new(offloads: &[Offload]) -> World {
        let (board, wire) = (Board::new(), Rc::new(WireState::default()));
        let guests = offloads.iter().enumerate().map(|(number, &offload)| Guest::new(&board, number as u16, offload));
        let guests = guests.collect();
        let mut world = World { domain: domain(&board, &wire), board, guests, wire };
        world.attach();
        world
    }

    fn attach(&mut self) {
        for guest in &self.guests {
            let answer = self.domain.obey(guest.attach(), ());
            let dead = self.board.fuse.get() == 0;
            assert!(dead || matches!(answer, Some(FromDomain::NetworkAttached { .. })), "{answer:?}");
        }
    }

    /// The domain dies, if it has not, and comes back.
    pub fn restart(&mut self) {
        self.restart_at(None);
    }

    /// The same, to die again after so many stores.
    pub fn restart_at(&mut self, stores: Option<u64>) {
        self.board.fuse.set(stores.unwrap_or(u64::MAX));
        self.domain = domain(&self.board, &self.wire);
        self.attach();
    }

    /// Turns of everybody, until the domain wants to sleep.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.guests.iter_mut().for_each(Guest::turn);
            if !self.domain.turn() {
                break;
            }
        }
        self.guests.iter_mut().for_each(Guest::turn);
    }
}

fn domain(board: &Board, wire: &Rc<WireState>) -> Backend<Network<Board>, ()> {
    let own = || Memory::new(4096).with(&board.fuse, 0);
    let network = Network::new(Some(Box::new(TestWire::new(wire, board))), PLACES as u16, own(), own());
    Backend::new(board.clone(), network, 0)
}
