//! Hypercalls on I/O ports, interrupt lines and handles.

use protocol::error::{Error, Result};
use protocol::handle::{Handle, Rights};

use super::narrow;
use crate::events::LINES;
use crate::handles::{self, Entry, Object};
use crate::platform::Machine;
use crate::ports::Binding;
use crate::state::{Caller, Core};

/// What a fresh handle of a device carries.
const DEVICE: Rights = Rights::USE.union(Rights::COPY);

impl<M: Machine> Core<M> {
    pub(super) fn ioports_create(&mut self, caller: Caller, system: Handle, first: u64, count: u64) -> Result {
        self.system(caller, system, Rights::CONTROL)?;
        if first > 0xffff || count == 0 || count > 0x1_0000 - first || count > 0xffff {
            return Err(Error::Invalid);
        }
        if self.machine.port_reserved(first as u16, count as u16) {
            return Err(Error::Busy);
        }
        self.add_handle(caller.slot, Entry { object: Object::IoPorts(first as u16, count as u16), rights: DEVICE })
    }

    pub(super) fn interrupt_create(&mut self, caller: Caller, system: Handle, line: u64) -> Result {
        self.system(caller, system, Rights::CONTROL)?;
        if line >= LINES as u64 {
            return Err(Error::Invalid);
        }
        self.add_handle(caller.slot, Entry { object: Object::Interrupt(line as u8), rights: DEVICE })
    }

    pub(super) fn ioports_enable(&mut self, caller: Caller, range: Handle) -> Result {
        let entry = self.entry(caller, range, Rights::empty())?;
        let Object::IoPorts(first, count) = entry.object else { return Err(Error::WrongKind) };
        self.entry(caller, range, Rights::USE)?;
        let enabled = &mut self.domains[caller.slot].io_ports;
        if !enabled.contains(&(first, count)) {
            let free = enabled.iter_mut().find(|slot| slot.1 == 0).ok_or(Error::TableFull)?;
            *free = (first, count);
        }
        if self.machine.is_serial(first, count) {
            self.serial = Some(caller.slot);
            self.machine.release_serial(true);
        }
        Ok(first as u64 | (count as u64) << 16)
    }

    pub(super) fn interrupt_bind(&mut self, caller: Caller, interrupt: Handle) -> Result {
        let entry = self.entry(caller, interrupt, Rights::empty())?;
        let Object::Interrupt(line) = entry.object else { return Err(Error::WrongKind) };
        self.entry(caller, interrupt, Rights::USE)?;
        if self.interrupts[line as usize % LINES].is_some() {
            return Err(Error::Busy);
        }
        let port = self.open_port(caller.slot, Binding::Interrupt(line))?;
        self.interrupts[line as usize % LINES] = Some((caller.slot, port));
        self.machine.mask_line(line, false);
        Ok(port.0 as u64)
    }

    pub(super) fn handle_copy(&mut self, caller: Caller, domain: Handle, handle: Handle, rights: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::empty())?;
        if slot != caller.slot {
            self.domain(caller, domain, Rights::CONTROL)?;
        }
        let entry = self.entry(caller, handle, Rights::COPY)?;
        let wanted = u8::try_from(narrow(rights)?).ok().and_then(Rights::from_bits).ok_or(Error::Invalid)?;
        if self.domains[slot].is_gone() {
            return Err(Error::WrongState);
        }
        self.add_handle(slot, Entry { rights: entry.rights & wanted, ..entry })
    }

    pub(super) fn handle_close(&mut self, caller: Caller, handle: Handle) -> Result {
        self.entry(caller, handle, Rights::empty())?;
        if handle == Handle::SELF || handle == Handle::SYSTEM {
            return Err(Error::NotPermitted);
        }
        self.remove_handle(caller, handle);
        Ok(0)
    }

    /// Closes a handle that was looked up.
    pub(super) fn remove_handle(&mut self, caller: Caller, handle: Handle) {
        handles::remove(&self.machine, self.domains[caller.slot].handles, handle);
        self.domains[caller.slot].handle_count -= 1;
    }
}
