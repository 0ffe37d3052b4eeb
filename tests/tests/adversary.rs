//! A guest whose kernel attacks all that it can reach costs nobody but itself.
//!
//! Beside it run a verified load on a disk and a server on the network, and the operator goes on asking.

use std::time::Duration;

use serde_json::Value;
use system_tests::adversary::{ACTS, Act, End};
use system_tests::http::{self, Server};
use system_tests::{Setup, System, full, machine};
use xtask::emulator::free_port;

/// An act is up to some hundred thousand exits, on an emulated processor.
const LONG: Duration = Duration::from_secs(300);
/// A file that the server has.
const PAGE: &str = "index.html";
/// Frames that dom0's heap may take meanwhile; a guest has some thousand.
const REPORTS: u64 = 512;
/// CPU time that an act without end gets, in ns.
const LONG_ENOUGH: u64 = 2_000_000_000;
/// Time over which a load is measured, in ms of the machine.
const INTERVAL: u64 = 3000;
/// What must be left of a load, of what there is beside a guest that only keeps its CPU busy.
const LEFT: f64 = 0.9;

/// A machine that can run every act, as `adversary-NAME`, and the load.
fn with_adversaries(setup: Setup) -> Setup {
    let load =
        "memory = 8\ngrant_frames = 4\ndisk = [\"phy:scratch,xvda,w\"]\ncmdline = \"depth=32 seconds=0 report=1\"\n";
    ACTS.iter().fold(setup.file("config/blkload.toml", load), |setup, act| {
        let path = format!("boot/adversary/{}", act.name);
        let text = format!("kernel = \"/{path}\"\nmemory = 24\ndisk = [\"phy:scratch2,xvda,w\"]\n");
        setup.file(&path, act.kernel()).file(&format!("config/adversary-{}.toml", act.name), text)
    })
}

