//! The driver against a disk that follows the standard, until it is told not to.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::vec;

use proptest::prelude::*;
use protocol::error::Error;

use super::*;

/// Sectors of the disk.
const SECTORS: usize = 100;
/// Status bits, as the standard has them.
const BUSY: u8 = 0x80;
const READY: u8 = 0x50;
const DATA: u8 = 0x08;
const ERROR: u8 = 0x01;

/// What a disk does that does not follow the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Nothing.
    None,
    /// Its status is always this one.
    Status(u8),
    /// It fails commands that move data, with this status.
    Fails(u8),
    /// It wants one sector more than it was asked for.
    More,
}

/// The disk.
struct Drive {
    sectors: RefCell<Vec<[u8; 512]>>,
    /// It takes addresses of 48 bits.
    wide: bool,
    /// Two bytes of each register: what was written last, and before.
    registers: RefCell<[[u8; 2]; 8]>,
    status: Cell<u8>,
    /// Readings of the status for which it is busy with a command; and those that are left.
    slow: Cell<u32>,
    busy: Cell<u32>,
    /// Words that the driver is to read, and sectors after them.
    out: RefCell<VecDeque<u16>>,
    next: RefCell<VecDeque<[u8; 512]>>,
    /// Words that the driver has written, and the sectors they go to.
    written: RefCell<Vec<u16>>,
    places: RefCell<VecDeque<usize>>,
    control: Cell<u8>,
    commands: RefCell<Vec<u8>>,
    rearmed: Cell<u32>,
    lie: Cell<Lie>,
}

impl Drive {
    fn new(wide: bool) -> Rc<Drive> {
        Rc::new(Drive {
            sectors: RefCell::new((0..SECTORS).map(|at| [at as u8; 512]).collect()),
            wide,
            registers: RefCell::default(),
            status: Cell::new(READY),
            slow: Cell::new(0),
            busy: Cell::new(0),
            out: RefCell::default(),
            next: RefCell::default(),
            written: RefCell::default(),
            places: RefCell::default(),
            control: Cell::new(2),
            commands: RefCell::default(),
            rearmed: Cell::new(0),
            lie: Cell::new(Lie::None),
        })
    }

    fn identity(&self) -> [u8; 512] {
        let mut page = [0; 512];
        let mut set = |word: usize, value: u16| page[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
        set(49, 1 << 9);
        set(83, if self.wide { 0x7400 } else { 0x5000 });
        set(60, SECTORS as u16);
        set(100, SECTORS as u16);
        page
    }

    fn command(&self, code: u8) {
        self.commands.borrow_mut().push(code);
        self.busy.set(self.slow.get());
        self.out.take();
        self.next.take();
        self.written.take();
        self.places.take();
        let wide = matches!(code, 0x24 | 0x34 | 0xea);
        let registers = *self.registers.borrow();
        let byte = |register: usize, age: usize| usize::from(registers[register][age]);
        let count = byte(2, 0) + if wide { byte(2, 1) << 8 } else { 0 };
        let first = byte(3, 0) | byte(4, 0) << 8 | byte(5, 0) << 16;
        let first = first
            | match wide {
                true => byte(3, 1) << 24 | byte(4, 1) << 32 | byte(5, 1) << 40,
                false => (byte(6, 0) & 0x0f) << 24,
            };
        let more = usize::from(self.lie.get() == Lie::More);
        let range = first..first + count + more;
        let inside = range.end <= SECTORS && (self.wide || !wide);
        self.status.set(match (code, self.lie.get()) {
            (0xec, _) => {
                self.next.borrow_mut().push_back(self.identity());
                READY | DATA
            }
            (_, Lie::Fails(status)) => status,
            (0x20 | 0x24, _) if inside => {
                self.next.borrow_mut().extend(&self.sectors.borrow()[range]);
                READY | DATA
            }
            (0x30 | 0x34, _) if inside => {
                self.places.borrow_mut().extend(range);
                READY | DATA
            }
            (0xe7 | 0xea, _) if self.wide || !wide => READY,
            _ => READY | ERROR,
        });
        self.load();
    }

    /// Gets the next sector ready.
    fn load(&self) {
        if let Some(sector) = self.next.borrow_mut().pop_front() {
            self.out.borrow_mut().extend(sector.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)));
        }
    }

    fn now(&self) -> u8 {
        match self.lie.get() {
            Lie::Status(status) => status,
            _ if self.busy.get() > 0 => BUSY,
            _ => self.status.get(),
        }
    }
}

