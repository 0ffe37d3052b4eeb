//! Hypercalls on I/O ports, interrupt lines and handles.

use core::ops::Range;

use crate::events::LINES;
use crate::handles::Entry;
use crate::pci::overlap;
use crate::platform::SERIAL;
use crate::ports::{self, Use};
use crate::prelude::*;

/// What a fresh handle of a device carries.
pub(super) const DEVICE: Rights = Rights::USE.union(Rights::COPY);

/// I/O ports the core drives: the PICs, the PIT with its gate, the PICs' trigger modes, PCI configuration.
const RESERVED: [Range<u64>; 6] = [0x20..0x22, 0x40..0x44, 0x61..0x62, 0xa0..0xa2, 0x4d0..0x4d2, 0xcf8..0xd00];

impl<M: Machine> Core<M> {
    pub(super) fn ioports_create(&mut self, caller: Caller, _: u64, first: u64, count: u64) -> Result {
        let ports = first..first.saturating_add(count);
        refuse_if(ports.is_empty() || ports.end > 1 << 16 || count > u16::MAX.into(), Error::Invalid)?;
        refuse_if(RESERVED.iter().any(|range| overlap(range, &ports)), Error::Busy)?;
        self.add_handle(caller.slot, Entry::new(ObjectKind::IoPorts, DEVICE, first | count << 16))
    }

    pub(super) fn interrupt_create(&mut self, caller: Caller, _: u64, line: u64) -> Result {
        refuse_if(line >= LINES as u64, Error::Invalid)?;
        self.add_handle(caller.slot, Entry::new(ObjectKind::Interrupt, DEVICE, line))
    }

    pub(super) fn ioports_enable(&mut self, caller: Caller, ports: u64) -> Result {
        let range = ports as u32;
        let enabled = &mut self.domains[caller.slot].io_ports;
        if !enabled.contains(&range) {
            *enabled.iter_mut().find(|place| **place == 0).ok_or(Error::TableFull)? = range;
            // The way out of the core has to let the CPU know.
            self.sched.recall(caller.vcpu);
        }
        if overlap(&SERIAL, &(ports & 0xffff..(ports & 0xffff) + (ports >> 16))) {
            self.serial = Some(caller.slot);
            self.machine.release_serial(true);
        }
        Ok(ports)
    }

    pub(super) fn interrupt_bind(&mut self, caller: Caller, line: u64) -> Result {
        refuse_if(self.interrupts[line as usize % LINES].is_some(), Error::Busy)?;
        let port = self.open_port(caller.slot, None, ports::Entry::new(Use::INTERRUPT, line as u16))?;
        self.interrupts[line as usize % LINES] = Some((caller.slot, port));
        self.machine.mask_line(line as u8, false);
        Ok(port.0 as u64)
    }

    pub(super) fn handle_copy(&mut self, caller: Caller, domain: Handle, handle: Handle, rights: u64) -> Result {
        let mut slot = self.domain(caller, domain, Rights::empty())?;
        if slot != caller.slot {
            slot = self.live(caller, domain, Rights::CONTROL)?;
        }
        let entry = self.entry(caller, handle)?.require(Rights::COPY)?;
        let rights = u8::try_from(rights).ok().and_then(Rights::from_bits).ok_or(Error::Invalid)?;
        self.add_handle(slot, entry.with_at_most(rights))
    }

    pub(super) fn handle_close(&mut self, caller: Caller, handle: Handle) -> Result {
        self.entry(caller, handle)?;
        refuse_if(handle == Handle::SELF || handle == Handle::SYSTEM, Error::NotPermitted)?;
        self.remove_handle(caller.slot, handle);
        Ok(0)
    }
}
