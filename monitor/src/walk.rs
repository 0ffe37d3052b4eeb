//! Guest-virtual addresses: a walk of the guest's own page tables, page by page.
//!
//! Hypercall arguments are virtual, and two neighbouring pages of a stack need not be neighbours in memory. Other vCPUs may
//! change tables and contents meanwhile: what is copied is copied once, and looked at afterwards.

use protocol::layout::PAGE_SIZE;
use protocol::vm::word;
use unikernel::vm::GuestMemory;

use crate::state::{CR0_PAGING, CR0_WRITE_PROTECT, CR4_PAE, CR4_PSE, EFER_LONG_ACTIVE, State};

/// Entry: something is there.
const PRESENT: u64 = 1 << 0;
/// Entry: it can be written.
const WRITABLE: u64 = 1 << 1;
/// Entry: it is a large page, not a table.
const LARGE: u64 = 1 << 7;
/// Entry and CR3: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The same in tables of 32-bit entries, and where the four entries of extended ones begin.
const LEGACY_ADDRESS: u64 = 0xffff_f000;
const EXTENDED_ROOT: u64 = 0xffff_ffe0;

/// The address leads nowhere, or not with this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPointer;

/// How addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    /// Not at all.
    Off,
    /// 32-bit entries in two levels; whether the upper one can hold large pages.
    Legacy { large: bool },
    /// 64-bit entries in three levels, for 32-bit addresses.
    Extended,
    /// 64-bit entries in four levels.
    Long,
}

/// The address space in which a vCPU runs, with the rights of a supervisor.
#[derive(Clone, Copy, Debug)]
pub struct Space<'m> {
    memory: &'m GuestMemory,
    paging: Paging,
    write_protect: bool,
    root: u64,
}

impl<'m> Space<'m> {
    /// That of this vCPU.
    pub fn new(memory: &'m GuestMemory, state: &impl State) -> Space<'m> {
        let (cr0, cr4) = (state.get(word::CR0), state.get(word::CR4));
        let paging = match (cr0 & CR0_PAGING != 0, state.get(word::EFER) & EFER_LONG_ACTIVE != 0) {
            (false, _) => Paging::Off,
            (true, true) => Paging::Long,
            _ if cr4 & CR4_PAE != 0 => Paging::Extended,
            _ => Paging::Legacy { large: cr4 & CR4_PSE != 0 },
        };
        Space { memory, paging, write_protect: cr0 & CR0_WRITE_PROTECT != 0, root: state.get(word::CR3) }
    }

    /// The guest-physical address behind a virtual one.
    pub fn translate(&self, address: u64, write: bool) -> Result<u64, BadPointer> {
        let narrow = u32::try_from(address).map_err(|_| BadPointer);
        match self.paging {
            Paging::Off => Ok(address),
            Paging::Legacy { large } => self.walk_legacy(narrow?, large, write),
            Paging::Extended => {
                // Its four entries have no rights.
                let table = (self.root & EXTENDED_ROOT) + u64::from(narrow? >> 30) * 8;
                let entry = self.memory.load_u64(table).map_err(|_| BadPointer)?;
                if entry & PRESENT == 0 {
                    return Err(BadPointer);
                }
                self.walk(entry & ADDRESS, 2, address, write)
            }
            // The upper half of the address repeats its last bit.
            Paging::Long if ((address << 16) as i64 >> 16) as u64 != address => Err(BadPointer),
            Paging::Long => self.walk(self.root & ADDRESS, 4, address, write),
        }
    }

    /// The last `levels` levels of 64-bit entries, from `table` on.
    fn walk(&self, mut table: u64, levels: u32, address: u64, write: bool) -> Result<u64, BadPointer> {
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let index = address >> shift & 0x1ff;
            let entry = self.memory.load_u64(table + index * 8).map_err(|_| BadPointer)?;
            self.check(entry, write)?;
            let offset = (1u64 << shift) - 1;
            match level {
                0 => return Ok(entry & ADDRESS | address & offset),
                1 | 2 if entry & LARGE != 0 => return Ok(entry & ADDRESS & !offset | address & offset),
                _ => table = entry & ADDRESS,
            }
        }
        Err(BadPointer)
    }

    fn walk_legacy(&self, address: u32, large: bool, write: bool) -> Result<u64, BadPointer> {
        let entry = |table: u64, index: u32| {
            let mut bytes = [0; 4];
            self.memory.read(table + u64::from(index) * 4, &mut bytes).map_err(|_| BadPointer)?;
            let entry = u32::from_le_bytes(bytes).into();
            self.check(entry, write)?;
            Ok(entry)
        };
        let upper: u64 = entry(self.root & LEGACY_ADDRESS, address >> 22)?;
        if large && upper & LARGE != 0 {
            // Bits 13 to 20 are bits 32 to 39 of the address.
            return Ok(upper & 0xffc0_0000 | (upper >> 13 & 0xff) << 32 | u64::from(address & 0x3f_ffff));
        }
        let lower: u64 = entry(upper & LEGACY_ADDRESS, address >> 12 & 0x3ff)?;
        Ok(lower & LEGACY_ADDRESS | u64::from(address & 0xfff))
    }

    /// Whether an entry leads on, for this access.
    fn check(&self, entry: u64, write: bool) -> Result<(), BadPointer> {
        let refused = write && self.write_protect && entry & WRITABLE == 0;
        if entry & PRESENT == 0 || refused { Err(BadPointer) } else { Ok(()) }
    }

