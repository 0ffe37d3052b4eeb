//! Large pages: memory of a domain with a virtual machine in pages of 2 MiB, which need no table.
//!
//! They come into being where a whole one is populated at once, and where a whole block of frames is there; else there are small
//! ones, which look the same. An entry above says the same to both kinds of tables, as that of a small page does, so the guest's
//! tables get a copy of it. Everything else - grants, devices, copies - knows frames only, and sees no difference. A page is
//! made small when a part of it is released.

use protocol::system::Features;

use super::blocks::BLOCK;
use super::is_guests;
use crate::prelude::*;
use crate::space::{Access, LARGE, TABLE_SHIFT, leaf, table};

/// Bytes of a large page.
const SIZE: u64 = 1 << TABLE_SHIFT;

impl<M: Machine> Core<M> {
    fn has_large_pages(&self, slot: Slot) -> bool {
        self.domains[slot].has_vm() && self.info.features & Features::VM_LARGE_PAGES.bits() != 0
    }

    /// Keeps blocks of frames for a domain that is made, if it can use them.
    pub(crate) fn promise_large(&mut self, slot: Slot, pages: u32) -> Result<()> {
        if pages > 0 && !self.has_large_pages(slot) { Err(Error::NoMemory) } else { self.frames.promise(slot, pages) }
    }

    /// Populates pages with a large one. Gives whether that can be done; else, as where something is mapped, nothing has changed.
    pub(crate) fn populate_large(&mut self, slot: Slot, address: u64, pages: u64, access: Access) -> Result<bool> {
        if !self.has_large_pages(slot) || pages != BLOCK as u64 || !address.is_multiple_of(SIZE) {
            return Ok(false);
        }
        let space = self.domains[slot].space;
        // The lowest table is among those that are missing, if there is none yet.
        let missing = space.missing_tables(&self.machine, address, pages);
        let needed = missing + self.missing_guest_tables(slot, address, pages) + pages - 1;
        if missing == 0 || space.lookup(&self.machine, address) != 0 || self.frames.available(slot) < needed {
            return Ok(false);
        }
        let Some(first) = self.frames.take_block(&self.machine, slot) else { return Ok(false) };
        space.map(&self.machine, &mut self.frames, slot, address, leaf(first, access) | LARGE)?;
        self.share_table(slot, address)?;
        Ok(true)
    }

    /// Makes small pages of large ones that are about to be released in part or, where there is a copy of their entry, at all. Takes a
    /// frame for each; if they are not there, nothing changes.
    pub(crate) fn split(&mut self, slot: Slot, address: u64, pages: u64) -> Result<()> {
        let (space, end) = (self.domains[slot].space, address + pages * PAGE_SIZE);
        let entry = |core: &Self, block| core.machine.load(space.table_entry(&core.machine, block));
        let stays = |block| block >= address && block + SIZE <= end && !is_guests(block);
        let blocks = (address / SIZE..end.div_ceil(SIZE)).map(|block| block * SIZE).filter(|&block| !stays(block));
        let large = |core: &Self, block| entry(core, block) & LARGE != 0;
        let needed = blocks.clone().filter(|&block| large(self, block)).count() as u64;
        if self.frames.available(slot) < needed {
            return Err(Error::NoMemory);
        }
        for block in blocks {
            let entry = entry(self, block);
            if entry & LARGE != 0 {
                let lowest = self.object(slot)?;
                for page in 0..BLOCK as u64 {
                    self.machine.store(lowest.at(page as usize * 8), (entry & !LARGE) + page * PAGE_SIZE);
                }
                self.machine.store(space.table_entry(&self.machine, block), table(lowest));
                self.share_table(slot, block)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
