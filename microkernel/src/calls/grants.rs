//! Hypercalls on grants: batches whose elements succeed or fail one by one.

use protocol::grant::{CopyElement, CopySide, MAX_BATCH, MapElement, OWN_MEMORY, UnmapElement};

use super::at_most;
use crate::grants::Grant;
use crate::prelude::*;

impl<M: Machine> Core<M> {
    pub(super) fn grant_map(&mut self, caller: Caller, elements: u64, count: u64) -> Result {
        let status = |element: &mut MapElement, status| element.status = status;
        self.batch(caller, elements, count, status, |core, element| core.map_grant(caller.slot, element))
    }

    pub(super) fn grant_unmap(&mut self, caller: Caller, elements: u64, count: u64) -> Result {
        let (mut chain, mut seen) = (0, false);
        let status = |element: &mut UnmapElement, status| element.status = status;
        let done = self.batch(caller, elements, count, status, |core, element| {
            seen |= core.unmap_grant(caller.slot, element.mapping, &mut chain)?;
            Ok(())
        })?;
        if seen {
            self.cpus[self.here].unmapped = chain;
            self.after_flush(caller);
        } else {
            self.finish_unmap(caller.slot, &mut chain);
        }
        Ok(done)
    }

    pub(super) fn grant_copy(&mut self, caller: Caller, elements: u64, count: u64) -> Result {
        let status = |element: &mut CopyElement, status| element.status = status;
        self.batch(caller, elements, count, status, |core, element| core.copy(caller, element))
    }

    /// Carries out each element of an array in the caller's memory and writes it back; gives how many had status 0. Each
    /// is read once.
    fn batch<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        caller: Caller,
        elements: u64,
        count: u64,
        report: impl Fn(&mut T, i32),
        mut each: impl FnMut(&mut Self, &mut T) -> Result<()>,
    ) -> Result {
        let count = at_most(count, MAX_BATCH)?;
        refuse_if(count == 0, Error::Invalid)?;
        let memory = self.memory(caller, elements, count * size_of::<T>(), true)?;
        let mut done = 0;
        for index in 0..count {
            let mut element: T = memory.get(&self.machine, index);
            let result = each(self, &mut element);
            done += result.is_ok() as u64;
            report(&mut element, result.map_or_else(|error| -(error as i32), |()| 0));
            // An element may have unmapped the memory it lies in: then its status goes nowhere.
            memory.put(&self.machine, index, &element);
        }
        Ok(done)
    }

    fn copy(&mut self, caller: Caller, element: &CopyElement) -> Result<()> {
        let (from, to, length) = (element.source, element.destination, element.length as u64);
        let inside = |side: CopySide| side.reserved == 0 && side.offset as u64 + length <= PAGE_SIZE;
        let both_own = from.peer == OWN_MEMORY && to.peer == OWN_MEMORY;
        refuse_if(length == 0 || !inside(from) || !inside(to) || both_own, Error::Invalid)?;
        let (source, reading) = self.side(caller, from, false)?;
        let target = self.side(caller, to, true);
        let mut result = target.map(|_| ());
        if let Ok((target, writing)) = target {
            if source == target && (from.offset.abs_diff(to.offset) as u64) < length {
                result = Err(Error::Invalid);
            } else {
                self.machine.copy(source.at(from.offset.into()), target.at(to.offset.into()), length as usize);
            }
            writing.into_iter().for_each(|grant| self.release(grant));
        }
        reading.into_iter().for_each(|grant| self.release(grant));
        result
    }

    /// The frame of one side of a copy, and the grant that must be released for it.
    fn side(&mut self, caller: Caller, side: CopySide, write: bool) -> Result<(Frame, Option<Grant>)> {
        let address = side.reference_or_address;
        if side.peer != OWN_MEMORY {
            let grant = self.acquire(caller.slot, side.peer.into(), address, write)?;
            return Ok((grant.frame, Some(grant)));
        }
        let frame = self.domains[caller.slot].space.translate(&self.machine, address, write);
        Ok((frame.filter(|_| address.is_multiple_of(PAGE_SIZE)).ok_or(Error::BadAddress)?, None))
    }
}