    fn each_page(
        &self,
        address: u64,
        length: usize,
        write: bool,
        mut act: impl FnMut(u64, core::ops::Range<usize>) -> protocol::error::Result<()>,
    ) -> Result<(), BadPointer> {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64).ok_or(BadPointer)?;
            let now = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(length - done);
            act(self.translate(at, write)?, done..done + now).map_err(|_| BadPointer)?;
            done += now;
        }
        Ok(())
    }

    /// Copies bytes out of the guest.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), BadPointer> {
        self.each_page(address, out.len(), false, |at, part| self.memory.read(at, &mut out[part]))
    }

    /// Copies a structure of `N` bytes out of the guest.
    pub fn load<const N: usize>(&self, address: u64) -> Result<[u8; N], BadPointer> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes into the guest.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadPointer> {
        self.each_page(address, bytes.len(), true, |at, part| self.memory.write(at, &bytes[part]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FRAMES, Page, TABLES, memory};
    use proptest::prelude::*;
    use std::vec;

    fn guest() -> (GuestMemory, Page) {
        memory(FRAMES)
    }

    #[test]
    fn pages_are_found_one_by_one() {
        let (memory, state) = guest();
        let space = Space::new(&memory, &state);
        assert_eq!(space.translate(0x40_1234, true), Ok(0x8_e234));
        assert_eq!(space.translate(0x61_2345, false), Ok(0x21_2345));
        for (address, write) in [(0x61_2345, true), (0x41_0000, false), (0, false), (1 << 47, false), (u64::MAX, false)]
        {
            assert_eq!(space.translate(address, write), Err(BadPointer), "{address:#x}");
        }
        let bytes: vec::Vec<u8> = (0..6000).map(|at| at as u8).collect();
        space.write(0x40_0ff0, &bytes).unwrap();
        let mut out = vec![0; bytes.len()];
        space.read(0x40_0ff0, &mut out).unwrap();
        assert_eq!(out, bytes);
        memory.read(0x8_e000, &mut out[..16]).unwrap();
        assert_eq!(out[..16], bytes[16..32]);
        assert_eq!(space.read(0x40_ff00, &mut out), Err(BadPointer), "beyond the last page");
        assert_eq!(space.load::<4>(u64::MAX - 1), Err(BadPointer));
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        let (memory, state) = guest();
        state.set(word::CR0, 1);
        assert_eq!(Space::new(&memory, &state).translate(0x1234, true), Ok(0x1234));
    }

    #[test]
    fn tables_of_32_bit_kernels_are_walked() {
        let (memory, state) = guest();
        state.set(word::EFER, 0);
        let put = |at: u64, value: u64| memory.write(at, &value.to_le_bytes()).unwrap();
        // Extended: the third GiB, a page and a large page, of which one cannot be written.
        let root = TABLES + 0x4020;
        put(root + 3 * 8, (TABLES + 0x5000) | 1);
        put(TABLES + 0x5000, (TABLES + 0x6000) | 3);
        put(TABLES + 0x5008, 0x20_0000 | 0x81);
        put(TABLES + 0x6000 + 5 * 8, 0x7000 | 3);
        state.set(word::CR4, CR4_PAE);
        state.set(word::CR3, root | 0x18);
        let translate = |address, write| Space::new(&memory, &state).translate(address, write);
        assert_eq!(translate(0xc000_5123, true), Ok(0x7123));
        assert_eq!((translate(0xc020_0456, false), translate(0xc020_0456, true)), (Ok(0x20_0456), Err(BadPointer)));
        for address in [0xc000_4000, 0x5123, 0x1_c000_5123, u64::MAX] {
            assert_eq!(translate(address, false), Err(BadPointer), "{address:#x}");
        }
        // Legacy: 4 MiB at once, and a page.
        state.set(word::CR4, CR4_PSE);
        state.set(word::CR3, TABLES + 0x7000);
        put(TABLES + 0x7000 + 0x300 * 4, 0x40_0000 | 0x83 | (TABLES + 0x6003) << 32);
        put(TABLES + 0x6000 + 5 * 4, 0x9000 | 1);
        assert_eq!(translate(0xc012_3456, true), Ok(0x52_3456));
        assert_eq!((translate(0xc040_5678, false), translate(0xc040_5678, true)), (Ok(0x9678), Err(BadPointer)));
        state.set(word::CR4, 0);
        assert_eq!(translate(0xc012_3456, false), Err(BadPointer), "without large pages it is a table");
    }

    proptest! {
        /// Whatever the tables hold, a walk ends, and what it finds is read or refused.
        #[test]
        fn any_tables_end(entries in prop::collection::vec((0u64..2048, any::<u64>()), 0..64), root in any::<u64>(), address in any::<u64>(), length in 0usize..10_000) {
            let (memory, state) = guest();
            for (index, value) in entries {
                memory.write(TABLES + index * 8, &(value & 0x8000_0000_001f_ffff | 1).to_le_bytes()).unwrap();
            }
            state.set(word::CR3, root & 0x1f_ffff);
            let space = Space::new(&memory, &state);
            let mut out = vec![0; length];
            let _ = space.read(address, &mut out);
            let _ = space.write(address & 0x7f_ffff, &out);
        }
    }
}
