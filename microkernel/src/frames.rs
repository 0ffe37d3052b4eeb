//! The frame table: the one owner of every frame of RAM, and what it is used for.
//!
//! Memory is counted before it is taken: a domain has a number of frames set aside, the sum of which never exceeds what
//! there is, so a frame that is owed can always be given. Frames are scrubbed when they are given back (or, when nobody had
//! them yet, when first taken): a frame that changes hands is zero.

use core::ops::Range;

use protocol::error::{Error, Result};
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

use crate::platform::{Frame, Memory, Phys};
use crate::slot::{PerSlot, Slot};

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Not managed: the core's own, or no RAM.
    Reserved = 0,
    /// Nobody's.
    Free = 1,
    /// Mapped in its owner's address space; may be granted.
    Memory = 2,
    /// Mapped in its owner's address space; may not be granted.
    Private = 3,
    /// Page table, context or table of its owner; mapped nowhere.
    Object = 4,
    /// Taken from its owner's address space, which other CPUs may still have cached.
    Parked = 5,
    /// Taken from its owner's address space, still mapped by others.
    Orphan = 6,
}

/// What the table says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is used for.
    pub kind: Kind,
    /// Its owner, unless it is reserved or free.
    pub owner: Slot,
    /// How often others hold it mapped; in a list of free or parked frames, the next one.
    pub count: u32,
}

/// The account of a domain, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Set aside for it.
    pub set_aside: u32,
    /// Charged to it.
    pub used: u32,
    /// Of those, how many others hold mapped.
    pub mapped: u32,
}

/// A list of parked frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked(u32);

impl Parked {
    /// No frames.
    pub const NONE: Parked = Parked(END);
}

/// End of a list of frames; no frame has this number.
const END: u32 = u32::MAX;
/// RAM ranges that are kept apart; a machine that has more loses the rest.
const RANGES: usize = 64;

/// The frame table. Its entries, 8 bytes a frame, lie in RAM it was given.
pub struct Frames {
    table: Phys,
    head: u32,
    untouched: [(u32, u32); RANGES],
    range: usize,
    managed: u32,
    set_aside: u32,
    used: u32,
    parked: u32,
    accounts: PerSlot<Account>,
}

impl Frames {
    /// A table of no frames.
    pub const fn new() -> Frames {
        Frames {
            table: Phys(0),
            head: END,
            untouched: [(0, 0); RANGES],
            range: 0,
            managed: 0,
            set_aside: 0,
            used: 0,
            parked: 0,
            accounts: PerSlot([Account { set_aside: 0, used: 0, mapped: 0 }; protocol::domain::MAX_DOMAINS]),
        }
    }

    /// Takes over the RAM in these byte ranges, except for frame 0, and makes the table: for all of it, and for everything
    /// below the address `reserved`. Gives false if there is no room for the table.
    pub fn manage(&mut self, m: &impl Memory, ram: &[Range<u64>], reserved: u64) -> bool {
        let pages = |range: &Range<u64>| {
            let end = (range.end >> PAGE_SHIFT).min(END as u64) as u32;
            (range.start.div_ceil(PAGE_SIZE).clamp(1, end.max(1) as u64) as u32, end)
        };
        for (slot, range) in self.untouched.iter_mut().zip(ram) {
            *slot = pages(range);
        }
        let limit = self.untouched.iter().map(|range| range.1 as u64).max().unwrap_or(0);
        let size = (limit.max(reserved >> PAGE_SHIFT) + 1).div_ceil(PAGE_SIZE / 8) as u32;
        let Some(place) = self.untouched.iter_mut().find(|range| range.1 - range.0 > size) else { return false };
        self.table = Frame(place.0).at(0);
        (place.0..place.0 + size).for_each(|frame| m.zero(Frame(frame)));
        place.0 += size;
        self.managed = self.untouched.iter().map(|range| range.1 - range.0).sum();
        true
    }

    fn entry(&self, frame: Frame) -> Phys {
        Phys(self.table.0 + 8 * frame.0 as u64)
    }

    /// What the table says about `frame`.
    pub fn info(&self, m: &impl Memory, frame: Frame) -> Info {
        let raw = m.load(self.entry(frame));
        let kind = match (raw >> 40) as u8 {
            1 => Kind::Free,
            2 => Kind::Memory,
            3 => Kind::Private,
            4 => Kind::Object,
            5 => Kind::Parked,
            6 => Kind::Orphan,
            _ => Kind::Reserved,
        };
        Info { kind, owner: Slot::new((raw >> 32) as usize & 0xff), count: raw as u32 }
    }

    fn set(&self, m: &impl Memory, frame: Frame, info: Info) {
        let raw = (info.kind as u64) << 40 | (info.owner.number() as u64) << 32 | info.count as u64;
        m.store(self.entry(frame), raw);
    }

