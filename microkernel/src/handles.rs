//! The handle table of a domain: one frame, 16 bytes an entry.

use protocol::error::{Error, Result};
use protocol::handle::{HANDLES, Handle, ObjectKind, Rights};

use crate::platform::{Frame, Memory};
use crate::slot::Slot;

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The machine.
    System,
    /// A domain, in one incarnation.
    Domain(Slot, u32),
    /// I/O ports: first and count.
    IoPorts(u16, u16),
    /// An ISA interrupt line.
    Interrupt(u8),
}

/// An entry in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it names.
    pub object: Object,
    /// What may be done with it.
    pub rights: Rights,
}

/// Bits of a generation.
const GENERATION: u64 = 0xf_ffff;

fn encode(entry: Entry, generation: u64) -> (u64, u64) {
    let (kind, value) = match entry.object {
        Object::System => (ObjectKind::System, 0),
        Object::Domain(slot, incarnation) => (ObjectKind::Domain, slot.number() as u64 | (incarnation as u64) << 32),
        Object::IoPorts(first, count) => (ObjectKind::IoPorts, first as u64 | (count as u64) << 16),
        Object::Interrupt(line) => (ObjectKind::Interrupt, line as u64),
    };
    (generation << 32 | (entry.rights.bits() as u64) << 8 | kind as u64, value)
}

fn decode(head: u64, value: u64) -> Option<Entry> {
    let object = match ObjectKind::from_number(head as u8)? {
        ObjectKind::System => Object::System,
        ObjectKind::Domain => Object::Domain(Slot::new(value as usize), (value >> 32) as u32),
        ObjectKind::IoPorts => Object::IoPorts(value as u16, (value >> 16) as u16),
        ObjectKind::Interrupt => Object::Interrupt(value as u8),
    };
    Some(Entry { object, rights: Rights::from_bits_truncate((head >> 8) as u8) })
}

/// What `handle` names in `table`.
#[inline]
pub fn lookup(m: &impl Memory, table: Frame, handle: Handle) -> Result<Entry> {
    let at = handle.index() as usize;
    if at >= HANDLES {
        return Err(Error::BadHandle);
    }
    let head = m.load(table.at(at * 16));
    if head >> 32 != handle.generation() as u64 {
        return Err(Error::BadHandle);
    }
    decode(head, m.load(table.at(at * 16 + 8))).ok_or(Error::BadHandle)
}

/// Puts `entry` at the first free place of `table`.
pub fn insert(m: &impl Memory, table: Frame, entry: Entry) -> Result<Handle> {
    let free = (0..HANDLES).find(|&at| m.load(table.at(at * 16)) as u8 == 0).ok_or(Error::TableFull)?;
    let generation = m.load(table.at(free * 16)) >> 32;
    let (head, value) = encode(entry, generation);
    m.store(table.at(free * 16 + 8), value);
    m.store(table.at(free * 16), head);
    Ok(Handle::new(free as u16, generation as u32))
}

/// Frees the entry of a handle that was looked up.
pub fn remove(m: &impl Memory, table: Frame, handle: Handle) {
    let next = (handle.generation() as u64 + 1) & GENERATION;
    m.store(table.at(handle.index() as usize % HANDLES * 16), next << 32);
}
