//! Event channels: making ports pending, waking who waits for them, opening and closing.
//!
//! Both ends of a channel name each other, and closing one unconnects the other, so a connected port always has a live
//! peer; the incarnation in it is checked all the same. Whether the peer runs does not matter: what is sent while it is dead,
//! reset or being built stays pending in its event page.

use protocol::event::{CONTROL_PORT, DOMAIN_EVENT_PORT, MASK, PENDING, SELECTOR, UPCALL_PENDING, WORDS};
use protocol::event::{MAX_VCPUS, VCPUS, vcpu_record};

use crate::platform::reg;
use crate::ports::{Entry, Use};
use crate::prelude::*;
use crate::sched::VcpuId;

/// ISA interrupt lines: the first sources of interrupts.
pub const LINES: usize = 16;
/// First source that is a message of a device; those between have vectors that the core uses itself.
pub const MESSAGES: usize = 32;
/// Sources of interrupts.
pub const SOURCES: usize = 192;
/// Vector of source 0; the others follow.
pub const VECTORS: usize = 0x30;

/// Offset of the word of a port in an array of words, and its bit there.
const fn word_of(port: Port) -> (usize, u64) {
    (port.0 as usize / 64 % WORDS * 8, 1 << (port.0 % 64))
}

impl<M: Machine> Core<M> {
    /// The entry of a port in range.
    #[inline]
    pub(crate) fn port(&self, slot: Slot, port: Port) -> Entry {
        self.domains[slot].ports.get(&self.machine, port)
    }

    /// Makes a port pending, and wakes its vCPU if it is not masked.
    pub(crate) fn signal(&mut self, slot: Slot, port: Port) {
        let told = self.raise(slot, port);
        self.wake(told);
    }

    /// Makes a port pending. Gives who is to be woken.
    #[inline(always)]
    fn raise(&mut self, slot: Slot, port: Port) -> Option<VcpuId> {
        let (word, bit) = word_of(port);
        let at = self.domains[slot].events.at(PENDING + word);
        if self.machine.fetch_or(at, bit) & bit == 0 { self.notify(slot, port) } else { None }
    }

    fn wake(&mut self, vcpu: Option<VcpuId>) {
        if let Some(id) = vcpu {
            self.sched.wake(id, self.now());
        }
    }

    /// Tells the vCPU of a pending port, unless the port is masked or the vCPU knows already. Gives it if it waits.
    #[inline(always)]
    fn notify(&mut self, slot: Slot, port: Port) -> Option<VcpuId> {
        let (word, bit) = word_of(port);
        let domain = &self.domains[slot];
        if self.machine.load(domain.events.at(MASK + word)) & bit != 0 {
            return None;
        }
        let vcpu = domain.ports.get(&self.machine, port).vcpu();
        let record = vcpu_record(vcpu as u32);
        self.machine.fetch_or(domain.events.at(record + SELECTOR), 1 << (word / 8));
        let knew = self.machine.fetch_or(domain.events.at(record + UPCALL_PENDING), 1) & 1 != 0;
        let id = domain.vcpus[vcpu as usize % MAX_VCPUS];
        if knew || !self.sched.waits(id) {
            if !knew {
                self.interrupt_guest(id);
            }
            return None;
        }
        self.machine.store(self.vcpus[id].context.at(reg::RAX * 8), 1);
        Some(id)
    }

    /// Opens this closed port, or the lowest one.
    pub(crate) fn open_port(&mut self, slot: Slot, port: Option<Port>, entry: Entry) -> Result<Port> {
        let port = port.map_or_else(|| self.domains[slot].ports.find_closed(&self.machine), Ok)?;
        self.domains[slot].ports.set(&self.machine, port, entry);
        self.domains[slot].info.ports += 1;
        Ok(port)
    }

    /// Makes a channel between two domains, at `fixed` or any port of the second. Gives both ports.
    pub(crate) fn connect(&mut self, first: Slot, second: Slot, fixed: Option<Port>) -> Result<(Port, Port)> {
        let to = |core: &Self, peer, port: Port| {
            let incarnation = core.domains[peer].info.incarnation;
            Entry { peer, incarnation, ..Entry::new(Use::PEER, port.0 as u16) }
        };
        let one = self.open_port(first, None, Entry::new(Use::UNCONNECTED, 0))?;
        let opened = self.open_port(second, fixed, to(self, first, one));
        let other = opened.inspect_err(|_| self.close_port(first, one))?;
        self.domains[first].ports.set(&self.machine, one, to(self, second, other));
        Ok((one, other))
    }

