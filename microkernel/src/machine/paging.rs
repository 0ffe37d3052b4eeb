//! The core's own page tables, built once at boot.
//!
//! The upper half of every address space: the window to physical memory, the areas of the CPUs and the core itself, each
//! page either writable or executable. Nothing maps the core's text or constants writable. The lower half is empty; the safe
//! core fills it in the tables of the domains.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::Phys;
use microkernel::space::{self, NO_EXECUTE, PRESENT, UNCACHED, frame_of};

use super::boot::EARLY_END;
use super::boot::ranges::Ranges;
use super::{cpu, window};

/// Where the core is linked, above its load address; also written in `core.ld`.
pub const CORE_BASE: u64 = 0xffff_ffff_8000_0000;

/// Size of a frame, in bytes.
pub const FRAME: u64 = 4096;

/// Read only.
pub const READ: u64 = NO_EXECUTE;
/// Readable and executable.
pub const EXECUTE: u64 = 0;
/// Writable.
pub const WRITE: u64 = space::WRITE | NO_EXECUTE;
/// Registers of a device: writable, not cached.
pub const DEVICE: u64 = WRITE | UNCACHED;

const LARGE: u64 = 1 << 7;

/// What an entry of a table of level 1 can map as one page.
const LARGE_PAGE: u64 = 2 << 20;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static text_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static data_end: u8;
}

/// Physical addresses that the core was loaded to, in whole frames.
pub fn image() -> Range<u64> {
    (&raw const image_start) as u64..((&raw const image_end) as u64)
}

/// Addresses of code.
pub fn text() -> Range<u64> {
    (&raw const text_start) as u64..(&raw const rodata_start) as u64
}

/// Physical address of the root of the core's own address space; the entry code of other CPUs loads it.
pub static CORE_ROOT: AtomicU64 = AtomicU64::new(0);

/// Page tables under construction, and the memory they are made of.
pub struct Tables {
    /// Physical address of the root.
    pub root: u64,
    /// Memory nobody uses yet.
    pub free: Ranges,
}

impl Tables {
    /// Tables that map the core and `ram` in the window, made from the low part of `free`.
    pub fn new(free: Ranges, ram: &Ranges) -> Result<Tables, &'static str> {
        let mut tables = Tables { root: 0, free };
        tables.root = tables.take(FRAME)?;
        for range in ram.as_slice() {
            tables.map(window::BASE + range.start, range.start, range.end - range.start, WRITE)?;
        }
        let sections = [
            (text(), EXECUTE),
            ((&raw const rodata_start) as u64..(&raw const data_start) as u64, READ),
            ((&raw const data_start) as u64..(&raw const data_end) as u64, WRITE),
        ];
        for (range, access) in sections {
            tables.map(range.start, range.start - CORE_BASE, range.end - range.start, access)?;
        }
        Ok(tables)
    }

    /// Takes zeroed memory that the early tables reach.
    pub fn take(&mut self, length: u64) -> Result<u64, &'static str> {
        let at = self.free.take(length, EARLY_END).ok_or("not enough memory below 4 GiB")?;
        // SAFETY: free RAM below 4 GiB, so it is mapped by early and final tables and nothing lies in it.
        unsafe { core::ptr::write_bytes(window::pointer::<u8>(Phys(at)), 0, length as usize) };
        Ok(at)
    }

    /// Maps addresses of the upper half. What is mapped already stays as it is.
    pub fn map(&mut self, virt: u64, phys: u64, length: u64, access: u64) -> Result<(), &'static str> {
        let mut done = 0;
        while done < length {
            let (virt, phys) = (virt + done, phys + done);
            let large = (virt | phys).is_multiple_of(LARGE_PAGE) && length - done >= LARGE_PAGE;
            let (last, page) = if large { (1, phys | access | LARGE) } else { (0, phys | access) };
            let mut table = self.root;
            for level in (last..4).rev() {
                let at = window::pointer::<u64>(Phys(table + (virt >> (12 + 9 * level) & 511) * 8));
                // SAFETY: an entry of a table that this type made from its own memory and nobody else writes.
                let mut entry = unsafe { at.read_volatile() };
                if entry & PRESENT == 0 {
                    entry = PRESENT | if level == last { page } else { self.take(FRAME)? | space::WRITE };
                    // SAFETY: as above; the address was not mapped before, so no translation becomes stale.
                    unsafe { at.write_volatile(entry) };
                }
                if level == last || entry & LARGE != 0 {
                    let size = FRAME << (9 * level);
                    done += size - virt % size;
                    break;
                }
                table = frame_of(entry).at(0).0;
            }
        }
        Ok(())
    }

    /// Makes sure that the window reaches these addresses, with `access` where it did not.
    pub fn reach(&mut self, phys: u64, length: u64, access: u64) -> Result<(), &'static str> {
        let start = phys & !(FRAME - 1);
        let end = phys
            .checked_add(length)
            .filter(|end| *end <= window::SIZE)
            .ok_or("a firmware table lies beyond all memory")?;
        self.map(window::BASE + start, start, end.next_multiple_of(FRAME) - start, access)
    }

    /// Loads the tables on this CPU, the first one; the others find them when they start.
    pub fn activate(&self) {
        CORE_ROOT.store(self.root, Relaxed);
        // SAFETY: the tables map the core and everything it uses at the same addresses as the early ones.
        unsafe { cpu::set_root(self.root) };
    }
}
