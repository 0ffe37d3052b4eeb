//! Everything the core knows, in one place behind one lock.

use core::fmt;

use protocol::domain::MAX_DOMAINS;
use protocol::event::Port;
use protocol::system::{Features, MAX_CPUS};

use crate::clock::Clock;
use crate::domain::Domain;
use crate::events::LINES;
use crate::frames::{Frames, Parked};
use crate::log::Log;
use crate::platform::{Frame, Machine, Step};
use crate::sched::{MAX_VCPUS, Scheduler, VcpuId};
use crate::slot::{PerSlot, Slot};
use crate::vcpu::{Vcpu, Vcpus};

/// What the core keeps about a CPU.
pub(crate) struct Cpu {
    /// The vCPU that runs on it.
    pub current: Option<Caller>,
    /// The domain whose address space is loaded.
    pub loaded: Option<Slot>,
    /// What the call in progress asks of the shell.
    pub step: Step,
    /// Records of mappings to finish after the flush: the first plus one, 0 for none.
    pub unmapped: u32,
    /// Frames to give back after the flush.
    pub parked: Parked,
}

/// Who makes a call, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub vcpu: VcpuId,
    pub slot: Slot,
    /// The vCPU's number in its domain, and its context.
    pub index: u8,
    pub context: Frame,
}

/// The core. A constant, so that it can be a static; [`Core::boot`] fills it.
pub struct Core<M: Machine> {
    /// The machine below.
    pub machine: M,
    pub(crate) frames: Frames,
    pub(crate) domains: PerSlot<Domain>,
    pub(crate) vcpus: Vcpus,
    pub(crate) sched: Scheduler,
    pub(crate) cpus: [Cpu; MAX_CPUS],
    /// Time since the core started; the shell answers from a copy of it.
    pub clock: Clock,
    pub(crate) log: Log,
    /// Who is told of an interrupt line.
    pub(crate) interrupts: [Option<(Slot, Port)>; LINES],
    /// Who owns the core's serial port, if the core does not.
    pub(crate) serial: Option<Slot>,
    /// The CPU that is in the core.
    pub(crate) here: usize,
    pub(crate) incarnations: u32,
    pub(crate) template: Frame,
    pub(crate) total_frames: u64,
    pub(crate) bundle_bytes: u64,
    pub(crate) tsc_hz: u64,
    pub(crate) cpu_count: usize,
    pub(crate) features: Features,
    pub(crate) brand: [u8; 48],
}

impl<M: Machine> Core<M> {
    /// A core that knows nothing yet.
    pub const fn new(machine: M) -> Core<M> {
        const CPU: Cpu = Cpu { current: None, loaded: None, step: Step::Done, unmapped: 0, parked: Parked::NONE };
        Core {
            machine,
            frames: Frames::new(),
            domains: PerSlot([const { Domain::NONE }; MAX_DOMAINS]),
            vcpus: Vcpus([const { Vcpu::NONE }; MAX_VCPUS]),
            sched: Scheduler::new(),
            cpus: [CPU; MAX_CPUS],
            clock: Clock::new(),
            log: Log::new(),
            interrupts: [None; LINES],
            serial: None,
            here: 0,
            incarnations: 0,
            template: Frame(0),
            total_frames: 0,
            bundle_bytes: 0,
            tsc_hz: 0,
            cpu_count: 0,
            features: Features::empty(),
            brand: [0; 48],
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
        self.machine.show(line);
    }

    #[inline]
    pub(crate) fn cpu(&mut self, cpu: usize) -> &mut Cpu {
        &mut self.cpus[cpu % MAX_CPUS]
    }

    /// Wakes a vCPU if it waits for an event.
    #[inline]
    pub(crate) fn wake(&mut self, id: VcpuId) {
        if self.vcpus[id].waiting {
            let cpu = self.sched.wake(id, self.now());
            self.kick(cpu);
        }
    }

    /// Makes another CPU choose anew; this one does in any case.
    #[inline]
    pub(crate) fn kick(&self, cpu: Option<usize>) {
        if let Some(cpu) = cpu.filter(|&cpu| cpu != self.here) {
            self.machine.kick(cpu);
        }
    }
}
