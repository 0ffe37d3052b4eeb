//! Address spaces: x86-64 page tables of four levels, in frames of the domain they belong to.
//!
//! A domain's own addresses lie below 2^39, so it uses one entry of its root; the upper half of every root is the core's.
//! Pages are never writable and executable at once. Leaves above the lowest level are [large pages](crate::vm::large).

use protocol::layout::USER_END;

use crate::frames::{Frames, Kind};
use crate::prelude::*;

/// The entry is valid.
pub const PRESENT: u64 = 1;
/// Writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Ring 3 may use it.
const USER: u64 = 1 << 2;
/// Not cached.
pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// In the place of an entry that leads to a lowest table: it is a page itself, as large as what the table would span.
pub const LARGE: u64 = 1 << 7;
/// Bits of an address that say which page of a large one.
const LARGE_MASK: u64 = (1 << TABLE_SHIFT) - (1 << LEAF);
/// Registers of a device, no RAM: the core itself never goes there. The processor ignores the bit.
pub const REGISTERS: u64 = 1 << 9;
/// Instructions may not be fetched.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bits of an entry that hold the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// log2 of what an entry spans in the root, and in the lowest table; a level lower it is [`STEP`] less.
const ROOT: u32 = 39;
const LEAF: u32 = 12;
const STEP: u32 = 9;
/// log2 of what an entry that leads to a lowest table spans.
pub const TABLE_SHIFT: u32 = LEAF + STEP;
/// What the entry of a page has to say so that it can be an entry of Intel's nested tables too: memory type 2 of the PAT, which
/// the shell makes write-back, accessed and dirty. There the same bits say write-back, whatever the guest wants. Because they
/// are set, the processor never changes the entry.
const NESTED: u64 = 1 << 4 | 1 << 5 | 1 << 6;
/// log2 of what an entry spans in the table below the root.
pub const WINDOW_SHIFT: u32 = ROOT - STEP;

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
    /// Read and write; a guest, which has the same table, may execute. An entry above it keeps the domain itself from that.
    Guest = PRESENT | USER | WRITE | NESTED,
}

/// An address space, by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space(pub Frame);

/// The frame an entry names.
pub const fn frame_of(entry: u64) -> Frame {
    Phys(entry & ADDRESS).frame()
}

/// The frames that an entry maps.
pub fn frames_of(entry: u64) -> impl Iterator<Item = Frame> {
    let (first, large) = (frame_of(entry).0, entry & LARGE != 0);
    (first..first + if large { 1 << STEP } else { (entry & PRESENT) as u32 }).map(Frame)
}

/// The entry for a page.
pub const fn leaf(frame: Frame, access: Access) -> u64 {
    frame.at(0).0 | access as u64
}

/// The entry for a table.
pub const fn table(frame: Frame) -> u64 {
    frame.at(0).0 | PRESENT | WRITE | USER
}

/// The entry for a page of registers.
pub const fn registers(at: u64) -> u64 {
    at | Access::Write as u64 | UNCACHED | REGISTERS
}

impl Space {
    /// Place of the entry for `address` in the table whose entries span `1 << lowest` bytes, or in the last one on the way
    /// there, and the log2 of what an entry spans there. The address is below [`USER_END`].
    #[inline]
    fn walk(self, m: &impl Memory, address: u64, lowest: u32) -> (Phys, u32) {
        let (mut table, mut shift) = (self.0, ROOT);
        loop {
            let at = table.at(((address >> shift) & 511) as usize * 8);
            if shift == lowest {
                return (at, shift);
            }
            let entry = m.load(at);
            if entry & (PRESENT | LARGE) != PRESENT {
                return (at, shift);
            }
            (table, shift) = (frame_of(entry), shift - STEP);
        }
    }

    /// Place of the lowest-level entry for `address`, if the tables above it exist.
    #[inline]
    pub fn entry(self, m: &impl Memory, address: u64) -> Option<Phys> {
        let (at, shift) = self.walk(m, address, LEAF);
        (shift == LEAF).then_some(at)
    }

