//! Everything the core knows, in one place behind one lock.

use core::fmt;

use protocol::domain::MAX_DOMAINS;
use protocol::system::{MAX_CPUS, SystemInfo};

use crate::clock::Clock;
use crate::domain::Domain;
use crate::events::SOURCES;
use crate::frames::{END, Frames};
use crate::log::Log;
use crate::pci::Devices;
use crate::platform::Flush;
use crate::prelude::*;
use crate::sched::{MAX_VCPUS, Scheduler};
use crate::table::{PerSlot, Table};
use crate::vcpu::Vcpus;

/// What the core keeps about a CPU.
pub(crate) struct Cpu {
    /// Who runs on it.
    pub current: Caller,
    /// What the call in progress waits for.
    pub flush: Option<Flush>,
    /// Records of mappings to finish after the flush: the first plus one, 0 for none.
    pub unmapped: u32,
    /// List of frames to give back after the flush.
    pub parked: Frame,
}

/// The core. A constant, so that it can be a static; [`Core::boot`] fills it.
pub struct Core<M: Machine> {
    /// The machine below.
    pub machine: M,
    /// The clock, running since the boot.
    pub clock: Clock,
    pub(crate) frames: Frames,
    pub(crate) domains: PerSlot<Domain>,
    pub(crate) vcpus: Vcpus,
    pub(crate) sched: Scheduler,
    pub(crate) cpus: Table<Cpu, MAX_CPUS>,
    pub(crate) log: Log,
    /// Who is told of an interrupt, by its source.
    pub(crate) interrupts: [Option<(Slot, Port)>; SOURCES],
    /// PCI functions.
    pub(crate) devices: Devices,
    /// Who owns the core's serial port, if the core does not.
    pub(crate) serial: Option<Slot>,
    /// The CPU that is in the core.
    pub(crate) here: usize,
    /// The last incarnation number given.
    pub(crate) incarnations: u32,
    /// Bytes of the boot bundle.
    pub(crate) bundle_bytes: u64,
    /// Root of the core's own address space.
    pub(crate) template: Frame,
    /// What is told about the machine; what changes is filled in when asked.
    pub(crate) info: SystemInfo,
}

impl<M: Machine> Core<M> {
    /// A core that knows nothing yet.
    pub const fn new(machine: M) -> Core<M> {
        const CPU: Cpu = Cpu { current: Caller::NOBODY, flush: None, unmapped: 0, parked: END };
        Core {
            machine,
            clock: Clock::new(),
            frames: Frames::new(),
            domains: Table([const { Domain::NONE }; MAX_DOMAINS]),
            vcpus: Table([Caller::NOBODY; MAX_VCPUS]),
            sched: Scheduler::new(),
            cpus: Table([CPU; MAX_CPUS]),
            log: Log::new(),
            interrupts: [None; SOURCES],
            devices: Devices::new(),
            serial: None,
            here: 0,
            incarnations: 0,
            bundle_bytes: 0,
            template: Frame(0),
            info: zerocopy::transmute!([0_u8; size_of::<SystemInfo>()]),
        }
    }

    /// ns since the core started.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.ns(self.machine.tsc())
    }

    /// Puts a line into the log.
    pub fn say(&mut self, line: fmt::Arguments<'_>) {
        self.log.line(self.clock.ns(self.machine.tsc()), line);
        self.machine.show(line, true);
    }

    /// A domain in its present incarnation, as handles and peer tables hold it. Never 0.
    pub(crate) fn reference(&self, slot: Slot) -> u64 {
        slot.number() as u64 | (self.domains[slot].info.incarnation as u64) << 32
    }

    /// The domain that a reference names, if that incarnation is still there.
    #[inline]
    pub(crate) fn resolve(&self, reference: u64) -> Option<Slot> {
        let slot = Slot::new(reference as usize);
        (reference != 0 && self.domains[slot].info.incarnation == (reference >> 32) as u32).then_some(slot)
    }
}