    /// The account of a domain.
    pub fn account(&self, owner: Slot) -> Account {
        self.accounts[owner]
    }

    /// Frames that a domain can still take.
    pub fn available(&self, owner: Slot) -> u32 {
        let account = self.accounts[owner];
        account.set_aside - account.used
    }

    /// Frames managed.
    pub fn managed(&self) -> u32 {
        self.managed
    }

    /// Frames that nobody has set aside.
    pub fn pool(&self) -> u32 {
        self.managed - self.set_aside
    }

    /// Frames that are nobody's.
    pub fn free_frames(&self) -> u32 {
        self.managed - self.used
    }

    /// Frames that wait for a flush.
    pub fn parked(&self) -> u32 {
        self.parked
    }

    /// Sets `pages` frames aside for a domain, instead of what was set aside before.
    pub fn set_aside(&mut self, owner: Slot, pages: u64) -> Result<()> {
        let account = &mut self.accounts[owner];
        if pages < account.used as u64 {
            return Err(Error::Busy);
        }
        let others = self.set_aside - account.set_aside;
        if pages > (self.managed - others) as u64 {
            return Err(Error::NoMemory);
        }
        account.set_aside = pages as u32;
        self.set_aside = others + pages as u32;
        Ok(())
    }

    /// Takes a zeroed frame for `owner`.
    pub fn take(&mut self, m: &impl Memory, owner: Slot, kind: Kind) -> Result<Frame> {
        if self.available(owner) == 0 {
            return Err(Error::NoMemory);
        }
        let frame = Frame(self.head);
        let frame = if frame.0 != END {
            self.head = self.info(m, frame).count;
            frame
        } else {
            let (range, place) = self
                .untouched
                .iter_mut()
                .enumerate()
                .skip(self.range)
                .find(|(_, r)| r.0 < r.1)
                .ok_or(Error::NoMemory)?;
            self.range = range;
            place.0 += 1;
            m.zero(Frame(place.0 - 1));
            Frame(place.0 - 1)
        };
        self.accounts[owner].used += 1;
        self.used += 1;
        self.set(m, frame, Info { kind, owner, count: 0 });
        Ok(frame)
    }

    /// Gives a frame back, scrubbed. Nobody may have it mapped.
    pub fn give_back(&mut self, m: &impl Memory, frame: Frame) {
        let info = self.info(m, frame);
        if info.kind == Kind::Parked {
            self.parked -= 1;
        }
        m.zero(frame);
        self.set(m, frame, Info { kind: Kind::Free, owner: Slot::DOM0, count: self.head });
        self.head = frame.0;
        self.accounts[info.owner].used -= 1;
        self.used -= 1;
    }

    /// A frame left its owner's address space for good, and no CPU has it cached there: gives it back, or leaves it to those
    /// who still hold it mapped. Frames that were not the owner's to give are left alone.
    pub fn unmapped(&mut self, m: &impl Memory, frame: Frame, owner: Slot) {
        let info = self.info(m, frame);
        match info.kind {
            Kind::Memory | Kind::Private if info.owner != owner => {}
            Kind::Memory if info.count > 0 => self.set(m, frame, Info { kind: Kind::Orphan, ..info }),
            Kind::Memory | Kind::Private => self.give_back(m, frame),
            _ => {}
        }
    }

    /// Puts a frame that nobody else holds mapped into a list, to be given back after a flush.
    pub fn park(&mut self, m: &impl Memory, list: &mut Parked, frame: Frame) {
        let info = self.info(m, frame);
        self.set(m, frame, Info { kind: Kind::Parked, count: list.0, ..info });
        list.0 = frame.0;
        self.parked += 1;
    }

    /// Gives the frames of a list back.
    pub fn unpark(&mut self, m: &impl Memory, list: &mut Parked) {
        while list.0 != END {
            let frame = Frame(list.0);
            list.0 = self.info(m, frame).count;
            self.give_back(m, frame);
        }
    }

    /// Another domain maps the frame. Gives false if it cannot be counted any more.
    pub fn pin(&mut self, m: &impl Memory, frame: Frame) -> bool {
        let info = self.info(m, frame);
        let Some(count) = info.count.checked_add(1) else { return false };
        self.accounts[info.owner].mapped += (count == 1) as u32;
        self.set(m, frame, Info { count, ..info });
        true
    }

    /// Another domain has unmapped the frame; the last one gives it back if its owner left it.
    pub fn unpin(&mut self, m: &impl Memory, frame: Frame) {
        let info = self.info(m, frame);
        self.set(m, frame, Info { count: info.count - 1, ..info });
        if info.count == 1 {
            self.accounts[info.owner].mapped -= 1;
            if info.kind == Kind::Orphan {
                self.give_back(m, frame);
            }
        }
    }
}
