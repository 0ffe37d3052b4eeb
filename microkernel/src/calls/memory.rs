//! Hypercalls on memory: populating, releasing, and writing into a domain in building.

use protocol::domain::State;
use protocol::error::{Error, Result};
use protocol::handle::{Handle, Rights};
use protocol::hypercall::protection;
use protocol::layout::{ARGUMENTS, HEAP, HEAP_END, IMAGE_BASE, IMAGE_END, PAGE_SIZE, VCPU_AREA_SIZE, VCPU_AREAS};

use super::at_most;
use crate::frames::{Kind, Parked};
use crate::platform::Machine;
use crate::slot::Slot;
use crate::space::{Access, PRESENT, frame_of};
use crate::state::{Caller, Core};
use crate::user::UserRange;

/// Most pages of one call.
const MAX_PAGES: u64 = 512;
/// Most bytes of one write.
const MAX_WRITE: u64 = 65536;

impl<M: Machine> Core<M> {
    pub(super) fn memory_populate(
        &mut self,
        caller: Caller,
        domain: Handle,
        address: u64,
        pages: u64,
        flags: u64,
    ) -> Result {
        let slot = self.domain(caller, domain, Rights::empty())?;
        if slot != caller.slot {
            self.building(caller, domain)?;
        }
        let access = match flags {
            protection::READ => Access::Read,
            protection::WRITE => Access::Write,
            protection::EXECUTE => Access::Execute,
            _ => return Err(Error::Invalid),
        };
        self.populate(slot, address, pages, access).map(|()| 0)
    }

    /// Maps zeroed memory in one of the areas that a domain may fill.
    pub(crate) fn populate(&mut self, slot: Slot, address: u64, pages: u64, access: Access) -> Result<()> {
        self.check_area(slot, address, pages)?;
        let space = self.domains[slot].space;
        let addresses = (0..pages).map(|page| address + page * PAGE_SIZE);
        if addresses.clone().any(|address| space.lookup(&self.machine, address) & PRESENT != 0) {
            return Err(Error::Exists);
        }
        if (self.frames.available(slot) as u64) < pages + space.missing_tables(&self.machine, address, pages) {
            return Err(Error::NoMemory);
        }
        for address in addresses {
            self.map_new(slot, address, Kind::Memory, access)?;
        }
        Ok(())
    }

    pub(super) fn memory_release(&mut self, caller: Caller, address: u64, pages: u64) -> Result {
        self.check_area(caller.slot, address, pages)?;
        let space = self.domains[caller.slot].space;
        let addresses = (0..pages).map(|page| address + page * PAGE_SIZE);
        for address in addresses.clone() {
            let entry = space.lookup(&self.machine, address);
            if entry == 0 {
                return Err(Error::BadAddress);
            }
            if self.frames.info(&self.machine, frame_of(entry)).count > 0 {
                return Err(Error::Busy);
            }
        }
        let mut parked = Parked::NONE;
        for address in addresses {
            if let Some(frame) = space.unmap(&self.machine, address) {
                self.frames.park(&self.machine, &mut parked, frame);
            }
        }
        self.cpu(self.here).parked = parked;
        self.after_flush(caller);
        Ok(0)
    }

    /// Checks that pages lie in the image, heap or stack area of a domain. The lowest page of a stack area is never mapped.
    fn check_area(&self, slot: Slot, address: u64, pages: u64) -> Result<()> {
        if pages == 0 {
            return Err(Error::Invalid);
        }
        let length = at_most(pages, MAX_PAGES)? * PAGE_SIZE;
        let stacks = VCPU_AREAS + self.domains[slot].vcpu_count as u64 * VCPU_AREA_SIZE;
        let stack = address.max(VCPU_AREAS) & !(VCPU_AREA_SIZE - 1);
        let inside = |start: u64, end: u64| address >= start && address < end && length <= end - address;
        let known = inside(IMAGE_BASE, IMAGE_END)
            || inside(HEAP, HEAP_END)
            || stack < stacks && inside(stack + PAGE_SIZE, stack + VCPU_AREA_SIZE);
        if known && address % PAGE_SIZE == 0 { Ok(()) } else { Err(Error::BadAddress) }
    }

    pub(super) fn domain_write(
        &mut self,
        caller: Caller,
        domain: Handle,
        address: u64,
        source: u64,
        length: u64,
    ) -> Result {
        let slot = self.building(caller, domain)?;
        let source = self.memory(caller, source, at_most(length, MAX_WRITE)?, false)?;
        let end = UserRange::new(address, length)?.end();
        let arguments = (ARGUMENTS..ARGUMENTS + PAGE_SIZE).contains(&address) && end <= ARGUMENTS + PAGE_SIZE;
        let first = address & !(PAGE_SIZE - 1);
        if !arguments && length > 0 {
            self.check_area(slot, first, (end - first).div_ceil(PAGE_SIZE))?;
        }
        let target = UserRange::new(address, length)?.check(&self.machine, self.domains[slot].space, false)?;
        let mut done = 0;
        while done < length as usize {
            let (Some((from, room)), Some((to, space))) =
                (source.place(&self.machine, done), target.place(&self.machine, done))
            else {
                break;
            };
            let part = room.min(space).min(length as usize - done);
            self.machine.copy(from, to, part);
            done += part;
        }
        Ok(0)
    }

    pub(super) fn domain_set_memory(&mut self, caller: Caller, domain: Handle, pages: u64, max: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::CONTROL)?;
        if pages > max || self.domains[slot].state == Some(State::Dying) {
            return Err(Error::Invalid);
        }
        self.frames.set_aside(slot, pages)?;
        self.domains[slot].max_pages = max;
        Ok(0)
    }
}
