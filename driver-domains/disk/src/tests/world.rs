//! The machine, as the disk domain sees it: memory of frontends, retained memory, ports, and a disk.
//!
//! Every effect that the domain has goes through a fuse: once it has burnt, nothing the domain does has an effect any more,
//! which is what a crash looks like from outside.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use protocol::error::{Error, Result as CallResult};
use protocol::event::Port;
use protocol::grant::{GrantRef, MAX_BATCH};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use protocol::ring::block::SECTOR;
use unikernel::backend::{DevicePages, Machine, Wanted};
use unikernel::event::Channel;
use unikernel::grant::{Access, DevicePage, Source};

use crate::disk::{Costs, Disk, Fault, Operation, Outcome, Piece, Properties};

/// Bytes of a page.
pub const PAGE: usize = PAGE_SIZE as usize;
/// Places in retained memory.
pub const PLACES: usize = 3;

/// A small generator, so that a failing run can be repeated from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Memory that several sides reach.
#[derive(Clone)]
pub struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    /// Of the domain, if it is the domain's view.
    fuse: Option<Rc<Cell<u64>>>,
}

impl Memory {
    pub fn new(size: usize) -> Memory {
        Memory { bytes: Rc::new(RefCell::new(vec![0; size])), fuse: None }
    }

    fn seen_by(&self, fuse: &Rc<Cell<u64>>) -> Memory {
        Memory { bytes: self.bytes.clone(), fuse: Some(fuse.clone()) }
    }
}

/// Burns a little; gives whether there was something left.
fn burn(fuse: &Cell<u64>) -> bool {
    let left = fuse.get();
    fuse.set(left.saturating_sub(1));
    left > 0
}

