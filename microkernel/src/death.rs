//! The death of a domain: what is reported, and to whom.

use core::fmt;

use protocol::domain::{BACKTRACE_MAX, DeathReport, MESSAGE_MAX, Reason, State};
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::name_text;
use zerocopy::{FromZeros, IntoBytes};

use crate::platform::{Fault, Machine, Registers, reg};
use crate::slot::Slot;
use crate::state::{Caller, Core};
use crate::user::UserRange;

/// What ended a domain.
pub(crate) enum Cause<'a> {
    /// It asked for it, with a code and a message of at most [`MESSAGE_MAX`] bytes.
    Exit(u64, &'a [u8]),
    /// An exception.
    Fault(Fault),
}

/// Name of an exception (Intel SDM vol. 3, table 6-1).
const fn exception(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        _ => "exception",
    }
}

impl<M: Machine> Core<M> {
    /// Ends the caller's domain; only it stops, and dom0 hears of it.
    pub(crate) fn die(&mut self, caller: Caller, reason: Reason, cause: Cause<'_>) {
        let slot = caller.slot;
        if self.domains[slot].state != Some(State::Running) {
            return;
        }
        let mut registers = Registers::new_zeroed();
        self.machine.read(caller.context.at(0), registers.as_mut_bytes());
        let mut report = DeathReport {
            reason: reason as u32,
            vcpu: caller.index as u32,
            rip: registers.rip,
            rflags: registers.rflags,
            registers: registers.general,
            backtrace: self.backtrace(slot, registers.general[reg::RBP]),
            ..DeathReport::default()
        };
        let name = self.domains[slot].name;
        let (id, name) = (slot.number(), name_text(&name));
        match cause {
            Cause::Exit(code, message) => {
                report.code = code;
                let room = &mut report.message[..message.len().min(MESSAGE_MAX)];
                room.copy_from_slice(&message[..room.len()]);
                report.message_length = room.len() as u64;
                self.say(format_args!("domain {id} ({name}): ended: {}, code {code} {}", reason.text(), Text(message)));
            }
            Cause::Fault(Fault { vector, error, address }) => {
                (report.vector, report.error, report.address) = (vector, error, address);
                self.say(format_args!(
                    "domain {id} ({name}): killed: {} (vector {vector}, error {error:#x}) at rip {:#x}, address {address:#x}, vcpu {}",
                    exception(vector),
                    report.rip,
                    report.vcpu,
                ));
            }
        }
        self.machine.write(self.domains[slot].report(), report.as_bytes());
        self.end(slot, reason);
    }

    /// Stops a running domain for good and tells dom0.
    pub(crate) fn end(&mut self, slot: Slot, reason: Reason) {
        self.domains[slot].state = Some(State::Dead);
        self.domains[slot].reason = reason;
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
            let checked =
                UserRange::new(frame, 16).and_then(|range| range.check(&self.machine, self.domains[slot].space, false));
            let Ok(checked) = checked else { break };
            let [next, back]: [u64; 2] = checked.get(&self.machine, 0);
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
        self.0.iter().try_for_each(|&byte| {
            fmt::Write::write_char(f, if matches!(byte, b' '..=b'~') { byte as char } else { '.' })
        })
    }
}
