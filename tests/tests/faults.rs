//! A domain that dies takes nobody along, and its report says why.

use serde_json::Value;
use system_tests::{System, machine};

/// What the guest `fault` is told, and what the report must say.
const DEATHS: &[(&str, &str)] = &[
    ("null", "of a page fault: read at 0x0, where nothing is mapped"),
    ("write-rodata", "of a page fault: write at 0x"),
    ("execute-data", "of a page fault: "),
    ("stack", "(a stack overflow?)"),
    ("illegal", "of an illegal instruction"),
    ("divide", "of a division error"),
    ("privileged", "of a general protection fault"),
    ("port", "of a general protection fault"),
    ("noncanonical", "of a general protection fault"),
    ("core", "of a page fault: read at 0xffffffff80000000"),
    ("panic", "panicked on vCPU 0: guests/fault/src/main.rs:"),
];

fn row(system: &mut System, name: &str) -> Value {
    system.json(&format!("list {name}"))[0].clone()
}

/// What of a domain's life must not be changed by the death of others.
fn life(system: &mut System, name: &str) -> [Value; 5] {
    let row = row(system, name);
    ["id", "incarnation", "resets", "restarts", "last_end"].map(|key| row[key].clone())
}

fn dies_alone(cpus: u32) {
    let mut system = machine(cpus).boot();
    system.ok("create spin");
    let others = ["dom0", "console", "hello", "spin"];
    let lives = others.map(|name| life(&mut system, name));
    for (way, reason) in DEATHS {
        system.ok(&format!("create fault name={way} cmdline={way} on_crash=preserve"));
        let end = system.until(way, |system| row(system, way)["last_end"].as_str().map(str::to_owned));
        assert!(end.contains(reason), "{way}: {end}");
        let dead = row(&mut system, way);
        assert_eq!(dead["state"], "----c-", "{way}: {dead}");
        // The full report, once: registers, and where it was, by name.
        let transcript = system.until("the report", |system| {
            let text = system.transcript();
            text.contains(&format!("{way} is kept: ")).then_some(text)
        });
        let report = &transcript[transcript.rfind(&format!("{way} {end}")).expect("its first line")..];
        assert!(report.contains("  rax ") && report.contains("rflags 0x"), "{way}: {report}");
        assert!(report.contains(" fault::") || report.contains(" unikernel::"), "{way}: no names in\n{report}");
        system.ok(&format!("destroy {way}"));
        assert_eq!(others.map(|name| life(&mut system, name)), lives, "after {way}");
    }
    let used = |system: &mut System| row(system, "spin")["cpu_ns"].as_u64();
    let before = used(&mut system);
    system.until("CPU time for spin", |system| (used(system) > before).then_some(()));
    // The core has not complained about itself.
    assert!(system.panicked().is_none());
}

#[test]
fn every_death_on_one_cpu() {
    dies_alone(1);
}

#[test]
fn every_death_on_two_cpus() {
    dies_alone(2);
}

#[test]
fn ends_that_are_no_deaths() {
    let mut system = machine(2).boot();
    system.ok("create fault name=leaver cmdline=exit");
    system.until("its end", |system| {
        let text = system.transcript();
        (text.contains("leaver shut down with code 7") && text.contains("leaver is destroyed")).then_some(())
    });
    system.fails("list leaver", 1);
    // One that reboots at once, every time, is held back and then given up.
    system.ok("create fault name=looper cmdline=reboot");
    system.until("quarantine", |system| system.transcript().contains("looper ended too often").then_some(()));
    let row = row(&mut system, "looper");
    assert!(row["resets"].as_u64() > Some(1), "{row}");
    system.ok("destroy looper");
}

#[test]
fn a_crash_can_mean_a_restart() {
    let mut system = machine(2).boot();
    system.ok("create fault cmdline=null on_crash=restart");
    system.until("quarantine", |system| system.transcript().contains("fault ended too often").then_some(()));
    system.ok("restart fault; destroy fault");
}

/// Calls out of a hat. It may survive them, or take away what it stands on; nobody else may notice.
fn floods(cpus: u32) {
    let mut system = machine(cpus).boot();
    let others = ["dom0", "console", "hello"];
    let lives = others.map(|name| life(&mut system, name));
    for round in 0..3 {
        let name = format!("flood{round}");
        system.ok(&format!("create fault name={name} cmdline=hypercall-flood on_crash=preserve on_poweroff=preserve"));
        let mut calls = 0;
        system.until("the end of the flood", |system| {
            let row = row(system, &name);
            let before = calls;
            calls = row["hypercalls"].as_u64().expect("a count");
            // After it, it waits for orders.
            (row["state"] != "r-----" && calls == before && calls > 100).then_some(())
        });
        system.ok(&format!("destroy {name}"));
        assert_eq!(others.map(|name| life(&mut system, name)), lives);
    }
}

#[test]
fn a_flood_of_hypercalls_on_one_cpu() {
    floods(1);
}

#[test]
fn a_flood_of_hypercalls_on_four_cpus() {
    floods(4);
}
