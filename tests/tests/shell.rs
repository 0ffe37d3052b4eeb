//! The operator's shell, typed at over the real serial line.

use std::time::Duration;

use serde_json::Value;
use system_tests::{DETACH, SOON, machine};
use xtask::emulator::Exit;

/// Ctrl-C.
const INTERRUPT: &[u8] = b"\x03";

#[test]
fn commands_have_a_status() {
    let mut system = machine(2).boot();
    let text = system.fails("frobnicate", 2);
    assert!(text.contains("frobnicate") && text.contains("help"), "{text}");
    assert!(system.fails("lits", 2).contains("list"));
    assert!(system.fails("info too much", 2).contains("usage: info"));
    assert!(system.fails("destroy nobody", 1).contains("nobody: there is no such domain"));
    assert!(system.fails("destroy dom0", 1).contains("dom0"));
    // The line stops at the first failure.
    let text = system.fails("uptime; frobnicate; list", 2);
    assert!(text.contains("Uptime") && !text.contains("VCPUs"), "{text}");
    let text = system.ok("uptime; list");
    assert!(text.contains("Uptime") && text.contains("VCPUs"), "{text}");
    system.ok("");
    let help = system.ok("help");
    for command in ["list", "create", "console", "mem-set", "vcpu-pin", "poweroff"] {
        assert!(help.contains(command), "{command} is not in:\n{help}");
    }
}

#[test]
fn data_is_printed_as_json() {
    let mut system = machine(2).boot();
    for command in ["list", "info", "vcpu-list", "sched", "uptime", "dmesg", "dmesg -n 2", "top --interval 1"] {
        let text = system.ok(&format!("{command} --json"));
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
        assert!(value.is_array() || value.is_object(), "{command}: {text}");
    }
    let created = system.json("create hello name=other");
    assert_eq!(created["name"], "other");
    let row = &system.json("list other")[0];
    assert_eq!((&row["id"], &row["memory_bytes"]), (&created["id"], &Value::from(1 << 20)));
    assert_eq!(system.json("destroy other")["name"], "other");
}

#[test]
fn lines_can_be_edited() {
    let mut system = machine(1).boot();
    // A wrong letter rubbed out from the middle of the line, and the line finished at its end.
    let reply = system.type_keys(b"upximex\x7f\x1b[D\x1b[D\x1b[D\x7ft\x1b[F --json\x01\x05\r");
    assert!(reply.status == 0 && reply.text.contains("uptime_ns"), "{reply:?}");
    // The line before, from the history.
    let reply = system.type_keys(b"\x1b[A\r");
    assert!(reply.status == 0 && reply.text.contains("uptime_ns"), "{reply:?}");
    // A word completed.
    let reply = system.type_keys(b"upt\t\r");
    assert!(reply.status == 0 && reply.text.contains("Uptime"), "{reply:?}");
    // A line given up, and a command.
    let reply = system.type_keys(b"frobnicate\x03");
    assert!(reply.status == 0 && reply.text.contains("^C"), "{reply:?}");
    system.keys(b"top -n 100\r");
    system.shows("CPUs, ");
    let reply = system.type_keys(INTERRUPT);
    assert!(reply.status == 1 && reply.text.contains("interrupted"), "{reply:?}");
    // As much at once as a hasty paste brings.
    let line = ["uptime"; 12].join(";");
    assert_eq!(system.ok(&line).matches("Uptime").count(), 12);
}

#[test]
fn a_console_is_shown_until_the_operator_comes_back() {
    let mut system = machine(2).boot();
    system.visit("console hello", "hello from hello: ");
    assert_eq!(system.ok("list hello").lines().count(), 2);
    system.visit("create hello name=other --console", "hello from other: ");
    // What is typed there is not for the shell.
    system.keys(b"console other\r");
    std::thread::sleep(Duration::from_millis(500));
    system.keys(b"poweroff\r");
    assert_eq!(system.type_keys(DETACH).status, 0);
    system.fails("console nobody", 1);
    let end = system.last_command("list; poweroff", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::PowerOff(0)));
}