    /// Place of the entry that leads to the lowest table for `address`, which is there.
    pub fn table_entry(self, m: &impl Memory, address: u64) -> Phys {
        self.walk(m, address, TABLE_SHIFT).0
    }

    /// What the domain reaches at `address`: the entry, 0 if there is nothing.
    #[inline]
    pub fn lookup(self, m: &impl Memory, address: u64) -> u64 {
        let entry = if address < USER_END { m.load(self.walk(m, address, LEAF).0) } else { 0 };
        if entry & LARGE == 0 { entry } else { (entry & !LARGE) + (address & LARGE_MASK) }
    }

    /// The frame of RAM the domain reaches at `address`, with write access if asked for.
    #[inline]
    pub fn translate(self, m: &impl Memory, address: u64, write: bool) -> Option<Frame> {
        let wanted = if write { PRESENT | WRITE } else { PRESENT };
        let entry = self.lookup(m, address);
        (entry & (wanted | REGISTERS) == wanted).then(|| frame_of(entry))
    }

    /// Tables that are missing for mapping `pages` pages from `address`.
    pub fn missing_tables(self, m: &impl Memory, address: u64, pages: u64) -> u64 {
        let (mut at, mut missing) = (address, 0);
        while at < address + pages * PAGE_SIZE {
            // A missing table is counted where it, or the range, begins.
            let above = (LEAF + STEP..=self.walk(m, at, LEAF).1).step_by(STEP as usize);
            missing += above.filter(|&shift| at == address || at.is_multiple_of(1 << shift)).count() as u64;
            at = ((at >> (LEAF + STEP)) + 1) << (LEAF + STEP);
        }
        missing
    }

    /// Makes [`leaf`] `entry` at `address`, where nothing is mapped, and tables as needed.
    pub fn map(self, m: &impl Memory, frames: &mut Frames, owner: Slot, address: u64, entry: u64) -> Result<()> {
        let lowest = if entry & LARGE == 0 { LEAF } else { TABLE_SHIFT };
        loop {
            let (at, shift) = self.walk(m, address, lowest);
            if shift == lowest {
                m.store(at, entry);
                return Ok(());
            }
            let guests = shift == WINDOW_SHIFT && entry & (WRITE | NO_EXECUTE) == WRITE;
            let guard = if guests { NO_EXECUTE } else { 0 };
            m.store(at, table(frames.take(m, owner, Kind::OBJECT)?) | guard);
        }
    }

    /// Unmaps the page at `address`, or the large one that begins there; gives the entry, 0 if there was nothing.
    pub fn unmap(self, m: &impl Memory, address: u64) -> u64 {
        let (at, _) = self.walk(m, address, LEAF);
        let entry = m.load(at);
        m.store(at, 0);
        entry
    }

    /// Takes apart what lies at `from`, tables included where the end of what they span is passed; gives the address to go on from,
    /// and the steps that it took, in units of looking at an entry. It may keep the tables, and pages that cannot be written. No CPU
    /// may have the address space loaded.
    pub fn clear(self, m: &impl Memory, frames: &mut Frames, owner: Slot, from: u64, keep: bool) -> (u64, u64) {
        /// Steps that scrubbing a frame is worth.
        const SCRUB: u64 = 64;
        let (at, mut shift) = self.walk(m, from, LEAF);
        let (entry, mut steps) = (m.load(at), 1);
        if entry & PRESENT != 0 && !(keep && entry & WRITE == 0) {
            m.store(at, 0);
            for frame in frames_of(entry).filter(|_| entry & REGISTERS == 0) {
                frames.unmapped(m, frame, owner);
                steps += SCRUB;
            }
        }
        let next = ((from >> shift) + 1) << shift;
        // The tables that end there, from the lowest up.
        while !keep && shift < ROOT && next.is_multiple_of(1 << (shift + STEP)) {
            shift += STEP;
            let (at, _) = self.walk(m, from, shift);
            frames.give_back(m, frame_of(m.load(at)));
            m.store(at, 0);
            steps += SCRUB;
        }
        (next, steps)
    }
}

#[cfg(test)]
mod tests;
