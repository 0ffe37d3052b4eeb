//! The death of a domain: what is reported, and to whom.

use core::fmt::{self, Write};

use protocol::domain::{BACKTRACE_MAX, DeathReport, Reason, State};
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::name_text;

use crate::platform::{Fault, Registers, exception_name, reg};
use crate::prelude::*;

/// What ended a domain.
pub(crate) enum Cause<'a> {
    /// It asked for it, with a code and a message that fits the report.
    Exit(u64, &'a [u8]),
    /// An exception.
    Fault(Fault),
}

impl<M: Machine> Core<M> {
    /// Ends the caller's domain: only it stops, and dom0 hears of it.
    pub(crate) fn die(&mut self, caller: Caller, reason: Reason, cause: Cause<'_>) {
        let slot = caller.slot;
        if self.domains[slot].state != Some(State::Running) {
            return;
        }
        let registers: Registers = self.machine.get(caller.context.at(0));
        let mut report = DeathReport {
            reason: reason as u32,
            vcpu: caller.index.into(),
            rip: registers.rip,
            rflags: registers.rflags,
            registers: registers.general,
            time_ns: self.now(),
            backtrace: self.backtrace(slot, registers.general[reg::RBP]),
            ..DeathReport::default()
        };
        let (id, name) = (slot.number(), self.domains[slot].info.name);
        let name = name_text(&name);
        match cause {
            Cause::Exit(code, message) => {
                report.code = code;
                report.message_length = message.len() as u64;
                report.message.iter_mut().zip(message).for_each(|(to, from)| *to = *from);
                self.say(format_args!("domain {id} ({name}) ended: {}, code {code} {}", reason.text(), Text(message)));
            }
            Cause::Fault(Fault { vector, error, address }) => {
                (report.vector, report.error, report.address) = (vector, error, address);
                let what = exception_name(vector);
                let (rip, vcpu) = (report.rip, report.vcpu);
                self.say(format_args!(
                    "domain {id} ({name}) killed: {what} (vector {vector}, error {error:#x}) at rip {rip:#x}, address {address:#x}, vcpu {vcpu}"
                ));
            }
        }
        self.machine.put(self.domains[slot].report(), &report);
        (self.domains[slot].state, self.domains[slot].info.reason) = (Some(State::Dead), reason as u32);
        self.halt(slot);
        self.disarm(slot);
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

/// Bytes that a domain wrote, for a log line: what is no printable ASCII becomes a dot.
pub(crate) struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |byte: u8| if matches!(byte, b' '..=b'~') { byte as char } else { '.' };
        self.0.iter().try_for_each(|&byte| f.write_char(printable(byte)))
    }
}
