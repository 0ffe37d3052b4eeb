//! The guest's event channels: its ports, and the bits by which it learns of them (Xen's 2-level ABI).
//!
//! The bits lie in pages of the guest, who clears them; the order of the steps in [`Events::raise`] is part of the ABI. A
//! channel that leads out of the guest is tied to a port of the monitor's own.

use alloc::vec::Vec;
use core::cell::Cell;

use protocol::event::Port;
use unikernel::vm::GuestPage;

use crate::errno::Errno;
use crate::time::{self, Clock};

/// Ports that the 2-level ABI has.
const PORTS: u32 = 4096;
/// Offset of the pending words in shared_info.
const PENDING: usize = 0x800;
/// Offset of the mask words, and the same in the layout for 32-bit guests.
const MASK: usize = 0xa00;
const MASK_NARROW: usize = 0x880;
/// Ports that a guest can have: as many as the ABI of 32-bit guests has, and one more than Xen gives a guest if nobody says otherwise.
const PORTS_MAX: usize = 1024;
/// Bytes of a vcpu_info.
const VCPU_INFO: usize = 64;
/// vCPUs that have a place in shared_info.
const SHARED_VCPUS: u32 = 32;
/// In a vcpu_info: a byte, not 0 while there is something to look at.
const UPCALL_PENDING: usize = 0;
/// In a vcpu_info: a bit for each word with something pending.
const SELECTOR: usize = 8;
/// In that of a 32-bit guest.
const SELECTOR_NARROW: usize = 4;

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: it is free.
    Free,
    /// Waits for this peer.
    Unbound(u16),
    /// Leads to this peer, by a port of the monitor's.
    Peer(u16, Port),
    /// A virtual interrupt: its number.
    Virq(u32),
    /// Inter-processor.
    Ipi,
}

/// The timer's virtual interrupt.
pub const VIRQ_TIMER: u32 = 0;
/// Number of virtual interrupts; only that of the timer is ever raised.
const VIRQS: u32 = 24;
/// Whether each vCPU has its own: the timer, debugging and a few that never happen.
const fn virq_is_per_vcpu(virq: u32) -> bool {
    matches!(virq, 0 | 1 | 12)
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    binding: Binding,
    vcpu: u32,
}

/// Where a vCPU looks.
#[derive(Debug)]
struct VcpuInfo {
    /// A place of its own, which it has registered.
    own: Option<(GuestPage, usize)>,
}

/// All ports of the guest.
#[derive(Debug)]
pub struct Events {
    ports: Vec<Entry>,
    shared: Option<GuestPage>,
    /// The guest's words have 64 bits.
    wide: bool,
    vcpus: Vec<VcpuInfo>,
    /// vCPUs, a bit each, that got something to look at when they had nothing.
    edges: Cell<u32>,
    /// What the wall clock says: UTC when system time began.
    start_utc: u64,
}

/// Bits of ports in words of 64.
fn place(port: u32) -> (usize, u64) {
    (port as usize / 64 * 8, 1 << (port % 64))
}

impl Events {
    /// None open.
    pub fn new(vcpus: u32, start_utc: u64) -> Events {
        let vcpus = (0..vcpus).map(|_| VcpuInfo { own: None }).collect();
        // Port 0 is never valid.
        let reserved = Entry { binding: Binding::Ipi, vcpu: 0 };
        Events { ports: Vec::from([reserved]), shared: None, wide: true, vcpus, edges: Cell::new(0), start_utc }
    }

    fn allocate(&mut self, binding: Binding, vcpu: u32) -> Result<u32, Errno> {
        let entry = Entry { binding, vcpu };
        if let Some(port) = self.ports.iter().position(|entry| entry.binding == Binding::Free) {
            self.ports[port] = entry;
            return Ok(port as u32);
        }
        if self.ports.len() >= PORTS_MAX {
            return Err(Errno::ENOSPC);
        }
        self.ports.push(entry);
        Ok(self.ports.len() as u32 - 1)
    }

