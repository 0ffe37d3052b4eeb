//! Several CPUs at once: no vCPU in two places, no wake-up lost, no CPU idle while somebody wants one.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::domain::{DomainSpec, State, VcpuState};
use protocol::error::Error;
use protocol::event::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;

use super::world::{Child, World, spec};
use crate::platform::Memory;
use crate::table::Slot;

const CPUS: usize = 4;

/// What whoever runs on a CPU does, or what happens to the CPU.
#[derive(Clone, Debug)]
enum Act {
    /// Looks at its events, as an event loop does, and waits if there are none.
    Loop {
        ns: u64,
    },
    Send {
        port: u8,
    },
    Yield,
    Fault,
    /// The CPU is interrupted after a while.
    Tick {
        ns: u64,
    },
    /// A flush-requesting call.
    Release {
        page: u8,
    },
    /// If it is the first domain: something to one of the others.
    Pause {
        who: usize,
    },
    Unpause {
        who: usize,
    },
    Reset {
        who: usize,
    },
    Start {
        who: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0_usize..4;
    let ns = prop_oneof![Just(u64::MAX), 1_000_u64..20_000_000];
    prop_oneof![
        8 => ns.prop_map(|ns| Act::Loop { ns }),
        8 => (1_u8..7).prop_map(|port| Act::Send { port }),
        1 => Just(Act::Yield),
        1 => Just(Act::Fault),
        4 => (0_u64..12_000_000).prop_map(|ns| Act::Tick { ns }),
        1 => (0_u8..16).prop_map(|page| Act::Release { page }),
        2 => who.clone().prop_map(|who| Act::Pause { who }),
        2 => who.clone().prop_map(|who| Act::Unpause { who }),
        2 => who.clone().prop_map(|who| Act::Reset { who }),
        3 => who.prop_map(|who| Act::Start { who }),
    ]
}

struct Machine {
    world: World,
    children: Vec<Child>,
}

impl Machine {
    fn new() -> Machine {
        let mut world = World::new(1200, CPUS);
        let children: Vec<Child> =
            (0..4).map(|_| world.create(&DomainSpec { vcpus: 2, ..spec(120) }).unwrap()).collect();
        for pair in [(0, 1), (1, 2), (2, 3), (3, 0)] {
            world.ok(Slot::DOM0, H::EventConnect, &[children[pair.0].handle, children[pair.1].handle]);
        }
        let mut machine = Machine { world, children };
        (0..4).for_each(|who| machine.start(who));
        machine
    }

    fn start(&mut self, who: usize) {
        let child = self.children[who];
        if self.world.core.domains[child.slot].state == Some(State::Building) {
            self.world.start(child);
            self.world.ok(child.slot, H::VcpuStart, &[1, IMAGE_BASE, 0]);
            self.world.ok(child.slot, H::EventBindVcpu, &[3, 1]);
        }
        (0..CPUS).for_each(|cpu| _ = self.world.core.schedule(cpu));
    }

    /// Makes a call as whoever runs on a CPU; gives its result, which may be out of date if it waits.
    fn call(&mut self, cpu: usize, call: H, arguments: &[u64]) -> Result<u64, Error> {
        self.world.call_on(cpu, call as u64, arguments)
    }

