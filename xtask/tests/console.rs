//! The operator's side of the console, against a program that plays the machine.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use xtask::emulator::{Exit, Machine, Options};

const LONG: Duration = Duration::from_secs(20);

fn options(test: &str) -> Options {
    let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("console-{test}"));
    let player = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/player.sh");
    let mut options = Options::new(1, logs);
    // Files that are there; the player does not read them.
    options.core.clone_from(&player);
    options.bundle.clone_from(&player);
    options.disks.clear();
    options.emulator = Some(player);
    options.timeout = LONG;
    options
}

#[test]
fn commands_give_their_output_and_status() {
    let mut machine = Machine::boot(options("commands")).unwrap();
    assert_eq!((machine.boot_reply().status, machine.boot_reply().text.as_str()), (0, "the core is up\n"));
    let reply = machine.command("list").unwrap();
    assert_eq!((reply.status, reply.text.as_str()), (0, "name id\ndom0 0\n"));
    assert_eq!(machine.command("frobnicate").unwrap().status, 2);
    assert_eq!(machine.command("list").unwrap().status, 0);
}

#[test]
fn the_end_of_the_machine_carries_its_status() {
    for (command, exit) in [("poweroff", Exit::PowerOff(0)), ("poweroff 3", Exit::PowerOff(3)), ("reset", Exit::Reset)]
    {
        let mut machine = Machine::boot(options("end")).unwrap();
        assert_eq!(machine.last_command(command, LONG).unwrap(), Err(exit), "{command}");
    }
}

#[test]
fn a_panic_of_the_core_ends_every_wait() {
    let mut machine = Machine::boot(options("panic")).unwrap();
    let begin = Instant::now();
    let error = machine.command("panic").unwrap_err().to_string();
    assert!(error.contains("the core panicked") && error.contains("CPU 1: why"), "{error}");
    assert!(begin.elapsed() < LONG);
}

#[test]
fn waiting_has_an_end() {
    let mut machine = Machine::boot(options("timeout")).unwrap();
    let error = machine.command_within("slow", Duration::from_millis(200)).unwrap_err().to_string();
    assert!(error.contains("`slow`") && error.contains("--- console ---"), "{error}");
}

#[test]
fn a_dropped_machine_leaves_no_process() {
    let machine = Machine::boot(options("drop")).unwrap();
    let process = PathBuf::from(format!("/proc/{}", machine.pid()));
    assert!(process.exists());
    drop(machine);
    assert!(!process.exists());
}
