//! Random operations against a model that knows only what each vCPU wants.

use std::vec;

use proptest::prelude::*;

use super::Behaviour::Spin;
use super::*;

const VCPUS: u16 = 7;

#[derive(Clone, Debug)]
enum Op {
    Start,
    Stop,
    Pause,
    Unpause,
    Wake,
    /// An event from whoever is on that CPU.
    Send(usize),
    /// If it is on a CPU; with the ns after which it no longer waits.
    Block(Option<u64>),
    /// Weight, cap, class and, if that is changed too, affinity.
    Params(u32, u32, u32, Option<u64>),
    Yield,
    Replace,
    /// Lets time pass, in ns; whoever was told to choose anew does.
    Run(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Start),
        1 => Just(Op::Stop),
        1 => Just(Op::Pause),
        1 => Just(Op::Unpause),
        1 => Just(Op::Wake),
        3 => (0..4_usize).prop_map(Op::Send),
        3 => proptest::option::of(0..20 * MS).prop_map(Op::Block),
        2 => (1..=65535_u32, prop_oneof![Just(0), 1..150_u32], 0..2_u32, proptest::option::of(0..8_u64))
            .prop_map(|(weight, cap, class, affinity)| Op::Params(weight, cap, class, affinity)),
        1 => Just(Op::Yield),
        1 => Just(Op::Replace),
        8 => prop_oneof![Just(0), 1..1000_u64, 0..20 * MS].prop_map(Op::Run),
    ]
}

/// What a vCPU is like, as far as its owner can tell.
#[derive(Clone, Copy, Debug, Default)]
struct Model {
    started: bool,
    paused: bool,
    /// It waits until then.
    blocked: Option<u64>,
}

impl Model {
    fn runnable(&self) -> bool {
        self.started && !self.paused && self.blocked.is_none()
    }
}

struct Bench {
    machine: Machine,
    models: [Model; VCPUS as usize],
}

impl Bench {
    fn new(cpus: usize) -> Bench {
        let mut machine = Machine::new(cpus);
        for _ in 0..VCPUS {
            machine.spawn(Spin, SchedParams::default());
        }
        Bench { machine, models: [Model { started: true, ..Model::default() }; VCPUS as usize] }
    }

    fn apply(&mut self, id: VcpuId, op: &Op) {
        let now = self.machine.now;
        let sched = &mut self.machine.sched;
        let model = &mut self.models[id.0 as usize];
        match *op {
            Op::Start => {
                model.started = true;
                sched.start(id, now)
            }
            Op::Stop => {
                (model.started, model.blocked) = (false, None);
                sched.stop(id)
            }
            Op::Pause => {
                model.paused = true;
                sched.pause(id)
            }
            Op::Unpause => {
                model.paused = false;
                sched.unpause(id, now)
            }
            Op::Wake => {
                model.blocked = None;
                sched.wake(id, now)
            }
            Op::Send(cpu) => {
                model.blocked = None;
                let before = sched.current(cpu);
                if sched.hand_over(cpu, id, now) {
                    assert!(sched.current(cpu) == Some(id) && before != Some(id) && !sched.must_choose(cpu));
                } else {
                    assert_eq!(sched.current(cpu), before);
                    sched.wake(id, now);
                }
            }
            // The core does this for the vCPU that called it only, so not for one that another CPU has just stopped.
            Op::Block(after) if sched.on_cpu(id).is_some() && model.runnable() => {
                let deadline = after.map_or(u64::MAX, |after| now + after);
                model.blocked = Some(deadline);
                sched.block(id, deadline);
                sched.kicks |= 1 << sched.info(id, now).cpu;
            }
            Op::Params(weight, cap, class, affinity) => {
                let online = affinity.unwrap_or(0) & ((1 << self.machine.until.len()) - 1);
                sched.set(id, &params(weight, cap, class, online), affinity.is_some(), now)
            }
            Op::Yield if sched.on_cpu(id).is_some() => {
                let cpu = sched.info(id, now).cpu as usize;
                sched.yield_now(cpu, now);
                sched.kicks |= 1 << cpu;
            }
            Op::Replace => {
                let running = sched.on_cpu(id).is_some();
                let cpu = sched.info(id, now).cpu as usize;
                if running {
                    (model.started, model.blocked) = (false, None);
                    sched.stop(id);
                } else {
                    *model = Model::default();
                    sched.remove(id);
                    sched.add(id, &SchedParams::default());
                }
                sched.kicks |= u64::from(running) << cpu;
            }
            Op::Run(ns) => {
                self.run(ns);
            }
            Op::Block(_) | Op::Yield => {}
        }
        self.machine.kick(0);
    }