    fn entry(&self, port: u32) -> Result<Entry, Errno> {
        let entry = self.ports.get(port as usize).filter(|entry| port != 0 && entry.binding != Binding::Free);
        entry.copied().ok_or(Errno::EINVAL)
    }

    /// What a port is for, and the vCPU that it notifies.
    pub fn status(&self, port: u32) -> Result<(Binding, u32), Errno> {
        match port {
            1..PORTS => Ok(self.entry(port).map_or((Binding::Free, 0), |entry| (entry.binding, entry.vcpu))),
            _ => Err(Errno::EINVAL),
        }
    }

    /// A new port that waits for a peer.
    pub fn allocate_unbound(&mut self, peer: u16) -> Result<u32, Errno> {
        self.allocate(Binding::Unbound(peer), 0)
    }

    /// A new port for a virtual interrupt.
    pub fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<u32, Errno> {
        if virq >= VIRQS || !virq_is_per_vcpu(virq) && vcpu != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_vcpu(vcpu)?;
        match self.find_virq(virq, vcpu) {
            Some(_) => Err(Errno::EEXIST),
            None => self.allocate(Binding::Virq(virq), vcpu),
        }
    }

    /// A new port by which vCPUs signal to this one.
    pub fn bind_ipi(&mut self, vcpu: u32) -> Result<u32, Errno> {
        self.check_vcpu(vcpu)?;
        self.allocate(Binding::Ipi, vcpu)
    }

