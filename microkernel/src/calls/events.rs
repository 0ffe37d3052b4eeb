//! Hypercalls on event channels.

use protocol::error::{Error, Result};
use protocol::event::{CONTROL_PORT, DOMAIN_EVENT_PORT, Port};
use protocol::handle::{Handle, Rights};

use crate::platform::Machine;
use crate::ports::{Binding, Entry};
use crate::state::{Caller, Core};

impl<M: Machine> Core<M> {
    #[inline]
    pub(super) fn event_send(&mut self, caller: Caller, port: Port) -> Result {
        self.send(caller.slot, port).map(|()| 0)
    }

    #[inline]
    pub(super) fn event_wait(&mut self, caller: Caller, deadline: u64) -> Result {
        if self.machine.load(self.upcall_pending(caller.slot, caller.index)) != 0 {
            return Ok(1);
        }
        if deadline <= self.now() {
            return Ok(0);
        }
        // The result is put into the context when the vCPU runs again.
        self.vcpus[caller.vcpu].waiting = true;
        self.sched.block(caller.vcpu, deadline);
        Ok(0)
    }

    pub(super) fn event_unmask(&mut self, caller: Caller, port: Port) -> Result {
        self.unmask(caller.slot, port).map(|()| 0)
    }

    pub(super) fn event_close(&mut self, caller: Caller, port: Port) -> Result {
        if port == CONTROL_PORT || port == DOMAIN_EVENT_PORT {
            return Err(Error::NotPermitted);
        }
        self.open_entry(caller, port)?;
        self.close_port(caller.slot, port);
        Ok(0)
    }

    pub(super) fn event_bind_vcpu(&mut self, caller: Caller, port: Port, vcpu: u64) -> Result {
        let entry = self.open_entry(caller, port)?;
        self.domains[caller.slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        self.domains[caller.slot].ports.set(&self.machine, port, Entry { vcpu: vcpu as u8, ..entry });
        Ok(0)
    }

    pub(super) fn event_connect(&mut self, caller: Caller, first: Handle, second: Handle) -> Result {
        let first = self.domain(caller, first, Rights::CONNECT)?;
        let second = self.domain(caller, second, Rights::CONNECT)?;
        if self.domains[first].is_gone() || self.domains[second].is_gone() {
            return Err(Error::WrongState);
        }
        let (one, other) = self.connect(first, second, None)?;
        Ok((one.0 as u64) << 32 | other.0 as u64)
    }

    /// The entry of a port of the caller that is open.
    fn open_entry(&self, caller: Caller, port: Port) -> Result<Entry> {
        let entry = self.domains[caller.slot].ports.get(&self.machine, port);
        if entry.binding == Binding::Closed { Err(Error::BadPort) } else { Ok(entry) }
    }
}
