//! Domains from their making to their end, as the operator sees it.

use std::time::Instant;

use serde_json::Value;
use system_tests::{SOON, System, machine};

/// One domain as `list` knows it.
fn row(system: &mut System, name: &str) -> Value {
    system.json(&format!("list {name}"))[0].clone()
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {row}"))
}

/// How many of [`resources`] are counts of memory, the first of them.
const MEMORY: usize = 2;

/// What must be the same before a domain was made and after it is gone.
fn resources(system: &mut System) -> [u64; 6] {
    let info = system.json("info");
    ["pool_frames", "free_frames", "domains", "handles", "ports", "mappings"].map(|key| number(&info, key))
}

/// The same once boot has come to its end: until their devices serve them, guests still take memory.
fn resources_at_rest(system: &mut System) -> [u64; 6] {
    for list in ["block-list web", "network-list web"] {
        system.until("the devices of the web guest", |system| {
            let devices = system.json(list);
            devices.as_array()?.first().is_some_and(|device| device["state"] == "serving").then_some(())
        });
    }
    let mut last = resources(system);
    system.until("a machine at rest", |system| {
        let now = resources(system);
        (std::mem::replace(&mut last, now) == now).then_some(now)
    })
}

/// Times that domains are made and ended. Of these memory may be missing after one: others take some for good, dom0 and the drivers
/// for their heaps, and not at once. What is lost is missing again and again.
const ROUNDS: usize = 3;

/// Makes and ends domains. Gives what there was before, and what there is afterwards.
fn make_and_end(system: &mut System) -> ([u64; 6], [u64; 6]) {
    let before = resources_at_rest(system);
    for _ in 0..3 {
        assert!(system.ok("create hello name=one").contains("one: created"));
        system.ok("create hello name=two");
        assert!(system.fails("create hello name=two", 1).contains("two"));
        assert_ne!(resources(system), before);
        system.ok("destroy one two");
        assert!(system.fails("list one", 1).contains("no such domain"));
    }
    let end = Instant::now() + SOON;
    loop {
        let after = resources(system);
        if after == before || Instant::now() > end {
            return (before, after);
        }
    }
}

fn creates_and_destroys(cpus: u32) {
    let mut system = machine(cpus).boot();
    // Once for what dom0 keeps: its heap grows.
    system.ok("create hello name=first");
    system.ok("destroy first");
    let seen: Vec<_> = (0..ROUNDS).map(|_| make_and_end(&mut system)).collect();
    assert!(seen.iter().filter(|(before, after)| before == after).count() >= ROUNDS - 1, "{seen:?}");
    assert!(seen.iter().all(|(before, after)| before[MEMORY..] == after[MEMORY..]), "{seen:?}");
}

#[test]
fn create_and_destroy_on_one_cpu() {
    creates_and_destroys(1);
}

#[test]
fn create_and_destroy_on_four_cpus() {
    creates_and_destroys(4);
}

#[test]
fn paused_domains_stand_still() {
    let mut system = machine(2).boot();
    system.ok("create spin");
    system.ok("pause spin");
    let first = row(&mut system, "spin");
    assert_eq!(first["state"], "--p---", "{first}");
    system.ok("top");
    assert_eq!(row(&mut system, "spin")["cpu_ns"], first["cpu_ns"]);
    system.ok("unpause spin");
    system.until("CPU time for spin", |system| {
        (number(&row(system, "spin"), "cpu_ns") > number(&first, "cpu_ns") + 50_000_000).then_some(())
    });
    system.fails("unpause spin", 1);
    // Created without running at all.
    system.ok("create hello name=still --paused");
    let still = row(&mut system, "still");
    assert_eq!((&still["cpu_ns"], &still["first_run_tsc"]), (&Value::from(0), &Value::from(0)), "{still}");
    system.ok("unpause still");
    system.until("its first instruction", |system| row(system, "still")["ready"].as_bool().filter(|ready| *ready));
}

#[test]
fn restarted_domains_keep_their_identity() {
    let mut system = machine(2).boot();
    system.ok("create hello name=one");
    let first = row(&mut system, "one");
    assert!(system.ok("restart one").contains("one is restarted, "));
    let again = row(&mut system, "one");
    for key in ["id", "incarnation", "memory_pages", "ports"] {
        assert_eq!(again[key], first[key], "{key}");
    }
    assert_eq!(number(&again, "resets"), number(&first, "resets") + 1);
    // Its console says so.
    system.visit("console one", "hello from one: ");

    assert!(system.ok("reboot one").contains("one is restarted"));
    assert_eq!(number(&row(&mut system, "one"), "resets"), number(&first, "resets") + 2);
    // A spinning domain answers nobody; restart needs no answer.
    system.ok("create spin");
    assert!(system.fails("shutdown spin --timeout 1", 1).contains("spin: it has not ended in time"));
    system.ok("restart spin");
    system.until("CPU time for spin", |system| (number(&row(system, "spin"), "cpu_ns") > 10_000_000).then_some(()));
    system.ok("destroy spin");
}

#[test]
fn shutdown_ends_those_that_listen() {
    let mut system = machine(2).boot();
    system.ok("create hello name=one; create hello name=two");
    assert!(system.ok("shutdown one").contains("one is destroyed"));
    system.fails("list one", 1);
    system.ok("shutdown --all");
    let names: Vec<Value> =
        system.json("list").as_array().expect("a list").iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["dom0", "console", "disk", "network"]);
}

#[test]
fn memory_is_set_aside_and_given_back() {
    let mut system = machine(2).boot();
    system.ok("create hello name=one");
    let pool = number(&system.json("info"), "pool_frames");
    assert!(system.fails("mem-set one 8", 1).contains("one"), "beyond its bound");
    system.ok("mem-max one 8");
    system.ok("mem-set one 8");
    let grown = row(&mut system, "one");
    assert_eq!((number(&grown, "memory_pages"), number(&grown, "max_pages")), (2048, 2048));
    assert_eq!(number(&system.json("info"), "pool_frames"), pool + 256 - 2048);
    system.ok("mem-set one 512K");
    assert_eq!(number(&row(&mut system, "one"), "memory_pages"), 128);
    assert_eq!(number(&system.json("info"), "pool_frames"), pool + 256 - 128);
    system.fails("mem-set one 4K", 1);
    system.fails("mem-set one 100G", 1);
    assert_eq!(number(&row(&mut system, "one"), "memory_pages"), 128);
    assert!(system.fails("create hello name=huge memory=4096", 1).contains("lower `memory` or destroy a domain"));
    system.ok("restart one");
}

#[test]
fn the_console_domain_can_be_restarted() {
    let mut system = machine(2).boot();
    system.ok("create hello name=one");
    let resets = number(&row(&mut system, "console"), "resets");
    system.type_line("restart console").expect("the console takes it");
    // What was on its way when the console domain lost its memory may be lost; the operator presses Return.
    system.until("a shell after the restart", |system| {
        system.keys(b"\r");
        system.wait_prompt(std::time::Duration::from_secs(2)).ok()
    });
    assert_eq!(number(&row(&mut system, "console"), "resets"), resets + 1);
    // All consoles are connected as before, those made earlier and later.
    system.ok("create hello name=two");
    for name in ["one", "two"] {
        system.ok(&format!("restart {name}"));
        system.visit(&format!("console {name}"), &format!("hello from {name}: "));
    }
}
