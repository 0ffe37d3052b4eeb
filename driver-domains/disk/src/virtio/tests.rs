//! The driver against a device that follows the specification, until it is told not to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;

use protocol::ring::Shared;
use virtio::transport::Structures;

use super::*;

/// Sectors of the disk.
const SECTORS: u64 = 100;
/// Where the driver's memory begins for the device, and where pages of guests do.
const MEMORY: u64 = 0x10_0000;
const GUEST: u64 = 0x100_0000;

/// Everything the device reaches: the driver's memory, then a guest's.
#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    fn slice(&self, address: u64, length: usize) -> core::ops::Range<usize> {
        let at = match address {
            GUEST.. => PAGES * 4096 + (address - GUEST) as usize,
            _ => (address - MEMORY) as usize,
        };
        at..at + length
    }
    fn get(&self, address: u64, length: usize) -> Vec<u8> {
        self.0.borrow()[self.slice(address, length)].to_vec()
    }
    fn set(&self, address: u64, bytes: &[u8]) {
        self.0.borrow_mut()[self.slice(address, bytes.len())].copy_from_slice(bytes);
    }
    fn half(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.get(address, 2).try_into().unwrap())
    }
}

impl Shared for Memory {
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.get(MEMORY + offset as u64, 4).try_into().unwrap())
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.set(MEMORY + offset as u64, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.get(MEMORY + offset as u64, out.len()));
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.set(MEMORY + offset as u64, bytes);
    }
    fn fence(&self) {}
}

impl Dma for Memory {
    fn load_u16(&self, offset: usize) -> u16 {
        self.half(MEMORY + offset as u64)
    }
    fn store_u16(&self, offset: usize, value: u16) {
        self.set(MEMORY + offset as u64, &value.to_le_bytes());
    }
    fn device_address(&self, offset: usize) -> u64 {
        MEMORY + offset as u64
    }
}

/// The registers: common configuration in BAR 0, the doorbell in BAR 1, the device's configuration in BAR 2.
struct Chip {
    memory: Memory,
    common: RefCell<BTreeMap<u32, u32>>,
    capacity: Cell<u64>,
    size: Cell<u16>,
    doorbells: Cell<u32>,
    disk: RefCell<Vec<u8>>,
    flushes: Cell<u32>,
    seen: Cell<u16>,
    used: Cell<u16>,
}

type Board = Rc<Chip>;

struct Pins(Board);

impl Pins {
    fn load(&self, Place { bar, offset }: Place) -> u32 {
        let chip = &self.0;
        match (bar, offset) {
            (0, 4) if chip.common.borrow().get(&0) == Some(&1) => 1,
            (0, 4) => (feature::SEG_MAX | feature::FLUSH | feature::DISCARD) as u32,
            (0, 24) if !chip.common.borrow().contains_key(&24) => chip.size.get().into(),
            (0, _) => chip.common.borrow().get(&offset).copied().unwrap_or(0),
            (2, config::CAPACITY) => chip.capacity.get() as u32,
            (2, config::SEG_MAX) => 254,
            (2, config::MAX_DISCARD_SECTORS) => 50,
            _ => 0,
        }
    }
    fn store(&self, Place { bar, offset }: Place, value: u32) {
        let chip = &self.0;
        if bar == 1 {
            return chip.doorbells.set(chip.doorbells.get() + 1);
        }
        if (offset, value) == (20, 0) {
            chip.common.borrow_mut().clear();
            chip.seen.set(0);
            chip.used.set(0);
        }
        chip.common.borrow_mut().insert(offset, value);
    }
}

impl Registers for Pins {
    fn read8(&self, place: Place) -> u8 {
        self.load(place) as u8
    }
    fn read16(&self, place: Place) -> u16 {
        self.load(place) as u16
    }
    fn read32(&self, place: Place) -> u32 {
        self.load(place)
    }
    fn write8(&self, place: Place, value: u8) {
        self.store(place, value.into());
    }
    fn write16(&self, place: Place, value: u16) {
        self.store(place, value.into());
    }
    fn write32(&self, place: Place, value: u32) {
        self.store(place, value);
    }
}

impl Chip {
    fn address(&self, at: u32) -> u64 {
        let common = self.common.borrow();
        u64::from(common[&at]) | u64::from(common[&(at + 4)]) << 32
    }

