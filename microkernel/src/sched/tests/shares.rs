//! Long simulated runs: who gets how much.

use protocol::domain::{CLASS_DRIVER, CLASS_GUEST, DEFAULT_WEIGHT};

use super::Behaviour::{Burst, Spin};
use super::*;

const SECOND: u64 = 1000 * MS;

fn guest(affinity: u64) -> SchedParams {
    params(DEFAULT_WEIGHT, 0, CLASS_GUEST, affinity)
}

fn driver(affinity: u64) -> SchedParams {
    params(DEFAULT_WEIGHT, 0, CLASS_DRIVER, affinity)
}

/// `got` is within `percent` of `wanted`.
#[track_caller]
fn close(got: u64, wanted: u64, percent: u64) {
    assert!(got.abs_diff(wanted) * 100 <= wanted * percent, "{} ms instead of {} ms", got / MS, wanted / MS);
}

#[test]
fn weights_divide_one_cpu() {
    let mut machine = Machine::new(1);
    let ids = [100, 200, 400].map(|weight| machine.spawn(Spin, params(weight, 0, CLASS_GUEST, 0)));
    let got = machine.measure(&ids, 7 * SECOND);
    for (got, wanted) in got.iter().zip([1, 2, 4]) {
        close(*got, wanted * SECOND, 2);
    }
}

#[test]
fn spinners_share_cpus_that_they_do_not_divide() {
    for (spinners, cpus) in [(3, 2), (4, 3), (5, 4), (5, 2), (7, 4), (9, 8), (65, 64), (13, 3)] {
        let mut machine = Machine::new(cpus);
        let ids: Vec<VcpuId> = (0..spinners).map(|_| machine.spawn(Spin, guest(0))).collect();
        for _ in 0..3 {
            for got in machine.measure(&ids, SECOND) {
                close(got, cpus as u64 * SECOND / spinners, 5);
            }
        }
    }
}

#[test]
fn a_cpu_with_pinned_spinners_leaves_the_rest_to_the_others() {
    let mut machine = Machine::new(2);
    let ids = [1, 0, 0].map(|affinity| machine.spawn(Spin, guest(affinity)));
    for got in machine.measure(&ids, SECOND) {
        close(got, SECOND * 2 / 3, 5);
    }
    let mut machine = Machine::new(2);
    let ids = [1, 1, 1, 0].map(|affinity| machine.spawn(Spin, guest(affinity)));
    let got = machine.measure(&ids, 3 * SECOND);
    (0..3).for_each(|pinned| close(got[pinned], SECOND, 5));
    close(got[3], 3 * SECOND, 5);
}

#[test]
fn a_dedicated_cpu_does_not_disturb_the_balance_of_the_others() {
    for weight in [1, DEFAULT_WEIGHT, 65535] {
        let mut machine = Machine::new(3);
        let lonely = machine.spawn(Spin, params(weight, 0, CLASS_GUEST, 2));
        machine.run(10 * SECOND);
        let ids = [5, 5, 5].map(|affinity| machine.spawn(Spin, guest(affinity)));
        machine.run(SECOND / 10);
        for got in machine.measure(&ids, SECOND) {
            close(got, SECOND * 2 / 3, 5);
        }
        close(machine.measure(&[lonely], SECOND)[0], SECOND, 1);
    }
}

#[test]
fn pinning_leaves_no_debts_when_it_ends() {
    let mut machine = Machine::new(2);
    let ids = [1, 1, 1, 2].map(|affinity| machine.spawn(Spin, guest(affinity)));
    machine.run(100 * SECOND);
    for &id in &ids {
        machine.sched.set(id, &guest(0), true, machine.now);
        machine.kick(0);
    }
    machine.run(SECOND / 5);
    for got in machine.measure(&ids, SECOND) {
        close(got, SECOND / 2, 5);
    }
}

