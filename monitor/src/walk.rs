//! Guest-virtual addresses: a walk of the guest's own page tables, page by page.
//!
//! Hypercall arguments are virtual, and two neighbouring pages of a stack need not be neighbours in memory. Other vCPUs may
//! change tables and contents meanwhile: what is copied is copied once, and looked at afterwards.

use protocol::layout::PAGE_SIZE;
use protocol::vm::word;
use unikernel::vm::GuestMemory;

use crate::state::{CR0_PAGING, CR0_WRITE_PROTECT, EFER_LONG_ACTIVE, State};

/// Entry: something is there.
const PRESENT: u64 = 1 << 0;
/// Entry: it can be written.
const WRITABLE: u64 = 1 << 1;
/// Entry: it is a large page, not a table.
const LARGE: u64 = 1 << 7;
/// Entry and CR3: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The address leads nowhere, or not with this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPointer;

/// The address space in which a vCPU runs, with the rights of a supervisor.
#[derive(Clone, Copy, Debug)]
pub struct Space<'m> {
    memory: &'m GuestMemory,
    paging: bool,
    write_protect: bool,
    long: bool,
    root: u64,
}

impl<'m> Space<'m> {
    /// That of this vCPU.
    pub fn new(memory: &'m GuestMemory, state: &impl State) -> Space<'m> {
        let cr0 = state.get(word::CR0);
        Space {
            memory,
            paging: cr0 & CR0_PAGING != 0,
            write_protect: cr0 & CR0_WRITE_PROTECT != 0,
            long: state.get(word::EFER) & EFER_LONG_ACTIVE != 0,
            root: state.get(word::CR3) & ADDRESS,
        }
    }

    /// The guest-physical address behind a virtual one.
    pub fn translate(&self, address: u64, write: bool) -> Result<u64, BadPointer> {
        if !self.paging {
            return Ok(address);
        }
        // 32-bit guests with paging pass their arguments differently anyway.
        let canonical = ((address << 16) as i64 >> 16) as u64 == address;
        if !self.long || !canonical {
            return Err(BadPointer);
        }
        let mut table = self.root;
        for level in (0..4).rev() {
            let shift = 12 + 9 * level;
            let index = address >> shift & 0x1ff;
            let entry = self.memory.load_u64(table + index * 8).map_err(|_| BadPointer)?;
            let refused = write && self.write_protect && entry & WRITABLE == 0;
            if entry & PRESENT == 0 || refused {
                return Err(BadPointer);
            }
            let offset = (1u64 << shift) - 1;
            match level {
                0 => return Ok(entry & ADDRESS | address & offset),
                1 | 2 if entry & LARGE != 0 => return Ok(entry & ADDRESS & !offset | address & offset),
                _ => table = entry & ADDRESS,
            }
        }
        Err(BadPointer)
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
