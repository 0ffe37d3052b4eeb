//! The guest as a whole: what its vCPUs share.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::event::{MAX_VCPUS, Port};
use protocol::grant::PEER_DOM0;
use protocol::vm::{control, event, word};
use unikernel::vm::GuestMemory;
use unikernel::vm::memory::LARGE_PAGE;

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

/// Places for its grant table outside of its RAM: two are enough for a table that lies in one piece, and one more for the next kernel.
const GRANT_PLACES: usize = 3;

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

    /// Frames of RAM that it has.
    pub fn pages(&self) -> u64 {
        self.memory.count_in(&self.ram.frames())
    }

    /// Those, and the page tables that there are because it gave back parts of large pages, unless such tables were set aside.
    pub fn pages_and_tables(&self) -> u64 {
        self.pages() + if self.has_tables { 0 } else { self.memory.split() }
    }

    /// Frames of RAM, and of page tables for what it gives back in part, that it may have.
    pub fn pages_max(&self) -> u64 {
        self.memory.most()
    }

    /// Lets it have that many from now on.
    pub fn allow(&mut self, pages: u64) {
        self.memory.allow(&self.ram.frames(), pages);
        self.supply_rest();
    }

    /// Lets it begin with that much of its RAM, which is supplied as it is touched, and with page tables for all of it set aside.
    pub fn begin_with(&mut self, pages: u64) {
        self.has_tables = true;
        self.allow(pages);
    }

    /// Frames of RAM that it neither touched nor gave back. While there are some, it was told of more than it may have.
    pub fn untouched(&self) -> u64 {
        self.memory.untouched_in(&self.ram.frames())
    }

    /// Once what it never touched fits in what it may have, it gets all of it: those who share its memory cannot wait for frames, and
    /// its devices are held up until then.
    pub fn supply_rest(&mut self) {
        let untouched = self.untouched();
        if untouched == 0 || self.pages() + untouched > self.pages_max() {
            return;
        }
        // The frames were set aside for that; what cannot be had now comes when it is touched.
        if self.memory.supply_all(&self.ram.frames()).is_ok() {
            self.outbox.ports.push(self.store);
        }
    }

    /// Whether a page of its grant table can lie at a frame: in RAM, or at one of a few places beside it, because each of those takes
    /// page tables for good.
    pub fn has_place(&mut self, frame: u64) -> bool {
        let place = frame / LARGE_PAGE;
        let known = self.ram.holds_frame(frame) || self.grant_places.contains(&place);
        if !known && self.grant_places.len() < GRANT_PLACES {
            self.grant_places.push(place);
            return true;
        }
        known
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::VIRQ_TIMER;
    use crate::state::FLAG_INTERRUPTS;
    use crate::testing::{FRAMES, guest};
    use protocol::vm::segment;

    const UPCALL: u64 = 2 << 56 | 0xf3;

    #[test]
    fn an_upcall_is_injected_when_the_guest_takes_it() {
        let (mut guest, state) = guest(1, FRAMES);
        let port = guest.events.bind_ipi(0).unwrap();
        guest.raise(port);
        assert_eq!(guest.prepare(0, &state, 0), Next::Run(u64::MAX));
        assert_eq!(state.get(word::INJECT), 0, "the guest has not said where it wants it");
        guest.callback = UPCALL;
        guest.prepare(0, &state, 0);
        assert_eq!((state.get(word::INJECT), state.get(word::CONTROL) & control::WINDOW), (0, control::WINDOW));
        state.set(word::RFLAGS, FLAG_INTERRUPTS);
        state.set(word::CONTROL, control::SHADOW);
        guest.prepare(0, &state, 0);
        assert_eq!((state.get(word::INJECT), state.get(word::CONTROL)), (0, control::WINDOW | control::SHADOW));
        state.set(word::CONTROL, 0);
        guest.prepare(0, &state, 0);
        assert_eq!(state.get(word::INJECT), event::interrupt(0xf3));
        state.set(word::INJECT, 0);
        state.set(word::PENDING, event::interrupt(0xf3));
        guest.prepare(0, &state, 0);
        assert_eq!((state.get(word::INJECT), state.get(word::CONTROL)), (event::interrupt(0xf3), 0), "the same upcall");
        state.set(word::INJECT, event::exception(14, Some(0)));
        guest.prepare(0, &state, 0);
        assert_eq!(state.get(word::INJECT), event::exception(14, Some(0)), "one at a time");
        state.set(word::INJECT, 0);
        state.set(word::PENDING, event::exception(13, Some(0)));
        guest.prepare(0, &state, 0);
        assert_eq!(state.get(word::INJECT), event::exception(13, Some(0)), "what was cut short comes first");
    }

    #[test]
    fn a_halted_vcpu_wakes_for_its_timer() {
        let (mut guest, state) = guest(1, FRAMES);
        guest.callback = UPCALL;
        guest.events.bind_virq(VIRQ_TIMER, 0).unwrap();
        guest.vcpus[0].timer = Some(100);
        state.set(word::RFLAGS, FLAG_INTERRUPTS);
        guest.halt(0, true).unwrap();
        assert_eq!(guest.prepare(0, &state, 50), Next::Wait(100));
        assert_eq!(guest.prepare(0, &state, 100), Next::Run(u64::MAX));
        assert_eq!(state.get(word::INJECT), event::interrupt(0xf3));
        assert_eq!(guest.halt(0, false), Err(End::PowerOff));
    }

    #[test]
    fn a_vcpu_is_started_by_init_and_startup() {
        let (mut guest, state) = guest(2, FRAMES);
        let mut apic = Apic::new(0);
        let mut send =
            |guest: &mut Guest, low: u64| guest.signal(0, apic.write(0x830, 1 << 32 | low).unwrap().unwrap());
        assert_eq!(guest.prepare(1, &state, 0), Next::Wait(u64::MAX));
        send(&mut guest, 0xc500);
        send(&mut guest, 0x69a);
        assert_eq!(guest.outbox.vcpus, 2);
        assert_eq!(guest.prepare(1, &state, 0), Next::Run(u64::MAX));
        assert_eq!(state.get(word::SEGMENTS + 2 * segment::CS + 1), 0x9_a000);
        state.set(word::RIP, 7);
        send(&mut guest, 0x69a);
        guest.prepare(1, &state, 0);
        assert_eq!(state.get(word::RIP), 7, "it runs already");
        send(&mut guest, 0xc500);
        state.set(word::PENDING, event::interrupt(0x40));
        send(&mut guest, 0x69a);
        guest.prepare(1, &state, 0);
        assert_eq!([word::INJECT, word::PENDING].map(|word| state.get(word)), [0; 2], "what was before is over");
        assert_eq!(guest.halt(1, false), Ok(()), "another one runs");
    }
}
