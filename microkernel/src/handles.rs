//! The handle table of a domain: one frame, 16 bytes an entry.

use protocol::handle::HANDLES;
use zerocopy::FromZeros;

use crate::prelude::*;

/// Bits of a generation.
const GENERATION: u32 = 0xf_ffff;

/// An entry. The kind is 0 in one that is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Entry {
    /// Which object, as its kind says: a domain's reference, the first I/O port and (bits 16..) their count, an interrupt
    /// line.
    pub value: u64,
    generation: u32,
    kind: u8,
    rights: u8,
    spare: u16,
}

impl Entry {
    /// An entry for an object.
    pub fn new(kind: ObjectKind, rights: Rights, value: u64) -> Entry {
        Entry { value, generation: 0, kind: kind as u8, rights: rights.bits(), spare: 0 }
    }

    /// Checks that it names an object of this kind and carries these rights; gives which object.
    pub fn object(self, kind: ObjectKind, rights: Rights) -> Result<u64> {
        refuse_if(self.kind != kind as u8, Error::WrongKind)?;
        self.require(rights).map(|entry| entry.value)
    }

    /// Checks that it carries these rights.
    pub fn require(self, rights: Rights) -> Result<Entry> {
        if self.rights & rights.bits() == rights.bits() { Ok(self) } else { Err(Error::NotPermitted) }
    }

    /// The same with no more than these rights.
    pub fn with_at_most(self, rights: Rights) -> Entry {
        Entry { rights: self.rights & rights.bits(), ..self }
    }
}

fn at(table: Frame, index: usize) -> Phys {
    table.at(index % HANDLES * size_of::<Entry>())
}

impl<M: Machine> Core<M> {
    /// The entry of a handle of the caller.
    pub(crate) fn entry(&self, caller: Caller, handle: Handle) -> Result<Entry> {
        let index = handle.index() as usize;
        let entry: Entry = self.machine.get(at(self.domains[caller.slot].handles, index));
        let valid = index < HANDLES && entry.kind != 0 && entry.generation == handle.generation();
        if valid { Ok(entry) } else { Err(Error::BadHandle) }
    }

    /// Puts a handle at the first free place of a domain's table.
    pub(crate) fn add_handle(&mut self, slot: Slot, entry: Entry) -> Result {
        let (m, domain) = (&self.machine, &mut self.domains[slot]);
        let mut places = (0..HANDLES).map(|index| (index, m.get::<Entry>(at(domain.handles, index))));
        let (index, Entry { generation, .. }) = places.find(|(_, old)| old.kind == 0).ok_or(Error::TableFull)?;
        m.put(at(domain.handles, index), &Entry { generation, ..entry });
        domain.info.handles += 1;
        Ok(Handle::new(index as u16, generation).0.into())
    }

    /// Closes a handle that was looked up.
    pub(crate) fn remove_handle(&mut self, slot: Slot, handle: Handle) {
        let domain = &mut self.domains[slot];
        let generation = (handle.generation() + 1) & GENERATION;
        let free = Entry { generation, ..Entry::new_zeroed() };
        self.machine.put(at(domain.handles, handle.index() as usize), &free);
        domain.info.handles -= 1;
    }
}

#[cfg(test)]
mod tests;
