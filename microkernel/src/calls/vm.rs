//! Hypercalls of monitors: running a virtual CPU, and placing the guest's grant table in its memory.

use protocol::event::MAX_VCPUS;
use protocol::grant::MAX_GRANT_FRAMES;

use crate::domain::NO_FRAME;
use crate::prelude::*;
use crate::space::{Access, leaf};
use crate::vm::is_guests;

impl<M: Machine> Core<M> {
    pub(super) fn vm_run(&mut self, caller: Caller, deadline: u64) -> Result {
        match self.domains[caller.slot].vm.contexts[caller.index as usize % MAX_VCPUS] {
            NO_FRAME => Err(Error::WrongState),
            context => Ok(self.enter_guest(caller, context, deadline).map_or(0, |exit| exit as u64)),
        }
    }

    pub(super) fn vm_grant_table(&mut self, caller: Caller, index: u64, address: u64) -> Result {
        let domain = &self.domains[caller.slot];
        if !domain.has_vm() {
            return Err(Error::WrongState);
        }
        if index >= domain.spec.guest_grant_frames.into() {
            return Err(Error::Invalid);
        }
        if !is_guests(address) || !address.is_multiple_of(PAGE_SIZE) {
            return Err(Error::BadAddress);
        }
        let index = index as usize % MAX_GRANT_FRAMES;
        let is_new = domain.vm.grants[index] == NO_FRAME;
        self.check_unmapped(caller.slot, address, 1, 2 * is_new as u64)?;
        if is_new {
            let pair = (self.object(caller.slot)?, self.object(caller.slot)?);
            let vm = &mut self.domains[caller.slot].vm;
            (vm.grants[index], vm.active[index]) = pair;
        }
        let vm = &mut self.domains[caller.slot].vm;
        let (frame, former) = (vm.grants[index], core::mem::replace(&mut vm.places[index], address));
        let space = self.domains[caller.slot].space;
        space.map(&self.machine, &mut self.frames, caller.slot, address, leaf(frame, Access::Guest))?;
        self.share_table(caller.slot, address)?;
        if former != 0 {
            space.unmap(&self.machine, former);
            self.forget_translations(caller.slot);
            self.after_flush(caller);
        }
        Ok(0)
    }
}
