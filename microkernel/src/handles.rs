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
        if self.kind != kind as u8 {
            return Err(Error::WrongKind);
        }
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

/// What `handle` names in `table`.
fn lookup(m: &impl Memory, table: Frame, handle: Handle) -> Result<Entry> {
    let index = handle.index() as usize;
    let entry: Entry = m.get(at(table, index));
    let valid = index < HANDLES && entry.kind != 0 && entry.generation == handle.generation();
    if valid { Ok(entry) } else { Err(Error::BadHandle) }
}

/// Puts `entry` at the first free place of `table`.
fn insert(m: &impl Memory, table: Frame, entry: Entry) -> Result<Handle> {
    let mut places = (0..HANDLES).map(|index| (index, m.get::<Entry>(at(table, index))));
    let (index, Entry { generation, .. }) = places.find(|(_, old)| old.kind == 0).ok_or(Error::TableFull)?;
    m.put(at(table, index), &Entry { generation, ..entry });
    Ok(Handle::new(index as u16, generation))
}

/// Frees the entry of a handle that was looked up.
fn remove(m: &impl Memory, table: Frame, handle: Handle) {
    let generation = (handle.generation() + 1) & GENERATION;
    m.put(at(table, handle.index() as usize), &Entry { generation, ..Entry::new_zeroed() });
}

impl<M: Machine> Core<M> {
    /// The entry of a handle of the caller.
    pub(crate) fn entry(&self, caller: Caller, handle: Handle) -> Result<Entry> {
        lookup(&self.machine, self.domains[caller.slot].handles, handle)
    }

    /// Puts a handle into a domain's table.
    pub(crate) fn add_handle(&mut self, slot: Slot, entry: Entry) -> Result {
        let handle = insert(&self.machine, self.domains[slot].handles, entry)?;
        self.domains[slot].info.handles += 1;
        Ok(handle.0.into())
    }

    /// Closes a handle that was looked up.
    pub(crate) fn remove_handle(&mut self, slot: Slot, handle: Handle) {
        remove(&self.machine, self.domains[slot].handles, handle);
        self.domains[slot].info.handles -= 1;
    }
}

#[cfg(test)]
mod tests;
