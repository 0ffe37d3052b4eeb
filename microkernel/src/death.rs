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

    /// Return addresses, as far as the domain itself could follow them.
    fn backtrace(&self, slot: Slot, frame: u64) -> [u64; BACKTRACE_MAX] {
        let mut found = [0; BACKTRACE_MAX];
        let read = |frame| Some(self.reach(slot, frame, 16, false).ok()?.get(&self.machine, 0));
        found.iter_mut().zip(return_addresses(frame, read)).for_each(|(place, address)| *place = address);
        found
    }
}

/// Return addresses by the chain of frame pointers from `frame` on, innermost first. `read` gives the two words at a place, the
/// next frame and the address, or nothing where the chain cannot be followed.
pub fn return_addresses(frame: u64, read: impl Fn(u64) -> Option<[u64; 2]>) -> impl Iterator<Item = u64> {
    let mut at = Some(frame);
    core::iter::from_fn(move || {
        let frame = at?;
        let [next, back] = read(frame)?;
        // The stack grows down, so a chain that does not go up is at its end.
        at = Some(next).filter(|&next| next > frame);
        Some(back)
    })
}

/// Bytes that a domain wrote, as text for a log line: what is no printable ASCII becomes a dot.
pub(crate) fn printable(bytes: &mut [u8]) -> &str {
    bytes.iter_mut().filter(|byte| !matches!(byte, b' '..=b'~')).for_each(|byte| *byte = b'.');
    core::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::return_addresses;

    #[test]
    fn a_chain_of_frames_ends_where_it_does_not_go_up_or_cannot_be_read() {
        let stack = |at: u64| [[16, 100], [32, 101], [16, 102]].get(at as usize / 16).copied();
        assert_eq!(return_addresses(0, stack).collect::<Vec<_>>(), [100, 101, 102]);
        assert_eq!(return_addresses(48, stack).count(), 0);
        assert_eq!(return_addresses(8, |at| Some([at, 7])).collect::<Vec<_>>(), [7]);
    }
}
