//! The death of a domain: what is reported, and to whom.

use protocol::domain::{BACKTRACE_MAX, DeathReport, MESSAGE_MAX, Reason, State};
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::name_text;

use crate::platform::{Registers, reg};
use crate::prelude::*;

impl<M: Machine> Core<M> {
    /// Ends the caller's domain: only it stops, and dom0 hears of it. `report` says why; where it happened is filled in here.
    pub(crate) fn die(&mut self, caller: Caller, reason: Reason, mut report: DeathReport) {
        let slot = caller.slot;
        if self.domains[slot].state != Some(State::Running) {
            return;
        }
        let Registers { general, rip, rflags, .. } = self.machine.get(caller.context.at(0));
        (report.reason, report.vcpu, report.time_ns) = (reason as u32, caller.index.into(), self.now());
        (report.rip, report.rflags, report.registers) = (rip, rflags, general);
        report.backtrace = self.backtrace(slot, general[reg::RBP]);
        self.machine.put(self.domains[slot].report(), &report);
        (self.domains[slot].state, self.domains[slot].info.reason) = (Some(State::Dead), reason as u32);
        self.halt(slot);
        self.disarm(slot);
        let DeathReport { code, vector, error, address, message_length, .. } = report;
        let (id, name) = (slot.number(), self.domains[slot].info.name);
        let message = printable(&mut report.message[..(message_length as usize).min(MESSAGE_MAX)]);
        let name = name_text(&name);
        self.say(format_args!(
            "domain {id} ({name}) is dead: {reason:?}, code {code}, exception {vector}, error {error:#x}, \
             address {address:#x}, rip {rip:#x}: {message}"
        ));
        if slot == Slot::DOM0 {
            self.say(format_args!("dom0 is dead; the core runs on without a control plane"));
        } else {
            self.signal(Slot::DOM0, DOMAIN_EVENT_PORT);
        }
    }

    /// Return addresses by the chain of frame pointers, as far as the domain itself could follow it.
    fn backtrace(&self, slot: Slot, mut frame: u64) -> [u64; BACKTRACE_MAX] {
        let mut found = [0; BACKTRACE_MAX];
        for address in &mut found {
            let Ok(pair) = self.reach(slot, frame, 16, false) else { break };
            let [next, back]: [u64; 2] = pair.get(&self.machine, 0);
            *address = back;
            if next <= frame {
                break;
            }
            frame = next;
        }
        found
    }
}

/// Bytes that a domain wrote, as text for a log line: what is no printable ASCII becomes a dot.
pub(crate) fn printable(bytes: &mut [u8]) -> &str {
    bytes.iter_mut().filter(|byte| !matches!(byte, b' '..=b'~')).for_each(|byte| *byte = b'.');
    core::str::from_utf8(bytes).unwrap_or_default()
}
