//! Mappings: which grants of others a domain holds mapped, and where.
//!
//! A record is 16 bytes in frames of the mapper. Unmapping has two halves: first the page leaves the address space, then,
//! when no CPU can have it cached any more, the grant is released; records between the two are chained.

use protocol::error::{Error, Result};
use protocol::grant::{MapElement, READONLY};
use protocol::layout::{GRANT_WINDOW, GRANT_WINDOW_END, PAGE_SHIFT, PAGE_SIZE};

use crate::grants::Grant;
use crate::platform::{Frame, Machine, Memory, Phys};
use crate::slot::Slot;
use crate::space::Access;
use crate::state::Core;

/// A record of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    /// The grant; the page is mapped at `page` of the grant window.
    grant: Grant,
    page: u32,
    state: State,
    /// In a list, the next record plus one; 0 ends it.
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free = 0,
    Held = 1,
    Leaving = 2,
}

// Bits of the first word: state 0..2, write 2, granter 3..11, reference 11..24, next 24..40, page 40..64. The second word:
// frame 0..32, epoch 32..64.
const _: () = assert!((GRANT_WINDOW_END - GRANT_WINDOW) >> PAGE_SHIFT <= 1 << 24);
const _: () = assert!(protocol::grant::MAX_GRANT_FRAMES * protocol::grant::ENTRIES_PER_PAGE <= 1 << 13);
const _: () = assert!(crate::domain::MAX_MAPPINGS < 1 << 16);

impl Mapping {
    fn load(m: &impl Memory, at: Phys) -> Mapping {
        let (low, high) = (m.load(at), m.load(Phys(at.0 + 8)));
        Mapping {
            grant: Grant {
                granter: Slot::new((low >> 3) as usize & 0xff),
                epoch: (high >> 32) as u32,
                reference: (low >> 11) as u32 & 0x1fff,
                write: low & 4 != 0,
                frame: Frame(high as u32),
            },
            page: (low >> 40) as u32,
            state: match low & 3 {
                1 => State::Held,
                2 => State::Leaving,
                _ => State::Free,
            },
            next: (low >> 24) as u32 & 0xffff,
        }
    }

    fn store(self, m: &impl Memory, at: Phys) {
        let grant = self.grant;
        let low = self.state as u64
            | (grant.write as u64) << 2
            | (grant.granter.number() as u64) << 3
            | (grant.reference as u64) << 11
            | (self.next as u64) << 24
            | (self.page as u64) << 40;
        m.store(at, low);
        m.store(Phys(at.0 + 8), grant.frame.0 as u64 | (grant.epoch as u64) << 32);
    }

    fn address(self) -> u64 {
        GRANT_WINDOW + ((self.page as u64) << PAGE_SHIFT)
    }
}

impl<M: Machine> Core<M> {
    /// Maps one grant, and fills in what the element reports.
    pub(crate) fn map_grant(&mut self, slot: Slot, element: &mut MapElement) -> Result<()> {
        let (address, write) = (element.address, element.flags & READONLY == 0);
        if element.flags & !READONLY != 0 {
            return Err(Error::Invalid);
        }
        if !(GRANT_WINDOW..GRANT_WINDOW_END).contains(&address) || address % PAGE_SIZE != 0 {
            return Err(Error::BadAddress);
        }
        let domain = &self.domains[slot];
        let space = domain.space;
        if space.lookup(&self.machine, address) != 0 {
            return Err(Error::Exists);
        }
        let index = match domain.mapping_free.checked_sub(1) {
            Some(index) => index,
            None if domain.mappings_used < domain.max_mappings => domain.mappings_used,
            None => return Err(Error::TableFull),
        };
        if (self.frames.available(slot) as u64) < space.missing_tables(&self.machine, address, 1) {
            return Err(Error::NoMemory);
        }
        let grant = self.acquire(slot, element.peer as u64, element.reference as u64, write)?;
        if !self.frames.pin(&self.machine, grant.frame) {
            self.release(grant);
            return Err(Error::TableFull);
        }
        let access = if write { Access::Write } else { Access::Read };
        space.map(&self.machine, &mut self.frames, slot, address, grant.frame, access)?;
        let domain = &mut self.domains[slot];
        let at = domain.mapping(index);
        if domain.mapping_free != 0 {
            domain.mapping_free = Mapping::load(&self.machine, at).next;
        } else {
            domain.mappings_used += 1;
        }
        domain.mapping_count += 1;
        let page = ((address - GRANT_WINDOW) >> PAGE_SHIFT) as u32;
        Mapping { grant, page, state: State::Held, next: 0 }.store(&self.machine, at);
        element.mapping = index;
        element.device_address = grant.frame.at(0).0;
        Ok(())
    }

    /// First half of unmapping: takes the page from the address space and puts the record into the chain.
    pub(crate) fn unmap_grant(&mut self, slot: Slot, index: u32, chain: &mut u32) -> Result<()> {
        let domain = &self.domains[slot];
        if index >= domain.mappings_used {
            return Err(Error::NotFound);
        }
        let at = domain.mapping(index);
        let mapping = Mapping::load(&self.machine, at);
        if mapping.state != State::Held {
            return Err(Error::NotFound);
        }
        domain.space.unmap(&self.machine, mapping.address());
        Mapping { state: State::Leaving, next: *chain, ..mapping }.store(&self.machine, at);
        *chain = index + 1;
        Ok(())
    }

    /// Second half, for the whole chain: no CPU has the pages cached any more.
    pub(crate) fn finish_unmap(&mut self, slot: Slot, chain: &mut u32) {
        while let Some(index) = chain.checked_sub(1) {
            let domain = &mut self.domains[slot];
            let at = domain.mapping(index);
            let mapping = Mapping::load(&self.machine, at);
            *chain = mapping.next;
            domain.mapping_count -= 1;
            Mapping { state: State::Free, next: domain.mapping_free, ..mapping }.store(&self.machine, at);
            domain.mapping_free = index + 1;
            self.release(mapping.grant);
            self.frames.unpin(&self.machine, mapping.grant.frame);
            self.reap(mapping.grant.granter);
        }
    }
}