    fn act(&mut self, cpu: usize, act: &Act) {
        let caller = self.world.core.cpus[cpu].current;
        match *act {
            Act::Tick { ns } => self.world.core.machine.tsc.set(self.world.core.machine.tsc.get() + ns),
            _ if caller.is_nobody() => {}
            Act::Loop { ns } => {
                let events = self.world.core.domains[caller.slot].events;
                let record = vcpu_record(caller.index.into());
                let m = &self.world.core.machine;
                if m.load(events.at(record + UPCALL_PENDING)) != 0 {
                    m.store(events.at(record + UPCALL_PENDING), 0);
                    let words = m.load(events.at(record + SELECTOR));
                    m.store(events.at(record + SELECTOR), 0);
                    if words & 1 != 0 {
                        m.store(events.at(PENDING), 0);
                    }
                } else {
                    let now = self.world.core.now();
                    _ = self.call(cpu, H::EventWait, &[now.saturating_add(ns)]);
                }
            }
            Act::Send { port } => _ = self.call(cpu, H::EventSend, &[port.into()]),
            Act::Yield => _ = self.call(cpu, H::VcpuYield, &[]),
            Act::Fault if caller.slot != Slot::DOM0 => {
                self.world.core.fault(cpu, 6, 0, 0);
            }
            Act::Release { page } => _ = self.call(cpu, H::MemoryRelease, &[HEAP + page as u64 * PAGE_SIZE, 1]),
            Act::Pause { who } if caller.slot == Slot::DOM0 => {
                let child = self.children[who];
                _ = self.call(cpu, H::DomainPause, &[child.handle]);
            }
            Act::Unpause { who } if caller.slot == Slot::DOM0 => {
                let child = self.children[who];
                _ = self.call(cpu, H::DomainUnpause, &[child.handle]);
            }
            Act::Reset { who } if caller.slot == Slot::DOM0 => {
                let child = self.children[who];
                _ = self.call(cpu, H::DomainReset, &[child.handle]);
            }
            Act::Start { who } if caller.slot == Slot::DOM0 => {
                let child = self.children[who];
                _ = self.call(cpu, H::MemoryPopulate, &[child.handle, HEAP, 1, 1]);
                _ = self.call(cpu, H::DomainStart, &[child.handle, IMAGE_BASE, 0]);
            }
            _ => {}
        }
        self.world.core.schedule(cpu);
    }

    /// Lets every CPU that was kicked enter the core, until none is.
    fn settle(&mut self) {
        for _ in 0..100 {
            let kicks = core::mem::take(&mut self.world.core.sched.kicks);
            if kicks == 0 {
                return;
            }
            (0..CPUS).filter(|cpu| kicks & 1 << cpu != 0).for_each(|cpu| _ = self.world.core.schedule(cpu));
        }
        panic!("the CPUs kick each other for ever");
    }

    fn check(&mut self) {
        let now = self.world.core.now();
        let core = &*self.world.core;
        let mut contexts = Vec::new();
        let mut loaded = vec![0_u64; core.domains.0.len()];
        for cpu in 0..CPUS {
            let caller = core.cpus[cpu].current;
            assert_eq!(core.sched.current(cpu), (!caller.is_nobody()).then_some(caller.vcpu));
            if !caller.is_nobody() {
                assert!(!contexts.contains(&caller.context.0), "{caller:?} is in two places");
                contexts.push(caller.context.0);
                loaded[caller.slot.number()] |= 1 << cpu;
                assert!(!core.sched.waits(caller.vcpu), "{caller:?} runs and waits");
                let domain = &core.domains[caller.slot];
                assert!(domain.state == Some(State::Running) && domain.info.pauses == 0, "{caller:?} runs");
            }
        }
        let idle = (0..CPUS).any(|cpu| core.cpus[cpu].current.is_nobody());
        for (slot, &loaded) in (0..).map(Slot::new).zip(&loaded) {
            let domain = &core.domains[slot];
            assert_eq!(core.loaded(slot), loaded);
            for (index, id) in (0..).zip(domain.vcpus()) {
                let state = VcpuState::from_number(core.sched.info(id, now).state).unwrap();
                let told = core.machine.load(domain.events.at(vcpu_record(index) + UPCALL_PENDING));
                let runs = domain.state == Some(State::Running) && core.sched.is_started(id);
                assert_eq!(runs, state != VcpuState::Offline, "{slot:?} vCPU {index}");
                assert!(told == 0 || state != VcpuState::Blocked, "a wake-up of {slot:?} vCPU {index} was lost");
                let wants = state == VcpuState::Runnable && domain.info.pauses == 0;
                assert!(!(wants && idle), "{slot:?} vCPU {index} waits while a CPU is idle");
            }
        }
        self.world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn everybody_gets_on(acts in proptest::collection::vec((0..CPUS, act()), 1..150)) {
        let mut machine = Machine::new();
        machine.settle();
        machine.check();
        for (cpu, act) in &acts {
            machine.act(*cpu, act);
            machine.settle();
            machine.check();
        }
        // Whatever happened, all CPUs can be asked again.
        (0..CPUS).for_each(|cpu| _ = machine.world.core.schedule(cpu));
        machine.settle();
        machine.check();
    }
}
