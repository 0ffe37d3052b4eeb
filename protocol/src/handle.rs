//! Handles: the only way to name anything.
//!
//! A handle is an index into the calling domain's own table together with the generation of that entry, so a handle that
//! was closed stays invalid when the entry is used again.

use bitflags::bitflags;

/// Number of entries in a domain's handle table.
pub const HANDLES: usize = 256;

/// Bits of a handle that hold the index; the rest is the generation.
const INDEX_BITS: u32 = 12;

/// A name in the calling domain's handle table. As a hypercall argument it is zero-extended to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// Every domain finds itself under this handle.
    pub const SELF: Handle = Handle::new(0, 0);
    /// The first domain finds the machine ([`ObjectKind::System`]) under this handle.
    pub const SYSTEM: Handle = Handle::new(1, 0);

    /// The handle for entry `index` in its `generation`.
    pub const fn new(index: u16, generation: u32) -> Handle {
        Handle(generation << INDEX_BITS | (index as u32 & ((1 << INDEX_BITS) - 1)))
    }

    /// The entry named.
    pub const fn index(self) -> u16 {
        (self.0 & ((1 << INDEX_BITS) - 1)) as u16
    }

    /// The generation of the entry, 20 bits.
    pub const fn generation(self) -> u32 {
        self.0 >> INDEX_BITS
    }
}

/// What a handle can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// The machine as a whole: pool, log, tables of the firmware. Held by dom0.
    System = 1,
    /// A domain.
    Domain = 2,
    /// A range of I/O ports.
    IoPorts = 3,
    /// An interrupt line.
    Interrupt = 4,
    /// A PCI function.
    Device = 5,
}

bitflags! {
    /// What may be done through a handle. A copy can only take rights away.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Read state: information, accounting, death report.
        const INSPECT = 1 << 0;
        /// Change it: build, start, pause, schedule, reset, destroy.
        const CONTROL = 1 << 1;
        /// Connect others to it: event channels and peer entries.
        const CONNECT = 1 << 2;
        /// Use it: enable ports, bind the interrupt, open the device.
        const USE = 1 << 3;
        /// Hand a copy to another domain.
        const COPY = 1 << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_and_generation_do_not_mix() {
        let handle = Handle::new(0xabc, 0xf_ffff);
        assert_eq!((handle.index(), handle.generation()), (0xabc, 0xf_ffff));
        assert_eq!(Handle::SELF.0, 0);
        assert_eq!(Handle::SYSTEM.0, 1);
    }
}
