//! A simulated machine for the scheduler, and the rules that hold after every step.

mod model;
mod shares;

use std::boxed::Box;
use std::vec::Vec;

use super::heap::{RUN, TIMER};
use super::*;

/// One millisecond in ns.
const MS: u64 = 1_000_000;

fn params(weight: u32, cap: u32, class: u32, affinity: u64) -> SchedParams {
    SchedParams { weight, cap, class, affinity, ..SchedParams::default() }
}

/// What a simulated vCPU does.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Runs whenever it can.
    Spin,
    /// Runs `.0` ns, then sleeps `.1` ns.
    Burst(u64, u64),
}

struct Actor {
    behaviour: Behaviour,
    /// CPU time at which the present burst ends.
    burst_end: u64,
}

/// CPUs that keep the time exactly and carry kicks at once.
struct Machine {
    sched: Box<Scheduler>,
    actors: Vec<Actor>,
    until: Vec<u64>,
    now: u64,
}

impl Machine {
    fn new(cpus: usize) -> Machine {
        let mut sched = Box::new(Scheduler::new());
        sched.init(cpus);
        Machine { sched, actors: Vec::new(), until: std::vec![0; cpus], now: 0 }
    }

    fn spawn(&mut self, behaviour: Behaviour, params: SchedParams) -> VcpuId {
        let id = VcpuId(self.actors.len() as u16);
        let burst_end = if let Behaviour::Burst(run, _) = behaviour { run } else { u64::MAX };
        self.actors.push(Actor { behaviour, burst_end });
        self.sched.add(id, &params);
        let kick = mask(self.sched.start(id, self.now));
        self.kick(kick);
        id
    }

    fn kick(&mut self, cpus: u64) {
        for cpu in (0..self.until.len()).filter(|cpu| cpus & 1 << cpu != 0) {
            self.until[cpu] = self.now;
        }
    }

    /// Lets the machine run for `ns`.
    fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        loop {
            let (cpu, at) = (0..self.until.len()).map(|cpu| (cpu, self.next(cpu))).min_by_key(|&(_, at)| at).unwrap();
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            self.enter(cpu);
        }
        self.now = end;
    }

    /// When the CPU enters the core next: by its timer, or because who runs has had enough.
    fn next(&self, cpu: usize) -> u64 {
        let Some(id) = self.sched.current(cpu) else { return self.until[cpu] };
        let left = self.actors[id.0 as usize].burst_end - self.cpu_ns(id).min(self.actors[id.0 as usize].burst_end);
        self.until[cpu].min(self.now.saturating_add(left))
    }

    fn enter(&mut self, cpu: usize) {
        if let Some(id) = self.sched.current(cpu) {
            let ran = self.cpu_ns(id);
            let actor = &mut self.actors[id.0 as usize];
            if let Behaviour::Burst(run, sleep) = actor.behaviour
                && ran >= actor.burst_end
            {
                actor.burst_end = ran + run;
                self.sched.block(id, self.now + sleep);
            }
        }
        let decision = self.sched.pick(cpu, self.now);
        self.until[cpu] = decision.until;
        self.kick(decision.kick);
        check(&self.sched, self.actors.len() as u16);
    }

    fn cpu_ns(&self, id: VcpuId) -> u64 {
        self.sched.info(id, self.now).cpu_ns
    }

    /// CPU time of each of `ids` while the machine runs for `ns`.
    fn measure(&mut self, ids: &[VcpuId], ns: u64) -> Vec<u64> {
        let before: Vec<u64> = ids.iter().map(|&id| self.cpu_ns(id)).collect();
        self.run(ns);
        ids.iter().zip(before).map(|(&id, before)| self.cpu_ns(id) - before).collect()
    }
}

/// Every vCPU is where its state says and nowhere else; masks and heaps are right; no CPU idles while one waits for it.
fn check(sched: &Scheduler, vcpus: u16) {
    let mut queued = 0;
    for id in (0..vcpus).map(VcpuId) {
        let entity = &sched.entities[id];
        let on: Vec<usize> = (0..MAX_CPUS).filter(|&cpu| sched.cpus[cpu].current == Some(id)).collect();
        assert!(on.len() <= 1, "{id:?} is on {on:?}");
        let waits = entity.hold == 0 && on.is_empty();
        assert_eq!(entity.queued(), waits, "{id:?} {:?}", entity.hold);
        assert!(!entity.timed() || entity.hold & (hold::BLOCKED | hold::THROTTLED) != 0, "{id:?}");
        assert!(entity.hold & hold::THROTTLED == 0 || entity.timed(), "{id:?}");
        queued += usize::from(waits);
        let cpu = &sched.cpus[entity.cpu as usize];
        if waits {
            assert_eq!(cpu.run[entity.class as usize].members().filter(|&other| other == id).count(), 1);
            let idle = entity.allowed & sched.idle;
            assert!(idle == 0 || cpu.current.is_none(), "{id:?} waits for a busy CPU while others idle");
        }
        if entity.timed() {
            assert_eq!(cpu.timers.members().filter(|&other| other == id).count(), 1);
        }
    }
    let mut in_queues = 0;
    for (number, cpu) in sched.cpus.iter().enumerate() {
        let members: Vec<VcpuId> = cpu.run.iter().flat_map(|heap| heap.members()).collect();
        in_queues += members.len();
        let movable = members.iter().filter(|&&id| sched.entities[id].movable()).count();
        assert_eq!((movable, movable > 0), (cpu.movable as usize, sched.movable & 1 << number != 0));
        for class in [queue::GUEST, queue::DRIVER] {
            heap_is_ordered::<RUN>(cpu.queue(class), &sched.entities);
        }
        heap_is_ordered::<TIMER>(&cpu.timers, &sched.entities);
    }
    assert_eq!(in_queues, queued);
}

fn heap_is_ordered<const SORT: usize>(heap: &heap::Heap<SORT>, entities: &Entities) {
    let members: Vec<VcpuId> = heap.members().collect();
    for (at, &id) in members.iter().enumerate() {
        assert_eq!(entities[id].node[SORT].at as usize, at);
        assert!(entities[members[at.saturating_sub(1) / 2]].node[SORT].key <= entities[id].node[SORT].key);
    }
}
