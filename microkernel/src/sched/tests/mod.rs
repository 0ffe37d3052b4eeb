//! A simulated machine for the scheduler, and the rules that hold after every step.

mod model;
mod shares;

use std::boxed::Box;
use std::vec::Vec;

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
        self.sched.start(id, self.now);
        self.kick(0);
        id
    }

    /// Carries the scheduler's kicks, and these.
    fn kick(&mut self, cpus: u64) {
        let cpus = cpus | core::mem::take(&mut self.sched.kicks);
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
        self.sched.kicks &= !(1 << cpu);
        self.kick(0);
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

/// Every vCPU is where its state says and nowhere else; lists are sorted; no CPU idles while one waits for it.
fn check(sched: &Scheduler, vcpus: u16) {
    let members = |list| sched.lists.members(list).collect::<Vec<_>>();
    let queues = [queue(GUEST), queue(DRIVER)].map(members);
    let clocks: Vec<_> = (0..MAX_CPUS).map(|cpu| members(timers(cpu))).collect();
    for list in queues.iter().chain(&clocks) {
        assert!(list.is_sorted_by_key(|&(_, key)| key), "{list:?}");
    }
    let count = |lists: &[Vec<(VcpuId, u64)>], id| lists.iter().flatten().filter(|&&(other, _)| other == id).count();
    for id in (0..vcpus).map(VcpuId) {
        let entity = &sched.entities[id];
        let on: Vec<usize> = (0..MAX_CPUS).filter(|&cpu| sched.cpus[cpu].current == Some(id)).collect();
        assert!(on.len() <= 1, "{id:?} is on {on:?}");
        let waits = entity.hold == 0 && on.is_empty();
        assert_eq!(count(&queues, id), usize::from(waits), "{id:?} {:?}", entity.hold);
        let timed = count(&clocks, id);
        assert!(timed == 0 || timed == 1 && entity.hold & (hold::BLOCKED | hold::THROTTLED) != 0, "{id:?}");
        assert!(entity.hold & hold::THROTTLED == 0 || timed == 1, "{id:?}");
        if waits {
            let coming = sched.cpus.0.iter().any(|cpu| cpu.current.is_none() && cpu.again);
            assert!(entity.allowed & sched.idle == 0 || coming, "{id:?} waits while a CPU idles");
        }
    }
}
