//! Event channels: making ports pending, waking who waits for them, opening and closing.
//!
//! Both ends of a channel name each other, and closing one unconnects the other, so a connected port always has a live
//! peer; the incarnation in it is checked all the same. Whether the peer runs does not matter: what is sent while it is dead,
//! reset or being built stays pending in its event page.

use protocol::error::{Error, Result};
use protocol::event::{MASK, PENDING, Port, SELECTOR, UPCALL_PENDING, VCPU_SIZE, VCPUS, WORDS, vcpu_record};

use crate::platform::{Machine, Phys};
use crate::ports::{Binding, Entry};
use crate::slot::Slot;
use crate::state::Core;

/// ISA interrupt lines.
pub const LINES: usize = 16;

/// The word of a port in an array of words, and its bit there.
const fn word_of(port: Port) -> (usize, u64) {
    (port.0 as usize / 64 % WORDS, 1 << (port.0 % 64))
}

impl<M: Machine> Core<M> {
    /// Makes a port pending, and wakes its vCPU if it is not masked.
    #[inline]
    pub(crate) fn signal(&mut self, slot: Slot, port: Port) {
        let (word, bit) = word_of(port);
        let at = self.domains[slot].events.at(PENDING + word * 8);
        if self.machine.fetch_or(at, bit) & bit == 0 {
            self.notify(slot, port);
        }
    }

    /// Tells the vCPU of a pending port, unless the port is masked or the vCPU knows already.
    #[inline]
    fn notify(&mut self, slot: Slot, port: Port) {
        let (word, bit) = word_of(port);
        let domain = &self.domains[slot];
        if self.machine.load(domain.events.at(MASK + word * 8)) & bit != 0 {
            return;
        }
        let vcpu = domain.ports.get(&self.machine, port).vcpu;
        let record = vcpu_record(vcpu as u32);
        self.machine.fetch_or(domain.events.at(record + SELECTOR), 1 << word);
        if self.machine.fetch_or(domain.events.at(record + UPCALL_PENDING), 1) == 0
            && let Some(id) = domain.vcpu(vcpu as u64)
        {
            self.wake(id);
        }
    }

    /// Sends to the peer of a port.
    #[inline]
    pub(crate) fn send(&mut self, slot: Slot, port: Port) -> Result<()> {
        match self.domains[slot].ports.get(&self.machine, port).binding {
            Binding::Peer(peer, remote, incarnation) => {
                if self.domains[peer].incarnation != incarnation {
                    return Err(Error::NoPeer);
                }
                self.domains[slot].events_sent += 1;
                self.signal(peer, remote);
                Ok(())
            }
            Binding::Closed => Err(Error::BadPort),
            _ => Err(Error::NoPeer),
        }
    }

    /// Unmasks a port: what became pending meanwhile is told now.
    pub(crate) fn unmask(&mut self, slot: Slot, port: Port) -> Result<()> {
        let binding = self.domains[slot].ports.get(&self.machine, port).binding;
        if binding == Binding::Closed {
            return Err(Error::BadPort);
        }
        let (word, bit) = word_of(port);
        let events = self.domains[slot].events;
        self.machine.fetch_and(events.at(MASK + word * 8), !bit);
        if self.machine.load(events.at(PENDING + word * 8)) & bit != 0 {
            self.notify(slot, port);
        }
        if let Binding::Interrupt(line) = binding {
            self.machine.mask_line(line, false);
        }
        Ok(())
    }

    /// Place of the word that says whether a vCPU has something to look at.
    #[inline]
    pub(crate) fn upcall_pending(&self, slot: Slot, vcpu: u8) -> Phys {
        self.domains[slot].events.at(vcpu_record(vcpu as u32) + UPCALL_PENDING)
    }

    /// Opens the lowest closed port.
    pub(crate) fn open_port(&mut self, slot: Slot, binding: Binding) -> Result<Port> {
        let port = self.domains[slot].ports.find_closed(&self.machine)?;
        self.open_fixed(slot, port, binding);
        Ok(port)
    }

    /// Opens this port, which is closed.
    pub(crate) fn open_fixed(&mut self, slot: Slot, port: Port, binding: Binding) {
        self.domains[slot].ports.set(&self.machine, port, Entry { binding, vcpu: 0 });
        self.domains[slot].port_count += 1;
    }

    /// Makes a channel between two domains, at `fixed` or any port of the second. Gives both ports.
    pub(crate) fn connect(&mut self, first: Slot, second: Slot, fixed: Option<Port>) -> Result<(Port, Port)> {
        let one = self.open_port(first, Binding::Unconnected)?;
        let other = match fixed.map_or_else(|| self.domains[second].ports.find_closed(&self.machine), Ok) {
            Ok(port) => port,
            Err(error) => {
                self.close_port(first, one);
                return Err(error);
            }
        };
        let (there, here) = (self.domains[second].incarnation, self.domains[first].incarnation);
        self.open_fixed(second, other, Binding::Peer(first, one, here));
        let entry = Entry { binding: Binding::Peer(second, other, there), vcpu: 0 };
        self.domains[first].ports.set(&self.machine, one, entry);
        Ok((one, other))
    }

    /// Closes a port, if it is open.
    pub(crate) fn close_port(&mut self, slot: Slot, port: Port) {
        let ports = self.domains[slot].ports;
        match ports.get(&self.machine, port).binding {
            Binding::Closed => return,
            Binding::Peer(peer, remote, incarnation) if self.domains[peer].incarnation == incarnation => {
                let table = self.domains[peer].ports;
                let entry = Entry { binding: Binding::Unconnected, ..table.get(&self.machine, remote) };
                table.set(&self.machine, remote, entry);
            }
            Binding::Interrupt(line) => {
                self.machine.mask_line(line, true);
                self.interrupts[line as usize % LINES] = None;
            }
            _ => {}
        }
        ports.set(&self.machine, port, Entry { binding: Binding::Closed, vcpu: 0 });
        self.domains[slot].port_count -= 1;
        let (word, bit) = word_of(port);
        for array in [PENDING, MASK] {
            self.machine.fetch_and(self.domains[slot].events.at(array + word * 8), !bit);
        }
    }

    /// Makes an event page fit for a fresh image: nothing masked, everything pending told to the first vCPU.
    pub(crate) fn renew_events(&mut self, slot: Slot) {
        let events = self.domains[slot].events;
        let mut selector = 0;
        for word in 0..WORDS {
            self.machine.store(events.at(MASK + word * 8), 0);
            selector |= ((self.machine.load(events.at(PENDING + word * 8)) != 0) as u64) << word;
        }
        for at in (VCPUS..VCPUS + VCPU_SIZE * protocol::event::MAX_VCPUS).step_by(8) {
            self.machine.store(events.at(at), 0);
        }
        self.machine.store(events.at(VCPUS + SELECTOR), selector);
        self.machine.store(events.at(VCPUS + UPCALL_PENDING), (selector != 0) as u64);
    }
}
