//! Hypercalls on memory: populating, releasing, and writing into a domain in building.

use protocol::hypercall::protection;
use protocol::layout::{ARGUMENTS, GUEST_MEMORY, GUEST_MEMORY_END, HEAP, HEAP_END, IMAGE_BASE, IMAGE_END};
use protocol::layout::{VCPU_AREA_SIZE, VCPU_AREAS};

use super::at_most;
use crate::frames::{END, Kind};
use crate::prelude::*;
use crate::space::{Access, frame_of, frames_of};
use crate::vm;

/// Most pages of one call.
pub(crate) const MAX_PAGES: usize = 512;
/// Most bytes of one write.
const MAX_WRITE: usize = 65536;

/// The addresses of pages.
pub(super) fn each(address: u64, pages: u64) -> impl Iterator<Item = u64> + Clone {
    (0..pages).map(move |page| address + page * PAGE_SIZE)
}

impl<M: Machine> Core<M> {
    pub(super) fn memory_populate(&mut self, caller: Caller, of: Handle, at: u64, pages: u64, flags: u64) -> Result {
        let mut slot = self.domain(caller, of, Rights::empty())?;
        if slot != caller.slot {
            slot = self.building(caller, of)?;
        }
        let access = match flags {
            protection::READ => Access::Read,
            protection::WRITE => Access::Write,
            protection::EXECUTE => Access::Execute,
            _ => return Err(Error::Invalid),
        };
        self.populate(slot, at, pages, access).map(|()| 0)
    }

    /// Maps zeroed memory in one of the areas that a domain may fill.
    pub(crate) fn populate(&mut self, slot: Slot, address: u64, pages: u64, access: Access) -> Result<()> {
        self.check_area(slot, address, pages)?;
        let access = vm::access(address, access)?;
        if self.populate_large(slot, address, pages, access)? {
            return Ok(());
        }
        self.check_unmapped(slot, address, pages, pages)?;
        each(address, pages).try_for_each(|address| self.map_new(slot, address, Kind::MEMORY, access).map(|_| ()))
    }

    /// Checks that nothing is mapped at pages, and that there is memory for the missing tables and `more` frames.
    pub(crate) fn check_unmapped(&self, slot: Slot, address: u64, pages: u64, more: u64) -> Result<()> {
        let space = self.domains[slot].space;
        if each(address, pages).any(|address| space.lookup(&self.machine, address) != 0) {
            return Err(Error::Exists);
        }
        let tables = space.missing_tables(&self.machine, address, pages);
        let needed = more + tables + self.missing_guest_tables(slot, address, pages);
        if self.frames.available(slot) < needed { Err(Error::NoMemory) } else { Ok(()) }
    }

    pub(super) fn memory_release(&mut self, caller: Caller, address: u64, pages: u64) -> Result {
        self.check_area(caller.slot, address, pages)?;
        let space = self.domains[caller.slot].space;
        for address in each(address, pages) {
            match space.lookup(&self.machine, address) {
                0 => return Err(Error::BadAddress),
                entry => match self.frames.info(&self.machine, frame_of(entry)) {
                    info if info.count > 0 || info.kind != Kind::MEMORY => return Err(Error::Busy),
                    _ => {}
                },
            }
        }
        self.split(caller.slot, address, pages)?;
        let mut parked = END;
        for frame in each(address, pages).flat_map(|address| frames_of(space.unmap(&self.machine, address))) {
            self.frames.park(&self.machine, &mut parked, frame);
        }
        self.forget_translations(caller.slot);
        self.cpus[self.here].parked = parked;
        self.after_flush(caller);
        Ok(0)
    }

    /// Checks that pages lie in the image, heap or stack area of a domain, or in its guest memory. The lowest page of a stack
    /// area is never mapped.
    pub(super) fn check_area(&self, slot: Slot, address: u64, pages: u64) -> Result<()> {
        let length = at_most(pages, MAX_PAGES)? as u64 * PAGE_SIZE;
        if length == 0 {
            return Err(Error::Invalid);
        }
        let stacks = VCPU_AREAS + self.domains[slot].info.vcpus as u64 * VCPU_AREA_SIZE;
        let stack = address.max(VCPU_AREAS) & !(VCPU_AREA_SIZE - 1);
        let inside = |start: u64, end: u64| address >= start && address < end && length <= end - address;
        let known = inside(IMAGE_BASE, IMAGE_END)
            || inside(HEAP, HEAP_END)
            || self.domains[slot].has_vm() && inside(GUEST_MEMORY, GUEST_MEMORY_END)
            || stack < stacks && inside(stack + PAGE_SIZE, stack + VCPU_AREA_SIZE);
        if known && address.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(Error::BadAddress) }
    }

    pub(super) fn domain_write(&mut self, caller: Caller, slot: Slot, at: u64, source: u64, length: u64) -> Result {
        let length = at_most(length, MAX_WRITE)?;
        let source = self.memory(caller, source, length, false)?;
        let target = self.reach(slot, at, length, false)?;
        let (page, end) = (at & !(PAGE_SIZE - 1), at + length as u64);
        if (page != ARGUMENTS || end > ARGUMENTS + PAGE_SIZE) && length > 0 {
            self.check_area(slot, page, (end - page).div_ceil(PAGE_SIZE))?;
        }
        source.parts(&self.machine, 0, length, |from, part| {
            target.parts(&self.machine, part.start, part.len(), |to, piece| {
                self.update(Phys(from.0 + piece.start as u64), to, piece.len());
            });
        });
        Ok(0)
    }

    /// Copies bytes, unless they are there already: code that is not written is not forgotten by the processor, or its emulator.
    fn update(&self, from: Phys, to: Phys, length: usize) {
        let same = |at| self.machine.load(Phys(from.0 + at)) == self.machine.load(Phys(to.0 + at));
        let aligned = (from.0 | to.0 | length as u64).is_multiple_of(8);
        if !aligned || !(0..length as u64).step_by(8).all(same) {
            self.machine.copy(from, to, length);
        }
    }
}
