//! `cargo xtask run` as a newcomer types it: what it prints, and the status it ends with.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::{process, workspace};

/// Longest time for one run; it builds nothing, since everything was built for the tests.
const LIMIT: Duration = Duration::from_secs(120);

struct Ended {
    status: Option<i32>,
    output: String,
    errors: String,
}

/// Runs `cargo xtask run` with arguments and waits for its end. `name` is that of the folder for what it prints.
fn run(name: &str, arguments: &[&str]) -> Ended {
    let folder = folder(name);
    let mut cargo = process::cargo();
    cargo.args(["xtask", "run", "--timeout", "60", "--http-port", "0"]).args(arguments);
    let file = |name: &str| File::create(folder.join(name)).expect("a file for the output");
    let mut child = cargo.stdout(file("out")).stderr(file("err")).stdin(Stdio::null()).spawn().expect("cargo");
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status.code();
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`cargo xtask run` did not end; what it printed is in {}", folder.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("what it printed");
    let ended = Ended { status, output: read("out"), errors: read("err") };
    let _ = fs::remove_dir_all(folder);
    ended
}

fn folder(name: &str) -> PathBuf {
    let folder = workspace::target().join("system-tests").join(format!("command-{name}"));
    fs::create_dir_all(&folder).expect("a folder for the output");
    folder
}

#[test]
fn the_first_command_of_a_newcomer() {
    let ended = run("first", &["--exec", "list; info; poweroff"]);
    assert_eq!(ended.status, Some(0), "{}{}", ended.output, ended.errors);
    for name in ["dom0 ", "console ", "hello ", "nr_cpus                : 2"] {
        assert!(ended.output.contains(name), "no {name:?} in\n{}", ended.output);
    }
}

#[test]
fn an_unknown_command_is_a_failure() {
    let ended = run("unknown", &["--exec", "list; frobnicate; info"]);
    assert_eq!(ended.status, Some(2), "{}{}", ended.output, ended.errors);
    assert!(ended.output.contains("frobnicate"), "{}", ended.output);
    assert!(ended.errors.contains("error: `frobnicate` ended with status 2"), "{}", ended.errors);
    assert!(!ended.output.contains("nr_cpus"), "{}", ended.output);
}

#[test]
fn a_bad_configuration_is_a_failure() {
    let file = folder("files").join("broken.toml");
    fs::write(&file, "image = \"hello\"\nmemory = \"much\"\n").expect("a file");
    let ended = run("config", &["--auto", &file.to_string_lossy(), "--exec", "list; poweroff"]);
    let _ = fs::remove_dir_all(folder("files"));
    assert!(ended.status.is_some_and(|status| status != 0), "{}{}", ended.output, ended.errors);
    assert!(ended.errors.contains("auto/broken.toml:2: memory: "), "{}", ended.errors);
}

#[test]
fn a_panic_of_the_core_is_a_failure() {
    let ended = run("panic", &["--append", "crash=page-fault", "--exec", "list; poweroff"]);
    assert!(ended.status.is_some_and(|status| status != 0), "{}{}", ended.output, ended.errors);
    assert!(ended.errors.contains("CORE PANIC on CPU"), "{}", ended.errors);
    assert!(ended.errors.contains("is in bulkhead::"), "no names in\n{}", ended.errors);
}

#[test]
fn the_status_of_poweroff_is_passed_on() {
    let ended = run("json", &["--smp", "1", "--json", "--exec", "uptime; poweroff 7"]);
    assert_eq!(ended.status, Some(7), "{}{}", ended.output, ended.errors);
    let outcome: Value = serde_json::from_str(&ended.output).expect("JSON");
    assert_eq!((&outcome["status"], &outcome["commands"][0]["command"]), (&Value::from(7), &Value::from("uptime")));
}
