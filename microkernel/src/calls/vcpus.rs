//! Hypercalls of a vCPU about itself, its siblings and the end.

use protocol::domain::{MESSAGE_MAX, Reason};
use protocol::error::{Error, Result};
use protocol::handle::{Handle, Rights};
use protocol::layout::USER_END;

use super::{at_most, narrow};
use crate::death::Cause;
use crate::platform::Machine;
use crate::state::{Caller, Core};

impl<M: Machine> Core<M> {
    pub(super) fn vcpu_info(&mut self, caller: Caller, domain: Handle, vcpu: u64, out: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::INSPECT)?;
        let id = self.domains[slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        let info = self.sched.info(id, self.now());
        self.deliver(caller, out, &info)
    }

    pub(super) fn vcpu_start(&mut self, caller: Caller, vcpu: u64, entry: u64, stack: u64) -> Result {
        let id = self.domains[caller.slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        check_start(entry, stack)?;
        if self.vcpus[id].started {
            return Err(Error::WrongState);
        }
        self.start_vcpu(caller.slot, vcpu, entry, stack);
        Ok(0)
    }

    pub(super) fn vcpu_yield(&mut self, _caller: Caller) -> Result {
        let now = self.now();
        self.sched.yield_now(self.here, now);
        Ok(0)
    }

    pub(super) fn domain_exit(&mut self, caller: Caller, reason: u64, code: u64, message: u64, length: u64) -> Result {
        let reason = match Reason::from_number(narrow(reason)?) {
            Some(reason @ (Reason::Shutdown | Reason::Reboot | Reason::Panic)) => reason,
            _ => return Err(Error::Invalid),
        };
        let length = at_most(length, MESSAGE_MAX as u64)?;
        let mut text = [0; MESSAGE_MAX];
        let text = &mut text[..length as usize];
        self.memory(caller, message, length, false)?.read(&self.machine, 0, text);
        self.die(caller, reason, Cause::Exit(code, text));
        Ok(0)
    }

    pub(super) fn clock(&mut self, _caller: Caller) -> Result {
        Ok(self.now())
    }
}

/// Checks where a vCPU is to start. A stack pointer may equal the end of the domain's half.
pub(super) fn check_start(entry: u64, stack: u64) -> Result<()> {
    if entry < USER_END && stack <= USER_END { Ok(()) } else { Err(Error::BadAddress) }
}