#[test]
fn a_weight_beyond_one_cpu_takes_one_cpu_and_no_more() {
    let mut machine = Machine::new(2);
    let heavy = machine.spawn(Spin, params(65535, 0, CLASS_GUEST, 0));
    let first = machine.spawn(Spin, params(1, 0, CLASS_GUEST, 0));
    machine.run(20 * SECOND);
    let late = machine.spawn(Spin, params(1, 0, CLASS_GUEST, 0));
    machine.run(SECOND);
    let got = machine.measure(&[heavy, first, late], 4 * SECOND);
    close(got[0], 4 * SECOND, 2);
    close(got[1], 2 * SECOND, 5);
    close(got[2], 2 * SECOND, 5);
}

#[test]
fn a_cap_holds_with_and_without_others() {
    for others in [0, 3] {
        let mut machine = Machine::new(2);
        let capped = [10, 25, 60].map(|cap| machine.spawn(Spin, params(4096, cap, CLASS_GUEST, 1)));
        for _ in 0..others {
            machine.spawn(Spin, guest(0));
        }
        let got = machine.measure(&capped, SECOND);
        for (got, cap) in got.iter().zip([10, 25, 60]) {
            close(*got, SECOND * cap / 100, 2);
        }
    }
}

#[test]
fn a_cap_counts_what_timers_missed() {
    let mut sched = Box::new(Scheduler::new());
    sched.init(1);
    let id = VcpuId(0);
    sched.add(id, &params(DEFAULT_WEIGHT, 20, CLASS_GUEST, 0));
    sched.start(id, 0);
    let mut now = 0;
    while now < SECOND {
        let late = if sched.pick(0, now).vcpu.is_some() { MS / 2 } else { 0 };
        now = sched.pick(0, now).until + late;
    }
    close(sched.info(id, now).cpu_ns, SECOND / 5, 3);
}

#[test]
fn a_cap_set_while_its_cpu_sleeps_ends_with_the_period() {
    let mut machine = Machine::new(1);
    let id = machine.spawn(Spin, params(DEFAULT_WEIGHT, 50, CLASS_GUEST, 0));
    machine.run(4 * MS);
    machine.sched.stop(id);
    machine.until[0] = machine.now;
    machine.run(0);
    machine.sched.set(id, &params(DEFAULT_WEIGHT, 30, CLASS_GUEST, 0), false, machine.now);
    machine.sched.start(id, machine.now);
    machine.kick(0);
    machine.run(0);
    assert_eq!(machine.sched.current(0), None, "it has used up more than its cap");
    // One ms is owed by the second period, then come three whole ones.
    assert_eq!(machine.measure(&[id], 46 * MS)[0], 11 * MS);
}

#[test]
fn storming_drivers_cannot_starve_guests() {
    for drivers in [1, 3] {
        let mut machine = Machine::new(1);
        let storm: Vec<VcpuId> = (0..drivers).map(|_| machine.spawn(Spin, driver(0))).collect();
        let quiet = machine.spawn(Burst(MS / 10, 20 * MS), driver(0));
        let guests = [0, 0].map(|_| machine.spawn(Spin, guest(0)));
        let fair = (SECOND / (drivers + 2)).min(SECOND / 4);
        for got in machine.measure(&guests, SECOND) {
            close(got, fair, 5);
        }
        for got in machine.measure(&storm, 3 * SECOND) {
            close(got, 3 * (SECOND - 2 * fair) / drivers, 6);
        }
        let bursts = machine.measure(&[quiet], SECOND)[0] / (MS / 10);
        assert!(bursts >= 39, "a driver beside storming ones got only {bursts} bursts");
    }
}

#[test]
fn a_driver_alone_with_idle_guests_gets_the_cpu() {
    let mut machine = Machine::new(1);
    let id = machine.spawn(Spin, driver(0));
    close(machine.measure(&[id], SECOND)[0], SECOND, 1);
}

#[test]
fn a_driver_within_its_budget_runs_at_once() {
    let mut machine = Machine::new(1);
    let id = machine.spawn(Burst(MS, 9 * MS), driver(0));
    for _ in 0..4 {
        machine.spawn(Spin, params(65535, 0, CLASS_GUEST, 0));
    }
    close(machine.measure(&[id], SECOND)[0], SECOND / 10, 2);
}

