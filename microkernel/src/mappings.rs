//! Mappings: which grants of others a domain holds mapped, and where.
//!
//! Their records lie in frames of the mapper. Unmapping has two halves: first the page leaves the address space, then, when
//! no CPU can have it cached any more, the grant is released; records between the two are chained.

use protocol::grant::{DEVICE_ONLY, MapElement, READONLY};
use protocol::layout::{GRANT_WINDOW, GRANT_WINDOW_END};

use crate::grants::Grant;
use crate::prelude::*;
use crate::space::{Access, leaf};

/// In [`Mapping::address`]: in no address space.
pub const NOWHERE: u64 = 1;

/// A record of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Mapping {
    /// What is mapped.
    pub grant: Grant,
    /// Where; [`NOWHERE`] if it is for devices only; 0 once it is not any more.
    pub address: u64,
    /// In a chain, the next record plus one; 0 ends it. In a record that is free, how many are between it and the next free
    /// one, wrapping: so a zeroed table is a list of all its records.
    next: u32,
    spare: u32,
}

impl<M: Machine> Core<M> {
    /// Maps one grant, and fills in what the element reports.
    pub(crate) fn map_grant(&mut self, slot: Slot, element: &mut MapElement) -> Result<()> {
        let (address, write) = (element.address, element.flags & READONLY == 0);
        refuse_if(element.flags & !(READONLY | DEVICE_ONLY) != 0, Error::Invalid)?;
        let hidden = element.flags & DEVICE_ONLY != 0;
        let valid = if hidden { 0..1 } else { GRANT_WINDOW..GRANT_WINDOW_END };
        refuse_if(!valid.contains(&address) || address % PAGE_SIZE != 0, Error::BadAddress)?;
        let space = self.domains[slot].space;
        let place = space.entry(&self.machine, address).filter(|_| !hidden);
        // Mostly the table is there and the place is free.
        if !hidden && place.is_none_or(|at| self.machine.load(at) != 0) {
            self.check_unmapped(slot, address, 1, 0)?;
        }
        let domain = &self.domains[slot];
        let index = domain.mapping_free;
        refuse_if(index >= domain.spec.max_mappings, Error::TableFull)?;
        let grant = self.acquire(slot, element.peer.into(), element.reference.into(), write)?;
        let entry = leaf(grant.frame, if write { Access::Write } else { Access::Read });
        match place {
            Some(at) => self.machine.store(at, entry),
            None if hidden => {}
            None => space.map(&self.machine, &mut self.frames, slot, address, entry)?,
        }
        self.frames.pin(&self.machine, grant.frame, false);
        let domain = &mut self.domains[slot];
        let at = domain.mapping(index);
        domain.mapping_free = (index + 1).wrapping_add(self.machine.get::<Mapping>(at).next);
        domain.info.mappings += 1;
        let address = if hidden { NOWHERE } else { address };
        self.machine.put(at, &Mapping { grant, address, next: 0, spare: 0 });
        (element.mapping, element.device_address) = (index, grant.frame.at(0).0);
        Ok(())
    }

    /// First half of unmapping: takes the page from the address space and puts the record into the chain. Gives whether it was
    /// in the address space.
    pub(crate) fn unmap_grant(&mut self, slot: Slot, index: u32, chain: &mut u32) -> Result<bool> {
        let domain = &self.domains[slot];
        refuse_if(index >= domain.spec.max_mappings, Error::NotFound)?;
        let at = domain.mapping(index);
        let mapping: Mapping = self.machine.get(at);
        refuse_if(mapping.address == 0, Error::NotFound)?;
        let seen = mapping.address != NOWHERE;
        if seen {
            domain.space.unmap(&self.machine, mapping.address);
        }
        self.machine.put(at, &Mapping { address: 0, next: *chain, ..mapping });
        *chain = index + 1;
        Ok(seen)
    }

    /// Second half, for the whole chain: no CPU has the pages cached any more.
    pub(crate) fn finish_unmap(&mut self, slot: Slot, chain: &mut u32) {
        while let Some(index) = chain.checked_sub(1) {
            let domain = &mut self.domains[slot];
            let at = domain.mapping(index);
            let Mapping { grant, next, .. } = self.machine.get(at);
            let between = domain.mapping_free.wrapping_sub(index + 1);
            self.machine.put(at, &Mapping { grant, address: 0, next: between, spare: 0 });
            domain.mapping_free = index;
            domain.info.mappings -= 1;
            *chain = next;
            self.release(grant);
            self.frames.pin(&self.machine, grant.frame, true);
            self.reap(grant.granter);
        }
    }
}