/// What must be the same before a guest was made and after it is gone, and frames that are free.
fn resources(system: &mut System) -> ([u64; 5], u64) {
    let info = system.json("info");
    let number = |key| info[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {info}"));
    (["pool_frames", "domains", "handles", "ports", "mappings"].map(number), number("free_frames"))
}

/// Milliseconds and requests answered, as the load last counted them.
fn progress(system: &System) -> (u64, u64) {
    let log = system.debug_log();
    let report = log.lines().rev().find(|line| line.starts_with("[blkload] blkload {")).unwrap_or_default();
    assert!(report.is_empty() || report.contains("\"errors\":0,\"wrong\":0,"), "the load noticed something: {report}");
    let number = |key: &str| {
        let (_, rest) = report.split_once(key).unwrap_or_default();
        rest.split(',').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    (number("\"ms\":"), number("\"answered\":"))
}

/// Requests a second that the load has answered.
fn rate(system: &mut System) -> f64 {
    let mut reports = |since: u64| {
        system.until("the reports of the load", |system| {
            let now = progress(system);
            (now.0 >= since).then_some(now)
        })
    };
    // What was asked for just now is done by then.
    let last = reports(0).0;
    let (begin, before) = reports(last + INTERVAL);
    let (end, after) = reports(begin + INTERVAL);
    (after - before) as f64 * 1000.0 / (end - begin) as f64
}

/// The same, once the load has the fewest pages mapped: what it maps comes and goes.
fn resting(system: &mut System) -> ([u64; 5], u64) {
    let samples = (0..20).map(|_| resources(system));
    samples.min_by_key(|(counts, _)| counts[4]).expect("there are samples")
}

fn create(system: &mut System, act: &Act, vcpus: u32) -> String {
    let name = format!("{}-{vcpus}", act.name);
    system.ok(&format!("create adversary-{} name={name} vcpus={vcpus}", act.name));
    name
}

/// Whether a line has these words at its end, perhaps between letters that another vCPU printed at the same time.
fn said(line: &str, words: &str) -> bool {
    let skipped = line.chars().count().saturating_sub(2 * words.chars().count());
    let mut end = line.chars().skip(skipped);
    words.chars().all(|letter| end.any(|other| other == letter))
}

/// Runs an act to its end.
fn perform(system: &mut System, act: &Act, vcpus: u32) {
    let name = create(system, act, vcpus);
    match act.end {
        End::Crash(reason) => {
            system.wait_for(&format!("{name} is destroyed"), LONG).unwrap_or_else(|error| panic!("{error:#}"));
            let log = system.ok("dmesg");
            let died = log.lines().find(|line| line.contains(&format!("({name}) is dead"))).unwrap_or_default();
            assert!(died.contains(reason) && said(died, act.last_words), "{name}: {died}");
        }
        End::PowerOff => system.until("its end", |system| (!system.ok("list").contains(&name)).then_some(())),
        End::Closed => {
            let closed = format!("{name}: broke the rules, the connection is closed");
            system.until("a connection that is closed", |system| {
                let device: Value = system.json(&format!("block-list {name}"))[0].clone();
                device["fault"].as_str().filter(|fault| fault.starts_with(&closed)).map(drop)
            });
            system.ok(&format!("destroy {name}"));
        }
        End::Never => {
            system.until("the CPU time that it takes", |system| {
                let list = system.json("list");
                let Some(row) = list.as_array()?.iter().find(|row| row["name"] == name) else {
                    panic!("{name} is gone:\n{}", system.ok("dmesg"));
                };
                row["cpu_ns"].as_u64().filter(|time| *time > LONG_ENOUGH).map(drop)
            });
            system.ok(&format!("destroy {name}"));
        }
    }
}

#[test]
fn whatever_a_kernel_does_is_its_own_loss() {
    let server = Server { port: free_port().expect("a free port") };
    let mut system = with_adversaries(machine(3)).http_port(server.port).timeout(LONG).boot();
    let pages = http::pages();
    let page = http::page(&pages, PAGE);
    system.until("a page", |_| server.serves(page).ok());
    system.ok("create blkload");
    system.until("the load", |system| (progress(system).1 > 0).then_some(()));
    // Once for what dom0 keeps.
    ACTS.iter().filter(|act| act.name == "reason").for_each(|act| perform(&mut system, act, 1));
    let before = resting(&mut system);
    for act in ACTS {
        for vcpus in (1..=act.vcpus).filter(|vcpus| *vcpus == act.vcpus || full()) {
            let answered = progress(&system).1;
            perform(&mut system, act, vcpus);
            server.serves(page).unwrap_or_else(|error| panic!("{}: {error}", act.name));
            system.until("requests of the load", |system| (progress(system).1 > answered).then_some(()));
        }
    }
    let after = system.until("everything given back", |system| {
        let after = resources(system);
        (after.0 == before.0).then_some(after)
    });
    assert!(after.1 + REPORTS >= before.1, "{before:?} {after:?}");
    for name in ["disk", "network", "web", "blkload"] {
        assert_eq!(system.json(&format!("list {name}"))[0]["restarts"], 0, "{name}");
    }
    assert!(system.panicked().is_none());
}

#[test]
fn a_storm_costs_others_no_more_than_a_busy_guest() {
    let mut system = with_adversaries(machine(1)).undisturbed().timeout(LONG).boot();
    system.ok("create blkload; create spin");
    system.until("the load", |system| (progress(system).1 > 0).then_some(()));
    let busy = rate(&mut system);
    system.ok("destroy spin");
    for act in ACTS.iter().filter(|act| act.is_long()) {
        let name = create(&mut system, act, 1);
        let left = rate(&mut system) / busy;
        println!("{name}: {:.1} % of {busy:.0} requests a second are left", left * 100.0);
        assert!(left >= LEFT, "{name}: {:.0} % of {busy:.0} requests a second are left", left * 100.0);
        system.ok(&format!("destroy {name}"));
    }
}