impl Shared for Memory {
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes.borrow()[offset..offset + 4].try_into().unwrap())
    }
    fn store_u32(&self, offset: usize, value: u32) {
        if self.fuse.as_deref().is_none_or(burn) {
            self.bytes.borrow_mut()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes.borrow()[offset..offset + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        // A copy can be torn by the crash.
        let count = match self.fuse.as_deref() {
            None => bytes.len(),
            Some(fuse) if !burn(fuse) => 0,
            Some(fuse) if fuse.get() == 0 => bytes.len() / 2,
            Some(_) => bytes.len(),
        };
        self.bytes.borrow_mut()[offset..offset + count].copy_from_slice(&bytes[..count]);
    }
    fn fence(&self) {}
}

/// A request as the disk got it.
#[derive(Clone, Debug)]
pub struct Submitted {
    pub tag: u32,
    pub operation: Operation,
    pub pieces: Vec<Piece>,
}

/// Everything outside the domain.
pub struct World {
    pub fuse: Rc<Cell<u64>>,
    /// Granted pages by peer and reference, and whether they may be written.
    pub pages: RefCell<BTreeMap<(u16, GrantRef), (Memory, bool)>>,
    records: Vec<Memory>,
    pub heartbeat: RefCell<BTreeMap<usize, u64>>,
    pub now: Cell<u64>,
    /// Notifications by port.
    pub notified: RefCell<BTreeMap<u32, u64>>,
    /// What each mapping of the domain is of.
    pub mapped: RefCell<BTreeMap<u32, (u16, GrantRef, Access)>>,
    next_mapping: Cell<u32>,
    pub grant_calls: Cell<u64>,
    /// The disk: its sectors, and what it was given.
    pub sectors: RefCell<Vec<[u8; SECTOR as usize]>>,
    pub submitted: RefCell<Vec<Submitted>>,
    pub done: RefCell<Vec<u32>>,
    pub properties: Cell<Properties>,
    pub flushes: Cell<u64>,
    pub stuck: Cell<bool>,
    pub resets: Cell<u64>,
}

impl World {
    pub fn new(sectors: u64) -> Rc<World> {
        let properties =
            Properties { sectors, sector_size: 512, read_only: false, cache: true, discard: true, pieces: 64 };
        Rc::new(World {
            fuse: Rc::new(Cell::new(u64::MAX)),
            pages: RefCell::default(),
            records: (0..PLACES).map(|_| Memory::new(crate::service::RECORD)).collect(),
            heartbeat: RefCell::default(),
            now: Cell::new(1),
            notified: RefCell::default(),
            mapped: RefCell::default(),
            next_mapping: Cell::new(1),
            grant_calls: Cell::new(0),
            sectors: RefCell::new(vec![[0; SECTOR as usize]; sectors as usize]),
            submitted: RefCell::default(),
            done: RefCell::default(),
            properties: Cell::new(properties),
            flushes: Cell::new(0),
            stuck: Cell::new(false),
            resets: Cell::new(0),
        })
    }

    pub fn alive(&self) -> bool {
        self.fuse.get() > 0
    }

    pub fn record(&self, connection: usize) -> &Memory {
        &self.records[connection]
    }

    pub fn grant(&self, peer: u16, reference: GrantRef, writable: bool) -> Memory {
        let memory = Memory::new(PAGE);
        self.pages.borrow_mut().insert((peer, reference), (memory.clone(), writable));
        memory
    }

    /// The disk carries out one of the requests it has. Whether the domain lives does not matter to it.
    pub fn work(&self, dice: &mut Dice) -> bool {
        if self.stuck.get() || self.submitted.borrow().is_empty() {
            return false;
        }
        let pick = dice.roll(self.submitted.borrow().len() as u64) as usize;
        let request = self.submitted.borrow_mut().remove(pick);
        self.execute(&request);
        self.done.borrow_mut().push(request.tag);
        true
    }

    fn execute(&self, request: &Submitted) {
        let (mut sector, write) = match request.operation {
            Operation::Read { sector } => (sector, false),
            Operation::Write { sector } => (sector, true),
            Operation::Flush => return self.flushes.set(self.flushes.get() + 1),
            Operation::Discard { sector, sectors } => {
                return self.sectors.borrow_mut()[sector as usize..(sector + sectors) as usize].fill([0; 512]);
            }
        };
        for piece in &request.pieces {
            let mapping = (piece.page / PAGE_SIZE) as u32;
            let (peer, reference, access) = self.mapped.borrow()[&mapping];
            assert!(write || access == Access::Write);
            let (memory, _) = self.pages.borrow()[&(peer, reference)].clone();
            let at = usize::from(piece.offset());
            assert!(at + piece.length() <= PAGE, "a piece crosses a page");
            assert_eq!(piece.source(), Source { peer, reference }, "two names of a piece");
            for offset in (0..piece.length()).step_by(SECTOR as usize) {
                let place = &mut self.sectors.borrow_mut()[sector as usize];
                match write {
                    true => memory.read(at + offset, place),
                    false => memory.write(at + offset, place),
                }
                sector += 1;
            }
        }
    }

    /// The domain is dead: the device may yet carry out some of what it has, then it is reset, and nothing is mapped any more.
    pub fn bury(&self, dice: &mut Dice) {
        for request in self.submitted.take() {
            if dice.roll(2) == 0 {
                self.execute(&request);
            }
        }
        self.done.take();
        self.mapped.take();
        self.fuse.set(u64::MAX);
    }
}

/// The domain's view.
pub struct Fake(pub Rc<World>);

impl Machine for Fake {
    type Page = Memory;
    type Record = Memory;

    fn map(&self, source: Source) -> CallResult<Memory> {
        match self.0.pages.borrow().get(&(source.peer, source.reference)) {
            Some((memory, true)) => Ok(memory.seen_by(&self.0.fuse)),
            _ => Err(Error::BadGrant),
        }
    }
    fn places(&self) -> usize {
        PLACES
    }
    fn record(&self, connection: u16, offset: usize, bytes: usize) -> Memory {
        assert_eq!((offset, bytes), (0, crate::service::RECORD));
        self.0.records[connection as usize].seen_by(&self.0.fuse)
    }
    fn pulse(&self, at: usize, value: u64) {
        self.0.heartbeat.borrow_mut().insert(at, value);
    }
    fn notify(&self, port: Port) {
        if burn(&self.0.fuse) {
            *self.0.notified.borrow_mut().entry(port.0).or_default() += 1;
        }
    }
    fn fired(&self, _: &Channel) -> bool {
        false
    }
    fn now(&self) -> u64 {
        self.0.now.get()
    }
    fn die(&self) {
        self.0.fuse.set(0);
    }
}

impl DevicePages for Fake {
    fn map_pages(&self, wanted: &[Wanted], found: &mut heapless::Vec<CallResult<DevicePage>, MAX_BATCH>) {
        assert!(!wanted.is_empty());
        self.0.grant_calls.set(self.0.grant_calls.get() + 1);
        for Wanted { source: Source { peer, reference }, access } in wanted {
            let page = match self.0.pages.borrow().get(&(*peer, *reference)) {
                Some((_, writable)) if *writable || *access == Access::Read => {
                    let mapping = self.0.next_mapping.replace(self.0.next_mapping.get() + 1);
                    self.0.mapped.borrow_mut().insert(mapping, (*peer, *reference, *access));
                    Ok(DevicePage { address: u64::from(mapping) * PAGE_SIZE, mapping })
                }
                _ => Err(Error::BadGrant),
            };
            found.push(page).unwrap();
        }
    }
    fn unmap_pages(&self, mappings: &[u32]) {
        assert!(mappings.len() <= MAX_BATCH);
        self.0.grant_calls.set(self.0.grant_calls.get() + 1);
        if self.0.alive() {
            for mapping in mappings {
                assert!(self.0.mapped.borrow_mut().remove(mapping).is_some(), "unmapped twice");
                let used = self.0.submitted.borrow();
                let used = used.iter().flat_map(|request| &request.pieces);
                let used: BTreeSet<u32> = used.map(|piece| (piece.page / PAGE_SIZE) as u32).collect();
                assert!(!used.contains(mapping), "unmapped while the device uses it");
            }
        }
    }
    fn copy(&self, from: Source, buffer: &mut [u8]) -> CallResult<()> {
        self.0.grant_calls.set(self.0.grant_calls.get() + 1);
        let pages = self.0.pages.borrow();
        let (memory, _) = pages.get(&(from.peer, from.reference)).ok_or(Error::BadGrant)?;
        memory.read(0, buffer);
        Ok(())
    }
}

/// The disk, as its driver offers it.
pub struct SimDisk {
    pub world: Rc<World>,
    known: u64,
}

impl SimDisk {
    pub fn new(world: Rc<World>) -> SimDisk {
        let known = world.properties.get().sectors;
        SimDisk { world, known }
    }
}

/// Requests that the disk takes.
const DEPTH: usize = 40;

impl Disk for SimDisk {
    fn properties(&self) -> Properties {
        self.world.properties.get()
    }
    fn room(&self) -> usize {
        DEPTH
            - self
                .world
                .submitted
                .borrow()
                .iter()
                .map(|one| self.costs().of(one.operation, one.pieces.len()))
                .sum::<usize>()
                .min(DEPTH)
    }
    fn costs(&self) -> Costs {
        Costs { request: 2, discard: 1 }
    }
    fn submit(&mut self, tag: u32, operation: Operation, pieces: &[Piece]) -> Outcome {
        assert!(self.costs().of(operation, pieces.len()) <= self.room());
        if self.world.alive() {
            self.world.submitted.borrow_mut().push(Submitted { tag, operation, pieces: pieces.to_vec() });
        }
        Ok(())
    }
    fn kick(&mut self) {}
    fn completed(&mut self) -> Result<Option<(u32, Outcome)>, Fault> {
        Ok(self.world.done.borrow_mut().pop().map(|tag| (tag, Ok(()))))
    }
    fn is_done(&self) -> bool {
        !self.world.done.borrow().is_empty()
    }
    fn rearm(&mut self) -> bool {
        self.is_done()
    }
    fn changed(&mut self) -> bool {
        let now = self.world.properties.get().sectors;
        core::mem::replace(&mut self.known, now) != now
    }
    fn start_reset(&mut self) {
        self.world.submitted.take();
        self.world.done.take();
    }
    fn is_reset(&mut self) -> Result<bool, Fault> {
        self.world.resets.set(self.world.resets.get() + 1);
        self.world.stuck.set(false);
        Ok(true)
    }
}