    /// Closes a port, if it is open.
    pub(crate) fn close_port(&mut self, slot: Slot, port: Port) {
        let entry = self.port(slot, port);
        match entry.purpose() {
            Use::CLOSED => return,
            Use::PEER if self.domains[entry.peer].info.incarnation == entry.incarnation => {
                let (ports, remote) = (self.domains[entry.peer].ports, Port(entry.port.into()));
                let vcpu = ports.get(&self.machine, remote).vcpu();
                ports.set(&self.machine, remote, Entry::new(Use::UNCONNECTED, 0).notifying(vcpu));
            }
            Use::INTERRUPT => {
                let source = entry.port as usize % SOURCES;
                match self.devices.get(entry.incarnation as usize >> 16) {
                    _ if source < LINES => self.machine.mask_line(source as u8, true),
                    Some(device) => self.mask_message(device, entry.incarnation as u16),
                    None => {}
                }
                self.interrupts[source] = None;
            }
            _ => {}
        }
        let domain = &mut self.domains[slot];
        domain.ports.set(&self.machine, port, Entry::new(Use::CLOSED, 0));
        domain.info.ports -= 1;
        let (word, bit) = word_of(port);
        for array in [PENDING, MASK] {
            self.machine.fetch_and(domain.events.at(array + word), !bit);
        }
    }

    /// What teardown does to a port. The end closes all. A reset closes interrupts, which the next image binds itself, and
    /// keeps channels. Gives whether it was open.
    pub(crate) fn dismantle_port(&mut self, slot: Slot, port: Port, for_good: bool) -> bool {
        let entry = self.port(slot, port);
        if for_good || entry.purpose() == Use::INTERRUPT {
            self.close_port(slot, port);
        } else if entry.vcpu() != 0 {
            self.domains[slot].ports.set(&self.machine, port, entry.notifying(0));
        }
        entry.purpose() != Use::CLOSED
    }

    /// Makes an event page fit for a fresh image: nothing masked, everything pending told to the first vCPU.
    pub(crate) fn renew_events(&mut self, slot: Slot) {
        let events = self.domains[slot].events;
        (MASK..PAGE_SIZE as usize).step_by(8).for_each(|at| self.machine.store(events.at(at), 0));
        let pending = |word: &usize| self.machine.load(events.at(PENDING + word * 8)) != 0;
        let selector = (0..WORDS).filter(pending).fold(0, |selector, word| selector | 1 << word);
        self.machine.store(events.at(VCPUS + SELECTOR), selector);
        self.machine.store(events.at(VCPUS + UPCALL_PENDING), (selector != 0) as u64);
    }

    #[inline(always)]
    pub(crate) fn event_send(&mut self, caller: Caller, port: Port) -> Result {
        let entry = self.open_entry(caller.slot, port)?;
        let peer = &self.domains[entry.peer];
        refuse_if(entry.purpose() != Use::PEER || peer.info.incarnation != entry.incarnation, Error::NoPeer)?;
        self.domains[caller.slot].info.events_sent += 1;
        let told = self.raise(entry.peer, Port(entry.port.into()));
        if let Some(id) = told {
            if self.sched.hand_over(self.here, id, self.now()) {
                self.cpus[self.here].current = self.vcpus[id];
            } else {
                self.wake(told);
            }
        }
        Ok(0)
    }

    #[inline(always)]
    pub(crate) fn event_wait(&mut self, caller: Caller, deadline: u64) -> Result {
        let record = vcpu_record(caller.index.into());
        if self.machine.load(self.domains[caller.slot].events.at(record + UPCALL_PENDING)) != 0 {
            return Ok(1);
        }
        if deadline > self.now() {
            // Who wakes it makes the result 1.
            self.sched.block(caller.vcpu, deadline);
        }
        Ok(0)
    }

    pub(crate) fn event_unmask(&mut self, caller: Caller, port: Port) -> Result {
        let entry = self.open_entry(caller.slot, port)?;
        let (word, bit) = word_of(port);
        let events = self.domains[caller.slot].events;
        self.machine.fetch_and(events.at(MASK + word), !bit);
        if self.machine.load(events.at(PENDING + word)) & bit != 0 {
            let told = self.notify(caller.slot, port);
            self.wake(told);
        }
        if entry.purpose() == Use::INTERRUPT && (entry.port as usize) < LINES {
            self.machine.mask_line(entry.port as u8, false);
        }
        Ok(0)
    }

    pub(crate) fn event_close(&mut self, _: Caller, slot: Slot, port: Port) -> Result {
        refuse_if(port == CONTROL_PORT || port == DOMAIN_EVENT_PORT, Error::NotPermitted)?;
        self.open_entry(slot, port)?;
        self.close_port(slot, port);
        Ok(0)
    }

    pub(crate) fn event_bind_vcpu(&mut self, caller: Caller, port: Port, vcpu: u64) -> Result {
        let entry = self.open_entry(caller.slot, port)?;
        self.domains[caller.slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        self.domains[caller.slot].ports.set(&self.machine, port, entry.notifying(vcpu as u8));
        Ok(0)
    }

    pub(crate) fn event_connect(&mut self, _: Caller, first: Slot, second: Slot) -> Result {
        let (one, other) = self.connect(first, second, None)?;
        Ok((one.0 as u64) << 32 | other.0 as u64)
    }

    /// The entry of a port that is open.
    #[inline(always)]
    fn open_entry(&self, slot: Slot, port: Port) -> Result<Entry> {
        let entry = self.port(slot, port);
        if entry.purpose() == Use::CLOSED { Err(Error::BadPort) } else { Ok(entry) }
    }
}