    fn check_vcpu(&self, vcpu: u32) -> Result<(), Errno> {
        if (vcpu as usize) < self.vcpus.len() { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn find_virq(&self, virq: u32, vcpu: u32) -> Option<u32> {
        let wanted = |entry: &Entry| entry.binding == Binding::Virq(virq) && entry.vcpu == vcpu;
        self.ports.iter().position(wanted).map(|port| port as u32)
    }

    /// Lets a port notify another vCPU.
    pub fn bind_vcpu(&mut self, port: u32, vcpu: u32) -> Result<(), Errno> {
        self.check_vcpu(vcpu)?;
        match self.entry(port)?.binding {
            Binding::Unbound(_) | Binding::Peer(..) => {}
            Binding::Virq(virq) if !virq_is_per_vcpu(virq) => {}
            _ => return Err(Errno::EINVAL),
        }
        self.ports[port as usize].vcpu = vcpu;
        Ok(())
    }

    /// Frees a port.
    pub fn close(&mut self, port: u32) -> Result<(), Errno> {
        self.entry(port)?;
        self.ports[port as usize] = Entry { binding: Binding::Free, vcpu: 0 };
        if let Some(shared) = &self.shared {
            let (word, bit) = place(port);
            shared.clear_bits(PENDING + word, bit);
        }
        Ok(())
    }

    /// Ties a port that waits for `peer` to a port of the monitor's, whatever it was tied to before.
    pub fn connect(&mut self, port: u32, peer: u16, native: Port) -> Result<(), Errno> {
        match self.entry(port)?.binding {
            Binding::Unbound(waited) | Binding::Peer(waited, _) if waited == peer => {
                self.ports[port as usize].binding = Binding::Peer(peer, native);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Ends that, if the port is still tied to this one.
    pub fn disconnect(&mut self, port: u32, native: Port) {
        if let Ok(Entry { binding: Binding::Peer(peer, tied), .. }) = self.entry(port)
            && tied == native
        {
            self.ports[port as usize].binding = Binding::Unbound(peer);
        }
    }

    /// The guest signals on a port. Gives the monitor's port to send to, if it leads out, and a vCPU to wake.
    pub fn send(&self, port: u32) -> Result<(Option<Port>, Option<u32>), Errno> {
        match self.entry(port)?.binding {
            Binding::Peer(_, native) => Ok((Some(native), None)),
            Binding::Ipi => Ok((None, self.raise(port))),
            // Nobody is there yet.
            Binding::Unbound(_) => Ok((None, None)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Makes the timer interrupt of a vCPU pending.
    pub fn raise_timer(&self, vcpu: u32) {
        if let Some(port) = self.find_virq(VIRQ_TIMER, vcpu) {
            self.raise(port);
        }
    }

    /// Makes a port pending. Gives the vCPU to wake.
    pub fn raise(&self, port: u32) -> Option<u32> {
        let entry = self.entry(port).ok()?;
        let shared = self.shared.as_ref()?;
        let (word, bit) = place(port);
        if shared.set_bits(PENDING + word, bit) & bit != 0 {
            return None;
        }
        // Even masked it wakes a vCPU that polls for it.
        if shared.load_u64(self.mask() + word) & bit == 0 {
            self.notify(entry.vcpu, port);
        }
        Some(entry.vcpu)
    }

    /// Where the mask is.
    fn mask(&self) -> usize {
        if self.wide { MASK } else { MASK_NARROW }
    }

    fn notify(&self, vcpu: u32, port: u32) {
        // Of a 32-bit guest, the selector is the upper half of the word in which the upcall is.
        let (place, bit) = match self.wide {
            true => (SELECTOR, 1 << (port / 64)),
            false => (0, 1 << (32 + port / 32 % 32)),
        };
        if let Some((page, offset)) = self.vcpu_info(vcpu)
            && page.set_bits(offset + place, bit) & bit == 0
            && page.swap_u8(offset + UPCALL_PENDING, 1) == 0
        {
            self.mark_edge(vcpu);
        }
    }

    /// Unmasks a port, and signals if it is pending. Gives the vCPU to wake.
    pub fn unmask(&self, port: u32) -> Result<Option<u32>, Errno> {
        let entry = self.entry(port)?;
        let shared = self.shared.as_ref().ok_or(Errno::EINVAL)?;
        let (word, bit) = place(port);
        let was_masked = shared.clear_bits(self.mask() + word, bit) & bit != 0;
        if was_masked && shared.load_u64(PENDING + word) & bit != 0 {
            self.notify(entry.vcpu, port);
            return Ok(Some(entry.vcpu));
        }
        Ok(None)
    }

    /// Whether a port is pending.
    pub fn is_pending(&self, port: u32) -> bool {
        let (word, bit) = place(port % PORTS);
        self.shared.as_ref().is_some_and(|shared| shared.load_u64(PENDING + word) & bit != 0)
    }

    /// Whether a vCPU has something to look at.
    pub fn upcall_pending(&self, vcpu: u32) -> bool {
        self.vcpu_info(vcpu).is_some_and(|(page, offset)| page.load_u8(offset + UPCALL_PENDING) != 0)
    }

    fn mark_edge(&self, vcpu: u32) {
        self.edges.set(self.edges.get() | 1 << (vcpu % u32::BITS));
    }

    /// Whether a vCPU got something to look at since this was asked last, having had nothing.
    pub fn take_edge(&self, vcpu: u32) -> bool {
        let (edges, bit) = (self.edges.get(), 1 << (vcpu % u32::BITS));
        self.edges.set(edges & !bit);
        edges & bit != 0
    }

    fn vcpu_info(&self, vcpu: u32) -> Option<(&GuestPage, usize)> {
        match &self.vcpus.get(vcpu as usize)?.own {
            Some((page, offset)) => Some((page, *offset)),
            None if vcpu < SHARED_VCPUS => Some((self.shared.as_ref()?, vcpu as usize * VCPU_INFO)),
            None => None,
        }
    }

    /// Whether the guest's words have 64 bits.
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// The guest's words have 64 bits, or 32: its pages are laid out like that from now on.
    pub fn set_wide(&mut self, wide: bool) {
        self.wide = wide;
        if let Some(page) = &self.shared {
            time::publish_wall_clock(page, wide, self.start_utc);
        }
    }

    /// Makes a page the shared_info: with what the former one held, or from scratch.
    pub fn set_shared(&mut self, page: GuestPage, clock: &Clock) {
        use protocol::ring::Shared;
        let mut contents = [0; 4096];
        if let Some(old) = &self.shared {
            old.read(0, &mut contents);
        }
        page.write(0, &contents);
        self.shared = Some(page);
        if let Some(page) = &self.shared {
            time::publish_wall_clock(page, self.wide, self.start_utc);
            for vcpu in 0..(self.vcpus.len() as u32).min(SHARED_VCPUS) {
                clock.publish(page, vcpu as usize * VCPU_INFO + time::IN_VCPU_INFO);
            }
        }
    }

    /// Moves a vCPU's record to a place of its own, and makes it look at everything, so that nothing is lost.
    pub fn register_vcpu_info(
        &mut self,
        vcpu: u32,
        page: GuestPage,
        offset: usize,
        clock: &Clock,
    ) -> Result<(), Errno> {
        use protocol::ring::Shared;
        self.check_vcpu(vcpu).map_err(|_| Errno::EINVAL)?;
        if !offset.is_multiple_of(8) || offset + VCPU_INFO > 4096 || self.vcpus[vcpu as usize].own.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut contents = [0; VCPU_INFO];
        if let Some((old, from)) = self.vcpu_info(vcpu) {
            old.read(from, &mut contents);
        }
        page.write(offset, &contents);
        clock.publish(&page, offset + time::IN_VCPU_INFO);
        match self.wide {
            true => page.store_u64(offset + SELECTOR, u64::MAX),
            false => page.store_u32(offset + SELECTOR_NARROW, u32::MAX),
        }
        page.swap_u8(offset + UPCALL_PENDING, 1);
        self.vcpus[vcpu as usize].own = Some((page, offset));
        self.mark_edge(vcpu);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unikernel::vm::GuestMemory;

    const CLOCK: Clock = Clock { tsc: 1, ns: 2, tsc_hz: 2_000_000_000, start_utc: 1 << 31 };

    fn events() -> (GuestMemory, Events) {
        let mut memory = GuestMemory::take(&[(0, 4)]).unwrap();
        memory.populate(0, 4).unwrap();
        let mut events = Events::new(2, CLOCK.start_utc);
        events.set_shared(memory.pin(0).unwrap(), &CLOCK);
        (memory, events)
    }

    fn mask(memory: &GuestMemory, port: u32) {
        let (word, bit) = place(port);
        let at = (MASK + word) as u64;
        memory.write(at, &(memory.load_u64(at).unwrap() | bit).to_le_bytes()).unwrap();
    }

    #[test]
    fn ports_come_to_an_end() {
        let (_memory, mut events) = events();
        let taken = (0..).take_while(|_| events.allocate_unbound(0).is_ok()).count();
        assert_eq!((taken, events.allocate_unbound(0)), (PORTS_MAX - 1, Err(Errno::ENOSPC)));
    }

    #[test]
    fn an_event_is_pending_once_and_wakes_its_vcpu() {
        let (memory, mut events) = events();
        let port = events.bind_ipi(1).unwrap();
        assert_eq!(port, 1, "port 0 is never used");
        assert_eq!(events.send(port), Ok((None, Some(1))));
        assert!(events.upcall_pending(1) && !events.upcall_pending(0) && events.is_pending(port));
        assert_eq!(memory.load_u64(64 + 8), Ok(1));
        assert_eq!(events.send(port), Ok((None, None)), "it was pending");
        events.close(port).unwrap();
        assert!(!events.is_pending(port));
        assert_eq!(events.send(port), Err(Errno::EINVAL));
        assert_eq!(events.bind_virq(0, 0), Ok(port), "the lowest free port");
    }

    #[test]
    fn a_masked_event_waits_for_the_mask_to_go() {
        let (memory, mut events) = events();
        let port = events.allocate_unbound(2).unwrap();
        mask(&memory, port);
        assert_eq!(events.raise(port), Some(0), "somebody may poll for it");
        assert!(!events.upcall_pending(0));
        assert_eq!(events.unmask(port), Ok(Some(0)));
        assert!(events.upcall_pending(0));
        assert_eq!(events.unmask(port), Ok(None));
    }

    #[test]
    fn channels_out_of_the_guest_are_tied_by_whom_it_waits_for() {
        let (_memory, mut events) = events();
        let port = events.allocate_unbound(2).unwrap();
        assert_eq!(events.send(port), Ok((None, None)));
        assert_eq!(events.connect(port, 3, Port(9)), Err(Errno::EINVAL));
        events.connect(port, 2, Port(9)).unwrap();
        assert_eq!(events.send(port), Ok((Some(Port(9)), None)));
        events.bind_vcpu(port, 1).unwrap();
        assert_eq!(events.raise(port), Some(1));
        events.disconnect(port, Port(8));
        assert_eq!(events.send(port), Ok((Some(Port(9)), None)), "it is tied to another");
        events.disconnect(port, Port(9));
        assert_eq!(events.send(port), Ok((None, None)));
        assert_eq!(events.bind_vcpu(port, 2), Err(Errno::ENOENT));
        let timer = events.bind_virq(VIRQ_TIMER, 1).unwrap();
        assert_eq!((events.bind_vcpu(timer, 0), events.send(timer)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
        assert_eq!(events.bind_virq(VIRQ_TIMER, 1), Err(Errno::EEXIST));
        assert_eq!((events.bind_virq(3, 1), events.bind_virq(24, 0)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    }

    #[test]
    fn nothing_is_lost_when_a_vcpu_moves_its_record() {
        let (mut memory, mut events) = events();
        let port = events.bind_ipi(1).unwrap();
        events.raise(port);
        events.register_vcpu_info(1, memory.pin(2).unwrap(), 0x40, &CLOCK).unwrap();
        assert!(events.upcall_pending(1));
        assert_eq!(memory.load_u64(0x2048), Ok(u64::MAX));
        assert_eq!(memory.load_u64(0x2060 + 8), Ok(1), "the time goes with it");
        let again = events.register_vcpu_info(1, memory.pin(2).unwrap(), 0x80, &CLOCK);
        assert_eq!(again, Err(Errno::EINVAL));
        for (vcpu, offset) in [(0, 4032 + 8), (0, 4), (0, (usize::MAX - 63) & !7), (7, 0)] {
            let offset = offset.min(1 << 20);
            assert_eq!(events.register_vcpu_info(vcpu, memory.pin(3).unwrap(), offset, &CLOCK), Err(Errno::EINVAL));
        }
        events.set_shared(memory.pin(1).unwrap(), &CLOCK);
        assert!(events.is_pending(port), "what was pending moved along");
    }

    proptest! {
        /// Whatever a guest asks for, in whatever order and with whatever in its pages, is answered.
        #[test]
        fn any_sequence_is_answered(steps in prop::collection::vec((0u8..9, 0u32..5000, 0u32..5, any::<u64>()), 0..200)) {
            let (memory, mut events) = events();
            for (what, port, vcpu, value) in steps {
                let _ = match what {
                    0 => events.allocate_unbound(vcpu as u16).map(drop),
                    1 => events.bind_virq(port, vcpu).map(drop),
                    2 => events.bind_ipi(vcpu).map(drop),
                    3 => events.bind_vcpu(port % 8, vcpu),
                    4 => events.close(port % 8),
                    5 => events.send(port % 8).map(drop),
                    6 => events.unmask(port).map(drop),
                    7 => events.connect(port % 8, vcpu as u16, Port(5)),
                    _ => memory.write(u64::from(port) % 4088, &value.to_le_bytes()).map_err(|_| Errno::EFAULT),
                };
                events.upcall_pending(vcpu);
                events.is_pending(port);
                let _ = events.status(port);
            }
            prop_assert_eq!(events.entry(0).err(), Some(Errno::EINVAL));
        }
    }
}
