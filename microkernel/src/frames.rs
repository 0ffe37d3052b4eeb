//! The frame table: the one owner of every frame of RAM, and what it is used for.
//!
//! Memory is counted before it is taken: a domain has a number of frames set aside, the sum of which never exceeds what
//! there is, so a frame that is owed can always be given. Frames are scrubbed when they are given back (or, when nobody had
//! them yet, when first taken): a frame that changes hands is zero. Free ones are kept together in [blocks](crate::vm::blocks).

use core::ops::Range;

use protocol::domain::MAX_DOMAINS;
use protocol::layout::PAGE_SHIFT;

use crate::prelude::*;
use crate::table::{PerSlot, Table};
use crate::vm::blocks::Free;

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Kind(u8);

impl Kind {
    /// Not managed: the core's own, or no RAM.
    pub const RESERVED: Kind = Kind(0);
    /// Nobody's.
    pub const FREE: Kind = Kind(1);
    /// Mapped in its owner's address space; may be granted.
    pub const MEMORY: Kind = Kind(2);
    /// Mapped in its owner's address space; may not be granted.
    pub const PRIVATE: Kind = Kind(3);
    /// Page table, context or table of its owner; mapped nowhere, but for the grant table of a guest.
    pub const OBJECT: Kind = Kind(4);
    /// Taken from its owner's address space, which other CPUs may still have cached.
    pub const PARKED: Kind = Kind(5);
    /// Taken from its owner's address space, still mapped by others.
    pub const ORPHAN: Kind = Kind(6);
    /// Mapped in its owner's address space, and devices may know where it lies; may be neither granted nor released.
    pub const DEVICE: Kind = Kind(7);
}

/// What the table says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Info {
    /// How often others hold it mapped; in a list of free or parked frames, the next one.
    pub count: u32,
    /// Its owner, unless it is reserved or free.
    pub owner: Slot,
    /// What it is used for.
    pub kind: Kind,
    /// In the first frame of a block, how many of the block's are in the list of free ones.
    pub(crate) free: u16,
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
    /// Blocks that were promised to it, and those of them that it can still take.
    pub blocks: (u32, u32),
}

/// End of a list of frames; no frame has this number.
pub const END: Frame = Frame(u32::MAX);

/// The frame table. Its entries, 8 bytes a frame, lie in RAM it was given.
pub struct Frames {
    table: Phys,
    /// Free frames, and blocks of them.
    pub(crate) free: Free,
    /// Frames managed.
    pub managed: u32,
    /// Of those, how many are set aside for domains.
    pub set_aside: u32,
    /// How many are charged to domains.
    pub used: u32,
    /// How many wait for a flush.
    pub parked: u32,
    /// The accounts of the domains.
    pub accounts: PerSlot<Account>,
}

impl Frames {
    /// A table of no frames.
    pub const fn new() -> Frames {
        Frames {
            table: Phys(0),
            free: Free::NONE,
            managed: 0,
            set_aside: 0,
            used: 0,
            parked: 0,
            accounts: Table([Account { set_aside: 0, used: 0, mapped: 0, blocks: (0, 0) }; MAX_DOMAINS]),
        }
    }

    /// Takes over the RAM in these byte ranges, except for frame 0, and makes the table: for all of it, and for everything
    /// below the address `reserved`. Gives false if there is no room for the table.
    pub fn manage(&mut self, m: &impl Memory, ram: &[Range<u64>], reserved: u64) -> bool {
        let number = |address: u64| (address >> PAGE_SHIFT).clamp(1, END.0 as u64) as u32;
        let frames = |bytes: &Range<u64>| number(bytes.start.saturating_add(PAGE_SIZE - 1))..number(bytes.end);
        let last = ram.iter().fold(number(reserved), |last, range| last.max(frames(range).end));
        let size = (last as u64 + 1).div_ceil(PAGE_SIZE / 8) as usize;
        let Some(place) = ram.iter().map(frames).find(|range| range.len() > size) else { return false };
        self.table = Frame(place.start).at(0);
        place.clone().take(size).for_each(|frame| m.zero(Frame(frame)));
        // What lies lowest comes first into use.
        for mut range in ram.iter().rev().map(frames) {
            range.start += if range.start == place.start { size as u32 } else { 0 };
            self.managed += range.len() as u32;
            self.add(m, range);
        }
        true
    }

    fn entry(&self, frame: Frame) -> Phys {
        Phys(self.table.0 + 8 * frame.0 as u64)
    }

