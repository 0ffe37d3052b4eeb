//! The core fails on purpose: its report must name the reason and the place, and stop everything.

use system_tests::{SOON, machine};
use xtask::emulator::{Exit, prompt};

/// What the core tells an emulator that has an exit port: the status that a program of Rust has after a panic.
const PANIC_STATUS: u32 = 101;

/// The report of a core that fails as the boot line says; `reason` and `place` must be in it.
fn reports(how: &str, cpus: u32, reason: &str, place: &str) {
    let mut system = machine(cpus).append(&format!("crash={how}")).start();
    let report = system.wait_panic(SOON).unwrap_or_else(|error| panic!("{error:#}"));
    let first = report.lines().next().unwrap_or_default();
    assert!(first.contains("CORE PANIC on CPU") && first.contains(reason), "{report}");
    assert!(report.contains("backtrace: ffffffff"), "{report}");
    assert!(report.contains(place), "no {place} in\n{report}");
    // Where in the source that was.
    assert!(report.contains("microkernel/src/machine/"), "{report}");
    assert!(report.contains("core: all CPUs are stopped"), "{report}");
    // Nothing runs any more.
    assert!(prompt::at_prompt(system.transcript().as_bytes()).is_none());
    let exit = system.until("the end of the machine", |system| system.ended());
    assert_eq!(exit, Exit::PowerOff(PANIC_STATUS));
}

#[test]
fn a_panic() {
    reports("panic", 1, "as the boot line asked", "is in bulkhead::machine::");
}

#[test]
fn a_page_fault() {
    reports("page-fault", 2, "exception 14, error 0x2", "cr2 0000000000000010");
}

#[test]
fn a_double_fault() {
    reports("double-fault", 4, "exception 8", "is in bulkhead::machine::");
}

#[test]
fn a_stack_overflow() {
    reports("stack", 2, "exception 8", "the core's stack is used up");
}

/// `cargo xtask run` passes it on: the report with names, and a status that is not 0.
#[test]
fn the_operator_sees_it() {
    let error = machine(2).append("crash=panic").fails_to_boot();
    assert!(error.contains("the core panicked; logs are in"), "{error}");
    assert!(error.contains("is in bulkhead::machine::"), "{error}");
}