impl Registers for Rc<Drive> {
    fn read(&self, register: u16) -> u8 {
        let now = self.now();
        match register {
            1 if now & ERROR != 0 => 0x10,
            7 => {
                self.busy.set(self.busy.get().saturating_sub(1));
                now
            }
            _ => self.registers.borrow()[usize::from(register)][0],
        }
    }

    fn write(&self, register: u16, value: u8) {
        if register == 7 {
            assert_eq!(self.now() & (BUSY | DATA), 0, "a command for a disk that is not ready");
            return self.command(value);
        }
        let pair = &mut self.registers.borrow_mut()[usize::from(register)];
        *pair = [value, pair[0]];
    }

    fn read_data(&self) -> u16 {
        let word = self.out.borrow_mut().pop_front();
        if self.out.borrow().is_empty() {
            self.load();
            self.busy.set(self.slow.get());
            self.status.set(if self.out.borrow().is_empty() { READY } else { READY | DATA });
        }
        word.unwrap_or(0xffff)
    }

    fn write_data(&self, value: u16) {
        let mut written = self.written.borrow_mut();
        written.push(value);
        if written.len() == 256 {
            let place = self.places.borrow_mut().pop_front();
            if let Some(place) = place.filter(|place| *place < SECTORS) {
                let bytes: Vec<u8> = written.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.sectors.borrow_mut()[place].copy_from_slice(&bytes);
            }
            written.clear();
            self.busy.set(self.slow.get());
            self.status.set(if self.places.borrow().is_empty() { READY } else { READY | DATA });
        }
    }

    fn alternate_status(&self) -> u8 {
        self.now()
    }

    fn control(&self, value: u8) {
        if value & 4 != 0 {
            self.status.set(READY);
            self.places.take();
            self.busy.set(self.slow.get());
        }
        self.control.set(value);
    }

    fn rearm(&self) {
        self.rearmed.set(self.rearmed.get() + 1);
    }
}

/// Pages of guests: those that are there.
#[derive(Clone, Default)]
struct Guest(Rc<RefCell<BTreeMap<u32, Vec<u8>>>>);

impl Guest {
    fn page(&self, reference: u32) -> Vec<u8> {
        self.0.borrow()[&reference].clone()
    }
}

impl Pages for Guest {
    fn read(&self, from: Source, offset: u16, out: &mut [u8]) -> CallResult<()> {
        let pages = self.0.borrow();
        let page = pages.get(&from.reference).ok_or(Error::BadGrant)?;
        out.copy_from_slice(&page[offset.into()..][..out.len()]);
        Ok(())
    }