    /// What the table says about `frame`.
    #[inline]
    pub fn info(&self, m: &impl Memory, frame: Frame) -> Info {
        zerocopy::transmute!(m.load(self.entry(frame)))
    }

    pub(crate) fn set(&self, m: &impl Memory, frame: Frame, info: Info) {
        m.store(self.entry(frame), zerocopy::transmute!(info));
    }

    /// Changes what a frame of a domain is used for.
    pub fn change(&self, m: &impl Memory, frame: Frame, kind: Kind) {
        self.set(m, frame, Info { kind, ..self.info(m, frame) });
    }

    /// Frames that a domain can still take.
    pub fn available(&self, owner: Slot) -> u64 {
        (self.accounts[owner].set_aside - self.accounts[owner].used) as u64
    }

    /// Sets `pages` frames aside for a domain, instead of what was set aside before.
    pub fn set_aside(&mut self, owner: Slot, pages: u64) -> Result<()> {
        let account = &mut self.accounts[owner];
        let others = self.set_aside - account.set_aside;
        if pages < account.used as u64 {
            return Err(Error::Busy);
        }
        if pages > (self.managed - others) as u64 {
            return Err(Error::NoMemory);
        }
        account.set_aside = pages as u32;
        self.set_aside = others + pages as u32;
        self.bound_promise(owner);
        Ok(())
    }

    /// Takes a zeroed frame for `owner`.
    pub fn take(&mut self, m: &impl Memory, owner: Slot, kind: Kind) -> Result<Frame> {
        if self.available(owner) == 0 {
            return Err(Error::NoMemory);
        }
        let frame = self.take_free(m).ok_or(Error::NoMemory)?;
        self.charge(m, frame, owner, kind);
        self.bound_promise(owner);
        Ok(frame)
    }

    /// Makes a frame that is no longer free a domain's.
    pub(crate) fn charge(&mut self, m: &impl Memory, frame: Frame, owner: Slot, kind: Kind) {
        self.accounts[owner].used += 1;
        self.used += 1;
        self.set(m, frame, Info { count: 0, owner, kind, ..self.info(m, frame) });
    }

    /// Gives a frame back, scrubbed. Nobody may have it mapped.
    pub fn give_back(&mut self, m: &impl Memory, frame: Frame) {
        let info = self.info(m, frame);
        m.zero(frame);
        self.accounts[info.owner].used -= 1;
        self.used -= 1;
        self.give(m, frame);
    }

    /// A frame left an address space of `owner` for good, and no CPU has it cached there: gives it back, or leaves it to
    /// those who still hold it mapped. A frame that was not the owner's is left alone.
    pub fn unmapped(&mut self, m: &impl Memory, frame: Frame, owner: Slot) {
        let info = self.info(m, frame);
        if info.kind == Kind::RESERVED || info.owner != owner {
            return;
        }
        match info.count {
            0 => self.give_back(m, frame),
            _ => self.set(m, frame, Info { kind: Kind::ORPHAN, ..info }),
        }
    }

    /// Puts a frame that nobody else holds mapped into a list, to be given back after a flush.
    pub fn park(&mut self, m: &impl Memory, list: &mut Frame, frame: Frame) {
        let info = self.info(m, frame);
        self.set(m, frame, Info { kind: Kind::PARKED, count: list.0, ..info });
        *list = frame;
        self.parked += 1;
    }

    /// Gives the frames of a list back.
    pub fn unpark(&mut self, m: &impl Memory, list: &mut Frame) {
        while *list != END {
            let frame = *list;
            *list = Frame(self.info(m, frame).count);
            self.parked -= 1;
            self.give_back(m, frame);
        }
    }

    /// Another domain maps the frame; or, with `unmaps`, has unmapped it, and the last one gives it back if its owner left.
    pub fn pin(&mut self, m: &impl Memory, frame: Frame, unmaps: bool) {
        let info = self.info(m, frame);
        // There are fewer mappings than frames times domains, far below 2^32.
        let count = if unmaps { info.count.saturating_sub(1) } else { info.count + 1 };
        self.set(m, frame, Info { count, ..info });
        let mapped = &mut self.accounts[info.owner].mapped;
        *mapped = *mapped + (count > 0) as u32 - (info.count > 0) as u32;
        if count == 0 && info.kind == Kind::ORPHAN {
            self.give_back(m, frame);
        }
    }
}

#[cfg(test)]
mod tests;
