//! Address spaces: x86-64 page tables of four levels, in frames of the domain they belong to.
//!
//! A domain's own addresses lie below 2^39, so it uses one entry of its root; the upper half of every root is the core's.
//! Pages are never writable and executable at once. Only leaves at the lowest level are used.

use protocol::error::Result;
use protocol::layout::{PAGE_SIZE, USER_END};

use crate::frames::{Frames, Kind};
use crate::platform::{Frame, Memory, Phys};
use crate::slot::Slot;

/// The entry is valid.
pub const PRESENT: u64 = 1;
/// Writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Ring 3 may use it.
const USER: u64 = 1 << 2;
/// Instructions may not be fetched.
const NO_EXECUTE: u64 = 1 << 63;
/// Bits of an entry that hold the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a domain may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Access {
    /// Read.
    Read = PRESENT | USER | NO_EXECUTE,
    /// Read and write.
    Write = PRESENT | USER | NO_EXECUTE | WRITE,
    /// Read and execute.
    Execute = PRESENT | USER,
}

/// An address space, by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space(pub Frame);

/// The frame an entry names.
pub const fn frame_of(entry: u64) -> Frame {
    Phys(entry & ADDRESS).frame()
}

/// Place in `table` of the entry for `address`, whose entries span `1 << shift` bytes each.
const fn slot(table: Frame, address: u64, shift: u32) -> Phys {
    table.at(((address >> shift) & 511) as usize * 8)
}

impl Space {
    /// A new address space, empty but for the core's half, which it shares with `template`.
    pub fn create(m: &impl Memory, frames: &mut Frames, owner: Slot, template: Frame) -> Result<Space> {
        let root = frames.take(m, owner, Kind::Object)?;
        m.copy(template.at(2048), root.at(2048), 2048);
        Ok(Space(root))
    }

    /// Place of the lowest-level entry for `address`, if the tables above it exist. The address is below [`USER_END`].
    #[inline]
    fn entry(self, m: &impl Memory, address: u64) -> Option<Phys> {
        let mut table = self.0;
        for shift in [39, 30, 21] {
            let entry = m.load(slot(table, address, shift));
            if entry & PRESENT == 0 {
                return None;
            }
            table = frame_of(entry);
        }
        Some(slot(table, address, 12))
    }

    /// What the domain reaches at `address`: the entry, 0 if there is nothing.
    #[inline]
    pub fn lookup(self, m: &impl Memory, address: u64) -> u64 {
        if address >= USER_END {
            return 0;
        }
        let entry = self.entry(m, address).map_or(0, |at| m.load(at));
        if entry & PRESENT == 0 { 0 } else { entry }
    }

    /// The frame the domain reaches at `address`, with write access if asked for.
    #[inline]
    pub fn translate(self, m: &impl Memory, address: u64, write: bool) -> Option<Frame> {
        let wanted = if write { PRESENT | WRITE } else { PRESENT };
        let entry = self.lookup(m, address);
        (entry & wanted == wanted).then(|| frame_of(entry))
    }

    /// Tables that are missing for mapping `pages` pages from `address`.
    pub fn missing_tables(self, m: &impl Memory, address: u64, pages: u64) -> u64 {
        let end = address + pages * PAGE_SIZE;
        let mut missing = 0;
        let mut at = address;
        while at < end {
            let mut table = Some(self.0);
            for shift in [39, 30, 21] {
                let entry = table.map_or(0, |table| m.load(slot(table, at, shift)));
                // A missing table is counted where it, or the range, begins.
                let first = at == address || at & ((1 << shift) - 1) == 0;
                missing += (entry & PRESENT == 0 && first) as u64;
                table = (entry & PRESENT != 0).then(|| frame_of(entry));
            }
            at = (at | ((1 << 21) - 1)) + 1;
        }
        missing
    }

    /// Maps `frame` at `address`, where nothing is mapped, making tables as needed.
    pub fn map(
        self,
        m: &impl Memory,
        frames: &mut Frames,
        owner: Slot,
        address: u64,
        frame: Frame,
        access: Access,
    ) -> Result<()> {
        let mut table = self.0;
        for shift in [39, 30, 21] {
            let at = slot(table, address, shift);
            let entry = m.load(at);
            table = if entry & PRESENT != 0 {
                frame_of(entry)
            } else {
                let new = frames.take(m, owner, Kind::Object)?;
                m.store(at, new.at(0).0 | PRESENT | WRITE | USER);
                new
            };
        }
        m.store(slot(table, address, 12), frame.at(0).0 | access as u64);
        Ok(())
    }

    /// Unmaps the page at `address`; gives the frame that was there.
    pub fn unmap(self, m: &impl Memory, address: u64) -> Option<Frame> {
        let at = self.entry(m, address)?;
        let entry = m.load(at);
        m.store(at, 0);
        (entry & PRESENT != 0).then(|| frame_of(entry))
    }

    /// Takes apart what lies between `from` and `end`, tables included where their whole range is covered, until about
    /// `budget` steps are done; gives the address to go on from. No CPU may have the address space loaded.
    pub fn clear(
        self,
        m: &impl Memory,
        frames: &mut Frames,
        owner: Slot,
        mut from: u64,
        end: u64,
        budget: &mut u64,
    ) -> u64 {
        /// Steps that scrubbing a frame is worth, in units of looking at an entry.
        const SCRUB: u64 = 64;
        while from < end && *budget > 0 {
            let mut tables = [(Phys(0), self.0); 4];
            let mut level = 0;
            let mut shift = 39;
            while level < 3 {
                let at = slot(tables[level].1, from, shift);
                let entry = m.load(at);
                if entry & PRESENT == 0 {
                    break;
                }
                level += 1;
                shift -= 9;
                tables[level] = (at, frame_of(entry));
            }
            let mut steps = 1;
            if level == 3 {
                let at = slot(tables[3].1, from, 12);
                let entry = m.load(at);
                if entry & PRESENT != 0 {
                    m.store(at, 0);
                    frames.unmapped(m, frame_of(entry), owner);
                    steps += SCRUB;
                }
            }
            from = ((from >> shift) + 1) << shift;
            for (level, span) in [(3, 21), (2, 30), (1, 39)] {
                if tables[level].0 != Phys(0) && from & ((1 << span) - 1) == 0 {
                    m.store(tables[level].0, 0);
                    frames.give_back(m, tables[level].1);
                    steps += SCRUB;
                }
            }
            *budget = budget.saturating_sub(steps);
        }
        from
    }
}
