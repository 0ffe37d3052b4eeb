//! The guest as a whole: what its vCPUs share.

mod memory;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::event::{MAX_VCPUS, Port};
use protocol::grant::PEER_DOM0;
use protocol::vm::{control, event, word};
use unikernel::vm::GuestMemory;

use crate::apic::{Apic, Ipi, Signal};
use crate::console::Output;
use crate::context::Context;
use crate::events::Events;
use crate::layout::Ram;
use crate::state::{State, StateExt, enter_startup};
use crate::time::Clock;

/// How the guest ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    PowerOff,
    /// To be started again.
    Reboot,
    /// It cannot go on, for this reason.
    Crash(String),
}

/// What a vCPU does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Waits for INIT and a start-up IPI: it never ran, or it stopped for good.
    Off,
    /// Was stopped by a hypercall, and goes on by another.
    Down,
    /// Begins at this page.
    Startup(u8),
    /// Begins with this context.
    Context(Box<Context>),
    /// Runs.
    Running,
    /// Waits for an interrupt.
    Halted,
    /// Waits for an upcall, one of these ports, or this time.
    Polling(Vec<u32>, u64),
}

/// A vCPU, as far as others can change it.
#[derive(Debug)]
pub struct Vcpu {
    /// What it does.
    pub activity: Activity,
    /// Its APIC.
    pub apic: Apic,
    /// When its timer is due.
    pub timer: Option<u64>,
    /// An NMI waits.
    pub nmi: bool,
    /// The vector by which its APIC tells it of events, if it has one of its own.
    pub upcall: Option<u8>,
    /// What it is to begin with once it is started.
    pub context: Option<Box<Context>>,
}

impl Vcpu {
    /// Whether it runs, or will when something happens.
    pub fn is_up(&self) -> bool {
        !matches!(self.activity, Activity::Off | Activity::Down)
    }
}

/// What to tell others once the guest is not locked any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// vCPUs to make look, a bit each.
    pub vcpus: u32,
    /// Ports of the monitor to send to.
    pub ports: Vec<Port>,
}

const _: () = assert!(MAX_VCPUS <= u32::BITS as usize);

/// What a vCPU is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run until this time.
    Run(u64),
    /// Wait until this time, or until something happens.
    Wait(u64),
}

/// Ports of the monitor through which the guest reaches what the monitor itself serves.
#[derive(Clone, Copy, Debug)]
pub struct Services {
    /// The store.
    pub store: Port,
    /// The console.
    pub console: Port,
}

/// The guest.
#[derive(Debug)]
pub struct Guest {
    /// Its memory.
    pub memory: GuestMemory,
    /// Where in it RAM is.
    pub ram: Ram,
    /// Page tables for all of its RAM in small pages were set aside.
    pub has_tables: bool,
    /// Its event channels.
    pub events: Events,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// Its clock.
    pub clock: Clock,
    /// What it prints.
    pub output: Output,
    /// Its port to the store.
    pub store_port: u32,
    /// Its port to the console.
    pub console_port: u32,
    /// `HVM_PARAM_CALLBACK_IRQ`, as it was set.
    pub callback: u64,
    /// Pages that its grant table can have.
    pub grant_frames: u32,
    /// Those that it has put somewhere.
    pub grant_frames_placed: u32,
    /// Where outside of its RAM it has put pages of its grant table, in units of what a page table spans.
    pub grant_places: Vec<u64>,
    /// Where its store is served.
    pub store: Port,
    /// Where output is taken from.
    pub console: Port,
    /// Whom to tell.
    pub outbox: Outbox,
    /// Complaints that are still to be logged.
    pub complaints: u32,
}

/// Accesses to what is not there that are logged.
const COMPLAINTS: u32 = 64;

impl Guest {
    /// A guest whose first vCPU is about to run.
    pub fn new(
        mut memory: GuestMemory,
        ram: Ram,
        vcpus: u32,
        grant_frames: u32,
        clock: Clock,
        services: Services,
    ) -> Guest {
        let mut events = Events::new(vcpus, clock.start_utc);
        let mut port = |native| {
            // They are the first two ports of a table that has thousands.
            let port = events.allocate_unbound(PEER_DOM0).unwrap_or(0);
            let _ = events.connect(port, PEER_DOM0, native);
            port
        };
        let (store_port, console_port) = (port(services.store), port(services.console));
        let vcpu = |index| Vcpu {
            activity: if index == 0 { Activity::Running } else { Activity::Off },
            apic: Apic::new(index),
            timer: None,
            nmi: false,
            upcall: None,
            context: None,
        };
        let frames = ram.frames();
        memory.allow(&frames, frames.iter().map(|(_, count)| count).sum());
        Guest {
            memory,
            ram,
            has_tables: false,
            events,
            vcpus: (0..vcpus).map(vcpu).collect(),
            clock,
            output: Output::default(),
            store_port,
            console_port,
            callback: 0,
            grant_frames,
            grant_frames_placed: 0,
            grant_places: Vec::new(),
            store: services.store,
            console: services.console,
            outbox: Outbox::default(),
            complaints: COMPLAINTS,
        }
    }

    /// CPUs that run, of those from `first` on.
    pub fn running_from(&self, first: u32) -> u64 {
        self.vcpus.iter().skip(first as usize).filter(|vcpu| vcpu.activity != Activity::Off).count() as u64
    }

    /// Logs what the guest did that it had no reason to, if it did not do too much of it.
    pub fn complain(&mut self, text: core::fmt::Arguments<'_>) {
        if self.complaints > 0 {
            self.complaints -= 1;
            log::info!("guest: {text}");
        }
    }

    /// Prints text of the guest.
    pub fn print(&mut self, bytes: &[u8]) {
        self.output.push(bytes);
        self.outbox.ports.push(self.console);
    }