    /// Carries out everything it was shown.
    fn work(&self) {
        let (size, memory) = (self.common.borrow()[&24] as u16, &self.memory);
        let (descriptors, available, used) = (self.address(32), self.address(40), self.address(48));
        while self.seen.get() != memory.half(available + 2) {
            let head = memory.half(available + 4 + u64::from(self.seen.get() % size) * 2);
            let (mut at, mut chain) = (head, Vec::new());
            loop {
                let raw = memory.get(descriptors + u64::from(at) * 16, 16);
                let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
                let (flags, next) = (word(12) as u16, (word(12) >> 16) as u16);
                chain.push((u64::from(word(0)) | u64::from(word(4)) << 32, word(8) as usize, flags & 2 != 0));
                if flags & 1 == 0 {
                    break;
                }
                at = next;
            }
            self.execute(&chain);
            memory.set(
                used + 4 + u64::from(self.used.get() % size) * 8,
                &[head as u8, (head >> 8) as u8, 0, 0, 0, 0, 0, 0],
            );
            self.used.set(self.used.get().wrapping_add(1));
            memory.set(used + 2, &self.used.get().to_le_bytes());
            self.seen.set(self.seen.get().wrapping_add(1));
        }
    }

    fn execute(&self, chain: &[(u64, usize, bool)]) {
        let (header, outcome) = (chain[0], chain[chain.len() - 1]);
        assert_eq!((header.1, header.2, outcome.1, outcome.2), (16, false, 1, true));
        let raw = self.memory.get(header.0, 16);
        let kind = u32::from_le_bytes(raw[..4].try_into().unwrap());
        let mut at = u64::from_le_bytes(raw[8..].try_into().unwrap()) as usize * 512;
        let mut status = OKAY;
        for &(address, length, device_writes) in &chain[1..chain.len() - 1] {
            let range = at..at + length;
            at = range.end;
            match kind {
                kind::IN | kind::OUT => assert_eq!(device_writes, kind == kind::IN),
                _ => assert!(!device_writes),
            }
            match kind {
                _ if kind < 2 && range.end > self.disk.borrow().len() => status = 1,
                kind::IN => self.memory.set(address, &self.disk.borrow()[range]),
                kind::OUT => self.disk.borrow_mut()[range].copy_from_slice(&self.memory.get(address, length)),
                kind::DISCARD => {
                    let range = self.memory.get(address, 16);
                    let first = u64::from_le_bytes(range[..8].try_into().unwrap()) as usize;
                    let count = u32::from_le_bytes(range[8..12].try_into().unwrap()) as usize;
                    self.disk.borrow_mut()[first * 512..(first + count) * 512].fill(0);
                }
                other => panic!("type {other}"),
            }
        }
        self.flushes.set(self.flushes.get() + u32::from(kind == kind::FLUSH));
        self.memory.set(outcome.0, &[status]);
    }
}

fn machine(size: u16) -> (Board, Virtio<Pins, Memory>) {
    let memory = Memory(Rc::new(RefCell::new(vec![0; (PAGES + 64) * 4096])));
    let chip = Rc::new(Chip {
        memory: memory.clone(),
        common: RefCell::default(),
        capacity: Cell::new(SECTORS),
        size: Cell::new(size),
        doorbells: Cell::new(0),
        disk: RefCell::new((0..SECTORS as usize * 512).map(|at| (at / 512) as u8).collect()),
        flushes: Cell::new(0),
        seen: Cell::new(0),
        used: Cell::new(0),
    });
    let place = |bar| Place { bar, offset: 0 };
    let structures =
        Structures { common: place(0), notify: place(1), notify_multiplier: 4, status: place(3), device: place(2) };
    let driver = Virtio::new(Device::new(Pins(chip.clone()), structures), memory).unwrap();
    (chip, driver)
}

fn piece(page: u64, length: u32) -> Piece {
    Piece::own(GUEST + page * 4096, length as usize / 512)
}

/// Everything that is done.
fn done(driver: &mut Virtio<Pins, Memory>) -> Vec<(u32, bool)> {
    core::iter::from_fn(|| driver.completed().unwrap()).map(|(tag, outcome)| (tag, outcome.is_ok())).collect()
}

#[test]
fn many_requests_take_one_doorbell_and_go_where_they_should() {
    for size in [256, 128, 64, 200] {
        let (chip, mut driver) = machine(size);
        assert_eq!(driver.unusable(), None);
        assert_eq!(driver.properties().sectors, SECTORS);
        chip.memory.set(GUEST + 5 * 4096, &[0xee; 1024]);
        assert_eq!(driver.submit(1, Operation::Read { sector: 3 }, &[piece(0, 512), piece(1, 1024)]), Ok(()));
        assert_eq!(driver.submit(2, Operation::Write { sector: 50 }, &[piece(5, 1024)]), Ok(()));
        assert_eq!(driver.submit(3, Operation::Flush, &[]), Ok(()));
        assert_eq!(driver.submit(4, Operation::Discard { sector: 10, sectors: 2 }, &[]), Ok(()));
        let refused = driver.submit(5, Operation::Discard { sector: 10, sectors: 51 }, &[]).unwrap_err();
        assert_eq!(refused, Cause::Number("more sectors than the device discards at once", 51));
        assert_eq!(driver.submit(6, Operation::Read { sector: SECTORS }, &[piece(2, 512)]), Ok(()));
        assert!(!driver.is_done());
        driver.kick();
        driver.kick();
        assert_eq!(chip.doorbells.get(), 1);
        chip.work();
        assert!(driver.is_done());
        assert_eq!(done(&mut driver), [(1, true), (2, true), (3, true), (4, true), (6, false)]);
        assert_eq!(chip.memory.get(GUEST, 512), [3; 512]);
        assert_eq!(chip.memory.get(GUEST + 4096, 1024), [[4; 512], [5; 512]].concat());
        assert_eq!(chip.disk.borrow()[50 * 512..52 * 512], [0xee; 1024]);
        assert_eq!(chip.disk.borrow()[9 * 512..13 * 512], [[9; 512], [0; 512], [0; 512], [12; 512]].concat());
        assert_eq!(chip.flushes.get(), 1);
    }
}