#[test]
fn drivers_on_one_cpu_push_guests_to_the_others() {
    let mut machine = Machine::new(2);
    let pinned = machine.spawn(Spin, driver(1));
    let guests = [0, 0].map(|_| machine.spawn(Spin, guest(0)));
    for got in machine.measure(&[pinned, guests[0], guests[1]], SECOND) {
        close(got, SECOND * 2 / 3, 5);
    }
}

#[test]
fn sleepers_lose_nothing_beside_spinners_and_take_no_more_than_their_share() {
    let mut machine = Machine::new(1);
    let light = machine.spawn(Burst(MS, 9 * MS), guest(0));
    let heavy = machine.spawn(Burst(20 * MS, MS / 10), guest(0));
    let spin = machine.spawn(Spin, guest(0));
    let got = machine.measure(&[light, heavy, spin], 3 * SECOND);
    close(got[0], 3 * SECOND / 10, 6);
    close(got[1] + got[2], 27 * SECOND / 10, 2);
    assert!(got[2] * 100 >= got[1] * 95, "{got:?}");
}

#[test]
fn who_slept_long_or_comes_late_shares_from_then_on() {
    let mut machine = Machine::new(1);
    let spin = machine.spawn(Spin, guest(0));
    let sleeper = machine.spawn(Burst(SECOND, 5 * SECOND), guest(0));
    // Each of them runs for a second, then the sleeper sleeps for five.
    machine.run(7 * SECOND - 10 * MS);
    let got = machine.measure(&[spin, sleeper], 100 * MS);
    assert!(got[0] + 10 * MS >= got[1], "{got:?}");
    let late = machine.spawn(Spin, guest(0));
    for got in machine.measure(&[spin, sleeper, late], 60 * MS) {
        assert!(got >= 15 * MS, "{got}");
    }
}

#[test]
fn many_sleepers_leave_spinners_their_share() {
    let mut machine = Machine::new(2);
    let sleepers: Vec<VcpuId> = (0..6).map(|n| machine.spawn(Burst(2 * MS + n * 77_000, MS), guest(0))).collect();
    let spinners = [0, 0].map(|_| machine.spawn(Spin, guest(0)));
    machine.run(SECOND / 10);
    for got in machine.measure(&spinners, SECOND) {
        assert!(got * 100 >= SECOND / 4 * 95, "{}", got / MS);
    }
    for got in machine.measure(&sleepers, SECOND) {
        assert!(got * 100 >= SECOND / 4 * 85, "{}", got / MS);
    }
}

#[test]
fn all_time_of_all_cpus_is_accounted() {
    let mut machine = Machine::new(3);
    let ids: Vec<VcpuId> = (0..7).map(|n| machine.spawn(Burst(n * MS + 1, MS * 3), guest(0))).collect();
    machine.run(SECOND);
    let busy: u64 = ids.iter().map(|&id| machine.cpu_ns(id)).sum();
    let idle: u64 = (0..3).map(|cpu| machine.sched.idle_ns(cpu, machine.now)).sum();
    assert_eq!(busy + idle, 3 * SECOND);
}

#[test]
fn an_event_hands_the_cpu_over_while_nobody_else_wants_it() {
    let mut machine = Machine::new(1);
    let [asks, answers] = [guest(0), guest(0)].map(|params| machine.spawn(Spin, params));
    let rounds = |machine: &mut Machine, rounds: u64| {
        let mut handed = 0;
        for _ in 0..rounds {
            while machine.sched.current(0) != Some(asks) {
                machine.sched.block(answers, u64::MAX);
                machine.kick(1);
                machine.run(MS / 100);
            }
            machine.run(MS / 20);
            if machine.sched.hand_over(0, answers, machine.now) {
                handed += 1;
            } else {
                machine.sched.wake(answers, machine.now);
                machine.kick(0);
            }
            machine.run(MS / 50);
        }
        handed
    };
    assert!(rounds(&mut machine, 1000) > 900);
    let (asked, answered) = (machine.cpu_ns(asks), machine.cpu_ns(answers));
    assert_eq!(asked + answered, machine.now);
    close(answered, 20 * MS, 60);
    machine.spawn(Spin, guest(0));
    assert_eq!(rounds(&mut machine, 100), 0);
}