    fn run(&mut self, ns: u64) {
        let before = (0..VCPUS).map(|id| self.machine.cpu_ns(VcpuId(id))).collect::<Vec<_>>();
        let idle = self.idle_ns();
        self.machine.run(0);
        let settled = (0..VCPUS).map(|id| self.machine.cpu_ns(VcpuId(id))).collect::<Vec<_>>();
        assert_eq!(before, settled, "time passed while nothing happened");
        self.machine.run(ns);
        self.settled();
        let mut busy = 0;
        for (id, before) in (0..VCPUS).map(VcpuId).zip(before) {
            let ran = self.machine.cpu_ns(id) - before;
            let model = &mut self.models[id.0 as usize];
            let waited = model.blocked;
            model.blocked = model.blocked.filter(|&deadline| deadline > self.machine.now);
            let could = model.started && !model.paused && waited.is_none_or(|deadline| deadline <= self.machine.now);
            assert!(could || ran == 0, "{id:?} ran for {ran} ns: {model:?}");
            busy += ran;
        }
        assert_eq!(busy + self.idle_ns() - idle, ns * self.machine.until.len() as u64);
    }

    fn idle_ns(&self) -> u64 {
        (0..self.machine.until.len()).map(|cpu| self.machine.sched.idle_ns(cpu, self.machine.now)).sum()
    }

    /// Once everybody did as told: nobody is where it may not be, or waits for a CPU that idles, or beyond its time.
    fn settled(&self) {
        let sched = &self.machine.sched;
        for cpu in 0..self.machine.until.len() {
            assert!(sched.first_timer(cpu).1 > self.machine.now, "CPU {cpu} overslept");
            for id in (0..VCPUS).map(VcpuId) {
                let entity = &sched.entities[id];
                let allowed = entity.allowed & 1 << cpu != 0;
                assert!(allowed || sched.current(cpu) != Some(id), "{id:?} is on CPU {cpu}");
                let waits = entity.hold == 0 && sched.on_cpu(id).is_none();
                assert!(!allowed || !waits || sched.current(cpu).is_some(), "{id:?} waits while CPU {cpu} idles");
            }
        }
    }

    /// The scheduler says of every vCPU what the model does.
    fn compare(&self) {
        for (id, model) in (0..VCPUS).map(VcpuId).zip(&self.models) {
            let state = VcpuState::from_number(self.machine.sched.info(id, self.machine.now).state).unwrap();
            let possible = match (model.started, model.blocked) {
                (false, _) => state == VcpuState::Offline,
                (true, Some(_)) => state == VcpuState::Blocked,
                (true, None) => matches!(state, VcpuState::Running | VcpuState::Runnable | VcpuState::Throttled),
            };
            assert!(possible, "{id:?} is {state:?}, {model:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nobody_is_lost_and_nobody_runs_who_must_not(cpus in 1..=4_usize, ops in prop::collection::vec((0..VCPUS, op()), 1..80)) {
        let mut bench = Bench::new(cpus);
        for (id, op) in &ops {
            bench.apply(VcpuId(*id), op);
            check(&bench.machine.sched, VCPUS);
            bench.compare();
        }
        for id in (0..VCPUS).map(VcpuId) {
            for op in [Op::Params(256, 0, 0, None), Op::Start, Op::Unpause, Op::Wake] {
                bench.apply(id, &op);
            }
        }
        bench.run(200 * MS);
        let ids: Vec<VcpuId> = (0..VCPUS).map(VcpuId).collect();
        let fair = 1000 * MS / u64::from(VCPUS);
        for (id, ran) in ids.iter().zip(bench.machine.measure(&ids, 1000 * MS)) {
            prop_assert!(ran * 10 >= fair * 9, "{id:?} got {} of {} ms", ran / MS, fair / MS);
        }
    }
}
