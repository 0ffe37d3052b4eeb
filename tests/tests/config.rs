//! Configurations, good and bad, as they come in the bundle.

use system_tests::{SOON, machine};
use xtask::emulator::Exit;

#[test]
fn a_bad_file_at_boot_is_told_and_the_others_run() {
    let mut system = machine(2)
        .file("auto/broken.toml", "image = \"hello\"\nmemory = 1\nmemroy = 2\n")
        .file("auto/fine.toml", "image = \"hello\"\nmemory = 1\n")
        .boot();
    let boot = system.boot_reply().clone();
    assert_ne!(boot.status, 0, "{}", boot.text);
    assert!(boot.text.contains("auto/broken.toml:3: memroy: "), "{}", boot.text);
    assert!(boot.text.contains("did you mean `memory`?"), "{}", boot.text);
    let names: Vec<_> = system.json("list").as_array().expect("a list").iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["dom0", "console", "disk", "fine", "hello", "network", "web"]);
    // The status of the boot is not that of the next command.
    system.ok("list");
}

#[test]
fn a_domain_that_does_not_fit_is_told_at_boot() {
    let mut system = machine(1).file("auto/huge.toml", "image = \"hello\"\nmemory = 4000\n").boot();
    let boot = system.boot_reply().clone();
    assert_ne!(boot.status, 0, "{}", boot.text);
    assert!(boot.text.contains("huge: needs 4000.0 MiB") && boot.text.contains("lower `memory`"), "{}", boot.text);
    let end = system.last_command("poweroff", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::PowerOff(0)));
}

#[test]
fn a_missing_image_is_told_at_boot() {
    let mut system = machine(1).file("auto/ghost.toml", "image = \"ghost\"\nmemory = 1\n").boot();
    let boot = system.boot_reply().clone();
    assert_ne!(boot.status, 0, "{}", boot.text);
    assert!(boot.text.contains("ghost"), "{}", boot.text);
    assert!(system.fails("create ghost", 1).contains("ghost"));
}

#[test]
fn an_image_that_is_no_image_is_refused() {
    let mut system = machine(1)
        .file("images/junk", *b"this is no ELF file")
        .file("config/junk.toml", "image = \"junk\"\nmemory = 1\n")
        .boot();
    let pool = system.json("info")["pool_frames"].clone();
    assert!(system.fails("create junk", 1).contains("junk"));
    assert_eq!(system.json("info")["pool_frames"], pool);
}

/// A file that worked with Xen in 2005 is read as it is, and what means nothing here is named.
#[test]
fn the_file_of_2005_is_understood() {
    let mut system = machine(2).boot();
    let text = system.fails("create xtd01", 1);
    assert!(text.contains("warning: config/xtd01.toml:7: nics: means nothing here"), "{text}");
    assert!(text.contains("config/xtd01.toml:1: kernel: the bundle holds no /boot/xen-linux-2.6.11.12xu02"), "{text}");
    assert!(!text.contains("unknown"), "{text}");
}

#[test]
fn keys_on_the_command_line_go_before_those_of_the_file() {
    let mut system = machine(2).boot();
    system.ok("create hello name=other memory=2 cpu_weight=512 cap=40 cpus=1");
    let row = &system.json("list other")[0];
    assert_eq!((row["memory_bytes"].as_u64(), row["weight"].as_u64()), (Some(2 << 20), Some(512)), "{row}");
    assert_eq!((row["cap"].as_u64(), row["cpus"].as_str()), (Some(40), Some("1")), "{row}");
    assert!(system.fails("create hello name=x memory=none", 1).contains("memory"));
    assert!(system.fails("create hello name=x memroy=2", 1).contains("did you mean `memory`?"));
    assert!(system.fails("create nothing", 1).contains("there is no such configuration"));
    assert!(system.fails("create hello name=x cpus=9", 1).contains("CPUs run here"));
}
