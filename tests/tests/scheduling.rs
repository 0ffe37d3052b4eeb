//! Who gets how much of the CPUs while several would take all of them.
//!
//! Machines with one CPU run undisturbed by what their host does besides. With two the emulator makes no progress that way
//! while one of them idles, so there a share is measured again if it is off.

use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::{System, machine};

/// How far a share may be off, relative to what it should be.
const TOLERANCE: f64 = 0.05;
/// Seconds over which shares are measured.
const INTERVAL: u32 = 3;
/// How often it is measured before it counts as wrong.
const ATTEMPTS: u32 = 5;
/// Longest time for a command while all CPUs are wanted by others.
const PROMPT: Duration = Duration::from_secs(5);

/// CPU use of each domain in percent, as `top` shows it.
fn shares(system: &mut System, names: &[&str]) -> Vec<f64> {
    let top = system.json(&format!("top --interval {INTERVAL}"));
    let domains = top["domains"].as_array().expect("domains");
    let share = |name: &&str| {
        let row = domains.iter().find(|row| row["name"] == **name).expect("a domain of this name");
        row["cpu_percent"].as_f64().expect("a number")
    };
    names.iter().map(share).collect()
}

/// Measures until each domain has what it should have.
fn expect(system: &mut System, expected: &[(&str, f64)]) {
    let names: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let shares = shares(system, &names);
        let near = |(share, (_, wanted)): (&f64, &(&str, f64))| (share - wanted).abs() <= wanted * TOLERANCE;
        if shares.iter().zip(expected).all(near) {
            return;
        }
        seen.push(shares);
    }
    panic!("expected {expected:?}, but measured {seen:?}");
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {row}"))
}

#[test]
fn equal_weights_get_equal_shares() {
    let mut system = machine(1).undisturbed().boot();
    system.ok("create spin name=a; create spin name=b");
    expect(&mut system, &[("a", 50.0), ("b", 50.0)]);
    // `list` shows it too.
    system.ok("create spin name=c; create spin name=d");
    expect(&mut system, &[("a", 25.0), ("b", 25.0), ("c", 25.0), ("d", 25.0)]);
    let busy = |system: &mut System| {
        // What `list` shows is of the time since the list before: long enough for the commands themselves not to count.
        std::thread::sleep(Duration::from_secs(1));
        let list = system.json("list");
        let spins = list.as_array().expect("a list").iter().filter(|row| row["image"] == "spin");
        spins.map(|row| number(row, "cpu_percent")).sum::<f64>() > 80.0
    };
    assert!((0..ATTEMPTS).any(|_| busy(&mut system)), "`list` does not show what they use");
    // The operator is served all the same.
    let begin = Instant::now();
    system.ok("list");
    assert!(begin.elapsed() < PROMPT, "`list` took {:?}", begin.elapsed());
    system.ok("create hello name=other; shutdown other");
}

#[test]
fn equal_weights_share_two_cpus() {
    let mut system = machine(2).boot();
    system.ok("create spin name=a; create spin name=b; create spin name=c");
    expect(&mut system, &[("a", 66.7), ("b", 66.7), ("c", 66.7)]);
    // The weight is that of each vCPU.
    system.ok("destroy c; create spin name=wide vcpus=2");
    expect(&mut system, &[("a", 50.0), ("b", 50.0), ("wide", 100.0)]);
    assert_eq!(system.json("vcpu-list wide").as_array().map(Vec::len), Some(2));
}

#[test]
fn weights_divide_a_cpu() {
    let mut system = machine(1).undisturbed().boot();
    system.ok("create spin name=light; create spin name=heavy cpu_weight=768");
    expect(&mut system, &[("light", 25.0), ("heavy", 75.0)]);
    system.ok("sched light --weight 768");
    assert_eq!(system.json("sched light")[0]["weight"], 768);
    expect(&mut system, &[("light", 50.0), ("heavy", 50.0)]);
}

#[test]
fn a_cap_holds_on_an_idle_machine() {
    let mut system = machine(2).boot();
    system.ok("create spin cap=30");
    expect(&mut system, &[("spin", 30.0)]);
    system.ok("sched spin --cap 60");
    assert_eq!(system.json("sched spin")[0]["cap"], 60);
    expect(&mut system, &[("spin", 60.0)]);
    system.ok("sched spin --cap 0");
    expect(&mut system, &[("spin", 100.0)]);
}

#[test]
fn pinned_vcpus_stay_where_they_are() {
    let mut system = machine(2).boot();
    system.ok("create spin name=a; create spin name=b; vcpu-pin a 0 1; vcpu-pin b 0 1");
    expect(&mut system, &[("a", 50.0), ("b", 50.0)]);
    for name in ["a", "b"] {
        let row = &system.json(&format!("vcpu-list {name}"))[0];
        assert_eq!((&row["cpu"], &row["affinity"]), (&Value::from(1), &Value::from("1")), "{row}");
    }
    system.ok("vcpu-pin b all 0");
    expect(&mut system, &[("a", 100.0), ("b", 100.0)]);
    assert_eq!(system.json("vcpu-list b")[0]["cpu"], 0);
    system.fails("vcpu-pin a 0 7", 1);
    system.ok("create spin name=born-pinned cpus=0; vcpu-pin born-pinned all all");
    assert_eq!(system.json("vcpu-list born-pinned")[0]["affinity"], "all");
}
