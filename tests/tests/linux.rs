//! A stock Linux kernel as a guest: it starts, uses its devices while their drivers die, and ends in every way there is.

use std::time::Duration;

use system_tests::{DETACH, System, machine};
use xtask::guest::Kind;

/// An emulated processor takes its time, all the more for what runs in a virtual machine.
const LONG: Duration = Duration::from_secs(120);

/// A machine with the small guest, whose shell is on the screen.
fn linux() -> System {
    let mut entries = Vec::new();
    Kind::Busybox.bundle(&mut entries, 0).unwrap_or_else(|error| panic!("{error:#}"));
    let setup = entries.into_iter().fold(machine(2), |setup, entry| setup.file(&entry.name, entry.bytes));
    let mut system = setup.timeout(LONG).boot();
    enter(&mut system);
    wait(&mut system, "busybox guest is up");
    wait(&mut system, "/ # ");
    system
}

fn enter(system: &mut System) {
    system.type_line("console busybox").unwrap_or_else(|error| panic!("{error:#}"));
}

/// The same once it runs: dom0 takes a moment to hand the terminal over, so keys are typed until the guest's shell answers.
fn enter_again(system: &mut System) {
    enter(system);
    let answers = |system: &mut System| {
        system.keys(b"\r");
        system.wait_for("/ # ", Duration::from_secs(3)).ok()
    };
    system.until("the guest's shell", answers);
}

fn wait(system: &mut System, pattern: &str) -> String {
    system.wait_for(pattern, LONG).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Reads from the guest's disk; the status is in the answer only, not in the command.
fn read(system: &mut System) {
    system.keys(b"dd if=/dev/xvda of=/dev/null bs=64k count=32; echo status=$?\r");
    wait(system, "status=0");
    wait(system, "/ # ");
}

#[test]
fn a_guest_uses_its_disk_while_the_driver_dies() {
    let mut system = linux();
    read(&mut system);
    system.type_keys(DETACH);
    system.ok("kill disk");
    enter_again(&mut system);
    system.keys(b"echo 3 > /proc/sys/vm/drop_caches\r");
    read(&mut system);
    system.type_keys(DETACH);
    system.ok("shutdown busybox");
    system.until("its end", |system| (!system.ok("list").contains("busybox")).then_some(()));
    assert!(system.panicked().is_none());
}

#[test]
fn a_crash_is_reported_with_what_the_kernel_said() {
    let mut system = linux();
    system.keys(b"echo c > /proc/sysrq-trigger\r");
    let report = wait(&mut system, "is destroyed");
    assert!(
        report.contains("the guest says that it crashed") && report.contains("Kernel panic - not syncing"),
        "{report}"
    );
    assert!(system.panicked().is_none());
}
