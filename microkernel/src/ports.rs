//! The port table of a domain: two frames, 8 bytes a port.
//!
//! It is whole from the start, so opening a port can only fail because all are open, and sending never allocates.

use protocol::error::{Error, Result};
use protocol::event::{DOMAIN_EVENT_PORT, PORTS, Port};
use protocol::layout::PAGE_SIZE;

use crate::platform::{Frame, Memory, Phys};
use crate::slot::Slot;

/// Frames of a table.
pub const TABLE_FRAMES: usize = PORTS * 8 / PAGE_SIZE as usize;

/// First port that is not given out for a fixed purpose.
const FIRST_FREE: u32 = DOMAIN_EVENT_PORT.0 + 1;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing.
    Closed,
    /// Open; its peer is gone.
    Unconnected,
    /// A channel to a port of another domain, in one incarnation.
    Peer(Slot, Port, u32),
    /// An interrupt line.
    Interrupt(u8),
    /// The core sends here.
    Core,
}

/// A port: what it is for, and the vCPU it notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub binding: Binding,
    /// The vCPU it notifies.
    pub vcpu: u8,
}

/// A port table.
#[derive(Clone, Copy, Debug)]
pub struct Ports(pub [Frame; TABLE_FRAMES]);

impl Ports {
    /// A port that is in range; the rest of this module takes no others.
    #[inline]
    pub const fn in_range(port: Port) -> bool {
        (port.0 as usize) < PORTS
    }

    #[inline]
    fn at(&self, port: Port) -> Phys {
        let byte = port.0 as usize * 8;
        self.0[byte / PAGE_SIZE as usize % TABLE_FRAMES].at(byte % PAGE_SIZE as usize)
    }

    /// The entry of a port; one out of range is closed.
    #[inline]
    pub fn get(&self, m: &impl Memory, port: Port) -> Entry {
        let raw = if Self::in_range(port) { m.load(self.at(port)) } else { 0 };
        let binding = match raw & 7 {
            1 => Binding::Unconnected,
            2 => Binding::Peer(
                Slot::new((raw >> 8) as usize & 0xff),
                Port((raw >> 16) as u32 & 0xffff),
                (raw >> 32) as u32,
            ),
            3 => Binding::Interrupt((raw >> 8) as u8),
            4 => Binding::Core,
            _ => Binding::Closed,
        };
        Entry { binding, vcpu: (raw >> 3) as u8 & 31 }
    }

    /// Replaces the entry of a port in range.
    pub fn set(&self, m: &impl Memory, port: Port, entry: Entry) {
        let raw = match entry.binding {
            Binding::Closed => 0,
            Binding::Unconnected => 1,
            Binding::Peer(slot, port, incarnation) => {
                2 | (slot.number() as u64) << 8 | (port.0 as u64) << 16 | (incarnation as u64) << 32
            }
            Binding::Interrupt(line) => 3 | (line as u64) << 8,
            Binding::Core => 4,
        };
        m.store(self.at(port), raw | (entry.vcpu as u64) << 3);
    }

    /// The lowest closed port without a fixed purpose.
    pub fn find_closed(&self, m: &impl Memory) -> Result<Port> {
        let mut ports = (FIRST_FREE..PORTS as u32).map(Port);
        ports.find(|&port| self.get(m, port).binding == Binding::Closed).ok_or(Error::TableFull)
    }
}