    fn write(&self, to: Source, offset: u16, bytes: &[u8]) -> CallResult<()> {
        let mut pages = self.0.borrow_mut();
        let page = pages.get_mut(&to.reference).ok_or(Error::BadGrant)?;
        page[offset.into()..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

type Driver = Ata<Rc<Drive>, Guest>;

fn machine(wide: bool) -> (Rc<Drive>, Guest, Driver) {
    let (drive, guest) = (Drive::new(wide), Guest::default());
    guest.0.borrow_mut().extend((0..40).map(|reference| (reference, vec![0xee; 4096])));
    let mut driver = Ata::new(drive.clone(), guest.clone()).unwrap();
    begins(&drive, &mut driver);
    drive.commands.take();
    (drive, guest, driver)
}

/// The driver comes to know the disk, and its first bytes.
fn begins(drive: &Drive, driver: &mut Driver) {
    let begun = (0..1000).find_map(|_| driver.begin().unwrap());
    assert!(begun == Some(drive.sectors.borrow()[..TABLE_BYTES / 512].concat()));
}

fn piece(reference: u32, offset: u16, length: u32) -> Piece {
    let first = (offset / 512) as u8;
    Piece { peer: 1, reference, first, last: first + (length / 512) as u8 - 1, ..Piece::default() }
}

/// Everything that is done within so many looks, as far as there was no fault.
fn done(driver: &mut Driver, looks: usize) -> Vec<(u32, bool)> {
    let found = (0..looks).map_while(|_| driver.completed().ok()).flatten();
    found.map(|(tag, outcome)| (tag, outcome.is_ok())).collect()
}

#[test]
fn requests_go_where_they_should_on_disks_of_any_size() {
    for wide in [false, true] {
        let (drive, guest, mut driver) = machine(wide);
        let properties = driver.properties();
        assert_eq!((properties.sectors, properties.cache, properties.discard), (SECTORS as u64, true, false));
        assert_eq!(drive.control.get(), 0, "its interrupt is on");
        guest.0.borrow_mut().insert(5, vec![0x55; 4096]);
        let read = Operation::Read { sector: 3 };
        assert_eq!(driver.submit(1, read, &[piece(0, 512, 512), piece(1, 0, 4096)]), Ok(()));
        assert_eq!(driver.submit(2, Operation::Write { sector: 50 }, &[piece(5, 1024, 1024)]), Ok(()));
        assert_eq!(driver.submit(3, Operation::Flush, &[]), Ok(()));
        driver.kick();
        assert!(driver.is_done() && driver.rearm(), "nothing keeps it from going on");
        assert_eq!(done(&mut driver, 4), [(1, true), (2, true), (3, true)]);
        assert!(!driver.is_done() && !driver.rearm());
        assert_eq!(guest.page(0), [[0xee; 512].to_vec(), [3; 512].to_vec(), [0xee; 3072].to_vec()].concat());
        assert_eq!(guest.page(1), (4..12).flat_map(|sector| [sector; 512]).collect::<Vec<u8>>());
        let sectors = drive.sectors.borrow();
        assert_eq!([sectors[49][0], sectors[50][0], sectors[51][511], sectors[52][0]], [49, 0x55, 0x55, 52]);
        let commands = if wide { [0x24, 0x24, 0x34, 0xea] } else { [0x20, 0x20, 0x30, 0xe7] };
        assert_eq!(*drive.commands.borrow(), commands);
    }
}

#[test]
fn a_slow_disk_is_not_waited_for() {
    let (drive, _, mut driver) = machine(true);
    drive.slow.set(3);
    assert_eq!(driver.submit(1, Operation::Write { sector: 0 }, &[piece(0, 0, 1024)]), Ok(()));
    let mut looks = 0;
    while driver.completed().unwrap().is_none() {
        assert_eq!(drive.now() == BUSY, looks % 3 != 2, "it is looked at no sooner than it is ready");
        looks += 1;
    }
    assert_eq!(looks, 9, "three for the command and for each sector");
    assert_eq!(drive.sectors.borrow()[1], [0xee; 512]);
    let guest = Guest::default();
    drive.slow.set(5);
    let mut driver = Ata::new(drive.clone(), guest).unwrap();
    begins(&drive, &mut driver);
}

#[test]
fn much_work_is_done_in_parts() {
    let (_, guest, mut driver) = machine(true);
    let pieces: Vec<Piece> = (0..12).map(|page| piece(page, 0, 4096)).collect();
    for tag in 0..2 {
        assert_eq!(driver.submit(tag, Operation::Read { sector: 0 }, &pieces), Ok(()));
    }
    assert_eq!(driver.completed(), Ok(None), "more than one step moves");
    assert!(driver.is_done());
    assert_eq!(done(&mut driver, 4), [(0, true), (1, true)]);
    assert_eq!(guest.page(11), (88..96).flat_map(|sector| [sector; 512]).collect::<Vec<u8>>());
}

#[test]
fn what_cannot_be_done_is_refused_and_fails_alone() {
    let (drive, guest, mut driver) = machine(true);
    let (read, write) = (|sector| Operation::Read { sector }, |sector| Operation::Write { sector });
    let one = [piece(0, 0, 512)];
    assert!(driver.submit(0, read(SECTORS as u64), &one).is_err());
    assert!(driver.submit(0, write(u64::MAX), &one).is_err());
    assert!(driver.submit(0, Operation::Discard { sector: 0, sectors: 1 }, &[]).is_err());
    assert!(driver.submit(0, read(0), &[one[0]; SEGMENTS_MAX + 1]).is_err());
    assert_eq!(driver.room(), ROOM);

    // Pages that cannot be had: what was to be written is not, and what is read is thrown away.
    guest.0.borrow_mut().remove(&1);
    for (tag, operation) in [(1, write(7)), (2, read(7)), (3, read(8))] {
        assert_eq!(driver.submit(tag, operation, &[piece(if tag < 3 { 1 } else { 0 }, 0, 512)]), Ok(()));
    }
    assert_eq!(done(&mut driver, 4), [(1, false), (2, false), (3, true)]);
    assert_eq!(drive.sectors.borrow()[7], [7; 512]);

    // So many at once, and no more.
    assert!((0..DEPTH as u32).all(|tag| driver.submit(tag, Operation::Flush, &[]).is_ok()));
    assert_eq!(driver.room(), 0);
    assert!(driver.submit(99, Operation::Flush, &[]).is_err());
    assert_eq!(done(&mut driver, 2 * DEPTH).len(), DEPTH);

    drive.lie.set(Lie::Fails(READY | ERROR));
    assert_eq!(driver.submit(1, write(0), &one), Ok(()));
    assert_eq!(driver.completed(), Ok(Some((1, Err(Cause::Number("the disk answered with error", 0x10))))));
    drive.lie.set(Lie::None);
    assert_eq!(driver.submit(2, write(0), &one), Ok(()));
    assert_eq!(done(&mut driver, 2), [(2, true)]);
}

#[test]
fn where_there_is_no_disk_none_is_found() {
    for empty in [0xff, 0] {
        let drive = Drive::new(true);
        drive.lie.set(Lie::Status(empty));
        assert!(Ata::new(drive, Guest::default()).is_none());
    }
    // What does not answer, or is something else, is not used.
    for (lie, fault) in [(Lie::Status(BUSY | 0x50), false), (Lie::Status(READY | ERROR), true)] {
        let drive = Drive::new(true);
        drive.lie.set(lie);
        let mut driver = Ata::new(drive, Guest::default()).unwrap();
        let begun = (0..100).map(|_| driver.begin()).find(|begun| *begun != Ok(None));
        assert_eq!(begun.is_some_and(|begun| begun.is_err()), fault, "{lie:?}");
    }
}

#[test]
fn a_reset_in_the_middle_forgets_and_what_comes_after_it_is_whole() {
    let (drive, guest, mut driver) = machine(true);
    drive.slow.set(1);
    let request = [piece(0, 0, 2048)];
    assert_eq!(driver.submit(1, Operation::Write { sector: 10 }, &request), Ok(()));
    while drive.sectors.borrow()[11][0] != 0xee {
        assert_eq!(driver.completed(), Ok(None));
    }
    driver.start_reset();
    assert_eq!((driver.room(), driver.is_reset(), driver.is_reset()), (ROOM, Ok(false), Ok(true)));
    assert_eq!(done(&mut driver, 9), []);
    assert_eq!(driver.submit(2, Operation::Write { sector: 10 }, &request), Ok(()));
    assert_eq!(done(&mut driver, 99), [(2, true)]);
    assert_eq!(
        drive.sectors.borrow()[9..15].concat(),
        [[9; 512], [0xee; 512], [0xee; 512], [0xee; 512], [0xee; 512], [14; 512]].concat()
    );

    // A new life of the domain finds the disk in the middle of a command, too.
    assert_eq!(driver.submit(3, Operation::Read { sector: 10 }, &request), Ok(()));
    (0..3).for_each(|_| assert_eq!(driver.completed(), Ok(None)));
    let mut next = Ata::new(drive.clone(), guest).unwrap();
    begins(&drive, &mut next);
}

#[test]
fn a_disk_that_breaks_the_rules_is_at_fault() {
    for (lie, fault) in [
        (Lie::Status(READY | DATA), true),
        (Lie::Status(READY), true),
        (Lie::Fails(READY | ERROR | DATA), true),
        (Lie::Fails(READY), true),
        (Lie::More, true),
        // Nothing ever comes of it: dom0 is told since when, by the service.
        (Lie::Status(0xff), false),
        (Lie::Status(BUSY), false),
    ] {
        let (drive, guest, mut driver) = machine(true);
        assert_eq!(driver.submit(1, Operation::Read { sector: 0 }, &[piece(0, 0, 512)]), Ok(()));
        drive.lie.set(lie);
        let outcomes: Vec<_> = (0..10).map(|_| driver.completed()).collect();
        assert_eq!(outcomes.iter().any(|outcome| outcome.is_err()), fault, "{lie:?}");
        assert!(outcomes.iter().all(|outcome| !matches!(outcome, Ok(Some((_, Ok(())))))), "{lie:?}");
        assert_eq!(guest.page(0), [0xee; 4096], "{lie:?}");
        drive.lie.set(Lie::None);
        driver.start_reset();
        assert_eq!(driver.is_reset(), Ok(true));
        assert_eq!(driver.submit(2, Operation::Read { sector: 0 }, &[piece(0, 0, 512)]), Ok(()));
        assert_eq!(done(&mut driver, 2), [(2, true)]);
    }
}

/// A disk whose registers say anything.
struct Noise(RefCell<VecDeque<u8>>);

impl Noise {
    fn next(&self) -> u8 {
        let mut list = self.0.borrow_mut();
        let byte = list.pop_front().unwrap_or(0);
        list.push_back(byte);
        byte
    }
}

impl Registers for Noise {
    fn read(&self, _: u16) -> u8 {
        self.next()
    }
    fn write(&self, _: u16, _: u8) {}
    fn read_data(&self) -> u16 {
        u16::from_le_bytes([self.next(), self.next()])
    }
    fn write_data(&self, _: u16) {}
    fn alternate_status(&self) -> u8 {
        self.next()
    }
    fn control(&self, _: u8) {}
    fn rearm(&self) {}
}

proptest! {
    /// Whatever it says, it is bounded work, and each request has at most one outcome.
    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 1..600), write: bool) {
        let guest = Guest::default();
        guest.0.borrow_mut().insert(0, vec![0; 4096]);
        let Some(mut driver) = Ata::new(Noise(RefCell::new(noise.into())), guest) else { return Ok(()) };
        for _ in 0..10 {
            if driver.begin().is_err() {
                break;
            }
        }
        driver.identity.sectors = driver.identity.sectors.max(SECTORS as u64);
        let operation = if write { Operation::Write { sector: 1 } } else { Operation::Read { sector: 1 } };
        let mut answers = 0;
        for tag in 0..3 {
            prop_assert_eq!(driver.submit(tag, operation, &[piece(0, 0, 2048)]), Ok(()));
        }
        for _ in 0..30 {
            match driver.completed() {
                Ok(Some((tag, _))) => {
                    prop_assert_eq!(tag, answers);
                    answers += 1;
                }
                Ok(None) => {}
                Err(_) => {
                    driver.start_reset();
                    prop_assert_eq!(driver.room(), ROOM);
                    break;
                }
            }
        }
        prop_assert!(answers <= 3);
    }
}