    /// A vCPU has to look, if it is one.
    pub fn wake(&mut self, vcpu: Option<u32>) {
        if let Some(vcpu) = vcpu {
            self.outbox.vcpus |= 1 << (vcpu % u32::BITS);
        }
    }

    /// Raises a port of the guest.
    pub fn raise(&mut self, port: u32) {
        let vcpu = self.events.raise(port);
        self.wake(vcpu);
    }

    /// The vector of the upcall, if the guest named one.
    fn upcall_vector(&self) -> Option<u8> {
        const VECTOR: u64 = 2;
        (self.callback >> 56 == VECTOR).then_some(self.callback as u8).filter(|&vector| vector >= 16)
    }

    /// The interrupt that waits for a vCPU, and whether its APIC has to know.
    fn waiting(&self, index: u32) -> Option<(u8, bool)> {
        let apic = self.vcpus.get(index as usize)?.apic.deliverable().map(|vector| (vector, true));
        let common = self.upcall_vector().filter(|_| self.vcpus[index as usize].upcall.is_none());
        apic.or_else(|| common.filter(|_| self.events.upcall_pending(index)).map(|vector| (vector, false)))
    }

    /// Prepares the next run of a vCPU.
    pub fn prepare(&mut self, index: u32, state: &impl State, now: u64) -> Next {
        let Some(vcpu) = self.vcpus.get_mut(index as usize) else { return Next::Wait(u64::MAX) };
        if vcpu.timer.is_some_and(|due| due <= now) {
            vcpu.timer = None;
            self.events.raise_timer(index);
        }
        // An APIC that is off takes none; it is told when it is switched on.
        if let Some(vector) = vcpu.upcall
            && vcpu.apic.is_enabled()
            && self.events.take_edge(index)
        {
            vcpu.apic.request(vector);
        }
        let due = vcpu.timer.unwrap_or(u64::MAX);
        match &vcpu.activity {
            Activity::Running => {}
            Activity::Off | Activity::Down => return Next::Wait(u64::MAX),
            Activity::Context(context) => {
                context.enter(state);
                vcpu.apic.reset();
            }
            &Activity::Startup(page) => {
                enter_startup(state, page);
                vcpu.apic.reset();
            }
            Activity::Halted => {
                let nmi = vcpu.nmi;
                if !(nmi || state.interrupts_on() && self.waiting(index).is_some()) {
                    return Next::Wait(due);
                }
            }
            Activity::Polling(ports, until) => {
                let pending = ports.iter().any(|&port| self.events.is_pending(port));
                if !(pending || *until <= now || self.events.upcall_pending(index) || vcpu.nmi) {
                    return Next::Wait(due.min(*until));
                }
            }
        }
        self.inject(index, state);
        Next::Run(due)
    }

    /// Decides what is delivered with the next run.
    fn inject(&mut self, index: u32, state: &impl State) {
        let waiting = self.waiting(index);
        let Some(vcpu) = self.vcpus.get_mut(index as usize) else { return };
        vcpu.activity = Activity::Running;
        let cut_short = state.get(word::PENDING);
        if state.get(word::INJECT) == 0 && cut_short & event::VALID != 0 {
            state.set(word::INJECT, cut_short);
        }
        state.set(word::PENDING, 0);
        let free = state.get(word::INJECT) == 0;
        if free && core::mem::take(&mut vcpu.nmi) {
            state.set(word::INJECT, event::VALID | event::NMI | 2);
            return;
        }
        let Some((vector, from_apic)) = waiting else { return };
        // The upcall waits until the guest has taken it, so it waits still if it was cut short.
        if !from_apic && state.get(word::INJECT) == event::interrupt(vector) {
            return;
        }
        let flags = state.get(word::CONTROL);
        if free && state.interrupts_on() && flags & control::SHADOW == 0 {
            state.set(word::INJECT, event::interrupt(vector));
            if from_apic {
                vcpu.apic.accept(vector);
            }
        } else {
            state.set(word::CONTROL, flags | control::WINDOW);
        }
    }

    /// Delivers an inter-processor interrupt.
    pub fn signal(&mut self, sender: u32, ipi: Ipi) {
        for index in 0..self.vcpus.len() as u32 {
            if !ipi.reaches(sender, index) {
                continue;
            }
            let vcpu = &mut self.vcpus[index as usize];
            match ipi.signal {
                Signal::Interrupt(vector) => vcpu.apic.request(vector),
                Signal::Nmi => vcpu.nmi = true,
                // A vCPU that stops itself would never be started by anybody.
                Signal::Init if index == sender => continue,
                Signal::Init => {
                    vcpu.activity = Activity::Off;
                    vcpu.timer = None;
                    vcpu.nmi = false;
                }
                Signal::Startup(page) if vcpu.activity == Activity::Off => vcpu.activity = Activity::Startup(page),
                Signal::Startup(_) => continue,
            }
            self.wake(Some(index));
        }
    }

    /// HLT.
    pub fn halt(&mut self, index: u32, interrupts: bool) -> Result<(), End> {
        let Some(vcpu) = self.vcpus.get_mut(index as usize) else { return Ok(()) };
        // Without interrupts only INIT brings it back.
        vcpu.activity = if interrupts { Activity::Halted } else { Activity::Off };
        match self.vcpus.iter().any(Vcpu::is_up) {
            false => Err(End::PowerOff),
            true => Ok(()),
        }
    }

    /// The end of a guest that did something that cannot be carried out.
    pub fn crash(&self, state: &impl State, reason: core::fmt::Arguments<'_>) -> End {
        let rip = state.get(word::RIP);
        let lines = self.output.last_lines(150);
        End::Crash(format!("{reason}, at {rip:#x}; last lines: {lines}"))
    }
}
