//! The port table of a domain: two frames, 8 bytes a port.
//!
//! It is whole from the start, so opening a port can only fail because all are open, and sending never allocates.

use protocol::event::{DOMAIN_EVENT_PORT, MAX_VCPUS, PORTS};

use crate::domain::record;
use crate::prelude::*;

/// Frames of a table.
pub const TABLE_FRAMES: usize = PORTS * 8 / PAGE_SIZE as usize;

/// First port that is not given out for a fixed purpose.
const FIRST_FREE: u32 = DOMAIN_EVENT_PORT.0 + 1;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Use(u8);

impl Use {
    /// Nothing.
    pub const CLOSED: Use = Use(0);
    /// Open; its peer is gone.
    pub const UNCONNECTED: Use = Use(1);
    /// A channel to a port of another domain, in one incarnation.
    pub const PEER: Use = Use(2);
    /// An interrupt, whose source is in `port`; for a message, `incarnation` holds it, and (bits 16..) the device's index.
    pub const INTERRUPT: Use = Use(3);
    /// The core sends here.
    pub const CORE: Use = Use(4);
}

/// A port, as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Entry {
    /// The port at the other end.
    pub port: u16,
    /// The domain there.
    pub peer: Slot,
    /// What it is for, and (bits 3..) the vCPU it notifies.
    pub head: u8,
    /// The incarnation of the domain there; see [`Use::INTERRUPT`].
    pub incarnation: u32,
}

const _: () = assert!(MAX_VCPUS <= 32 && size_of::<Entry>() == 8);

impl Entry {
    /// A port for `purpose` that notifies vCPU 0.
    pub const fn new(purpose: Use, port: u16) -> Entry {
        Entry { port, peer: Slot::DOM0, head: purpose.0, incarnation: 0 }
    }

    /// What it is for.
    pub const fn purpose(self) -> Use {
        Use(self.head & 7)
    }

    /// The vCPU it notifies.
    pub const fn vcpu(self) -> u8 {
        self.head >> 3
    }

    /// The same, with another vCPU to notify.
    pub const fn notifying(self, vcpu: u8) -> Entry {
        Entry { head: self.head & 7 | vcpu << 3, ..self }
    }
}

/// A port table.
#[derive(Clone, Copy, Debug)]
pub struct Ports(pub [Frame; TABLE_FRAMES]);

impl Ports {
    /// The entry of a port in range.
    #[inline]
    pub fn get(&self, m: &impl Memory, port: Port) -> Entry {
        zerocopy::transmute!(m.load(record::<Entry, _>(&self.0, port.0 as usize)))
    }

    /// Replaces the entry of a port in range.
    pub fn set(&self, m: &impl Memory, port: Port, entry: Entry) {
        m.store(record::<Entry, _>(&self.0, port.0 as usize), zerocopy::transmute!(entry));
    }

    /// The lowest closed port without a fixed purpose.
    pub fn find_closed(&self, m: &impl Memory) -> Result<Port> {
        let mut ports = (FIRST_FREE..PORTS as u32).map(Port);
        ports.find(|&port| self.get(m, port).purpose() == Use::CLOSED).ok_or(Error::TableFull)
    }
}