#[test]
fn the_queue_is_filled_and_emptied_for_ever() {
    let (chip, mut driver) = machine(256);
    for round in 0..1000u32 {
        let mut tag = 0;
        let read = Operation::Read { sector: 1 };
        while driver.costs().of(read, 2) <= driver.room() {
            let outcome = driver.submit(tag, read, &[piece(0, 512), piece(1, 512)]);
            assert_eq!(outcome, Ok(()), "round {round}");
            tag += 1;
        }
        assert_eq!(tag, 64);
        assert_eq!(driver.submit(tag, Operation::Flush, &[]), Err(NO_ROOM));
        driver.kick();
        chip.work();
        assert_eq!(done(&mut driver).len(), 64);
    }
}

/// What every kind of request takes is known to the last descriptor: who is told that it fits is not refused.
#[test]
fn what_fits_is_taken() {
    let kinds = [
        Operation::Read { sector: 0 },
        Operation::Write { sector: 0 },
        Operation::Flush,
        Operation::Discard { sector: 0, sectors: 1 },
    ];
    for last in kinds {
        let pieces: Vec<Piece> = match last {
            Operation::Read { .. } | Operation::Write { .. } => vec![piece(0, 512)],
            _ => vec![],
        };
        for filled in 1..=28 {
            let (_, mut driver) = machine(32);
            let filling: Vec<Piece> = (0..filled).map(|page| piece(page, 512)).collect();
            assert_eq!(driver.submit(0, Operation::Read { sector: 0 }, &filling), Ok(()));
            let room = driver.room();
            let fits = driver.costs().of(last, pieces.len()) <= room;
            assert_eq!(driver.submit(1, last, &pieces).is_ok(), fits, "{last:?} with room for {room}");
        }
    }
}

#[test]
fn interrupts_are_asked_for_only_before_sleep() {
    let (chip, mut driver) = machine(256);
    let flags = |driver: &Virtio<Pins, Memory>| driver.memory.load_u16(places(256).available);
    assert_eq!(done(&mut driver), []);
    assert_eq!(flags(&driver), 1);
    assert_eq!(driver.submit(1, Operation::Flush, &[]), Ok(()));
    driver.kick();
    assert!(!driver.rearm());
    assert_eq!(flags(&driver), 0);
    chip.work();
    assert_eq!(done(&mut driver), [(1, true)]);
    assert_eq!(flags(&driver), 1);
    assert_eq!(driver.submit(2, Operation::Flush, &[]), Ok(()));
    driver.kick();
    chip.work();
    assert!(driver.rearm(), "it is done already");
}

#[test]
fn a_reset_forgets_what_was_under_way_and_a_lying_device_is_a_fault() {
    let (chip, mut driver) = machine(256);
    let read = |sector| Operation::Read { sector };
    assert!((0..50).all(|tag| driver.submit(tag, read(0), &[piece(0, 512)]).is_ok()));
    driver.kick();
    driver.start_reset();
    assert_eq!(driver.is_reset(), Ok(true));
    assert_eq!((driver.room(), driver.is_done()), (256, false));
    assert_eq!(driver.submit(9, Operation::Read { sector: 7 }, &[piece(3, 512)]), Ok(()));
    driver.kick();
    chip.work();
    assert_eq!(done(&mut driver), [(9, true)]);
    assert_eq!(chip.memory.get(GUEST + 3 * 4096, 512), [7; 512]);
    driver.memory.store_u16(places(256).used + 2, 77);
    assert!(driver.completed().is_err());
}

#[test]
fn the_table_is_read_and_a_new_size_is_noticed() {
    let (chip, mut driver) = machine(256);
    assert!(driver.ask_start());
    assert_eq!(driver.start_bytes(), Ok(None));
    chip.work();
    let bytes = driver.start_bytes().unwrap().unwrap();
    assert_eq!(bytes, chip.disk.borrow()[..TABLE_BYTES]);
    assert!(!driver.changed());
    chip.capacity.set(90);
    assert!(driver.changed() && !driver.changed());
    assert_eq!(driver.properties().sectors, 90);
}
