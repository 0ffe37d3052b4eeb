//! The machine comes up with all its CPUs, says what it is, and goes down with the status it is told.

use system_tests::{SOON, machine};
use xtask::emulator::Exit;

fn boots(cpus: u32) {
    let mut system = machine(cpus).boot();
    let boot = system.boot_reply().clone();
    assert_eq!(boot.status, 0, "{}", boot.text);

    let list = system.ok("list");
    let names: Vec<_> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["dom0", "console", "disk", "hello", "network", "web"], "{list}");
    let info = system.json("info");
    assert_eq!(info["cpus"], cpus, "{info}");
    assert_eq!(info["domains"], 6, "{info}");
    assert_eq!(info["idle_ns"].as_array().map(Vec::len), Some(cpus as usize), "{info}");
    // The core's own frames, those set aside for domains, and the pool are all there is.
    let set_aside: u64 = system.json("list").as_array().expect("a list").iter().map(pages).sum();
    let total = info["total_memory_bytes"].as_u64().unwrap_or(0) / 4096;
    let reserved = info["reserved_memory_bytes"].as_u64().unwrap_or(0) / 4096;
    assert_eq!(info["pool_frames"].as_u64(), Some(total - reserved - set_aside), "{info}");

    let log = system.ok("dmesg");
    assert!(log.contains(&format!("{cpus} CPUs")), "{log}");
    assert!(system.ok("info").contains("iommu                  : off-insecure (DMA is NOT confined)"));
    let end = system.last_command("poweroff 3", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::PowerOff(3)));
}

fn pages(row: &serde_json::Value) -> u64 {
    row["memory_pages"].as_u64().expect("a number of pages")
}

#[test]
fn one_cpu() {
    boots(1);
}

#[test]
fn two_cpus() {
    boots(2);
}

#[test]
fn four_cpus() {
    boots(4);
}

#[test]
fn fewer_cpus_than_there_are() {
    let mut system = machine(4).append("maxcpus=2").boot();
    assert_eq!(system.json("info")["cpus"], 2);
}

#[test]
fn the_machine_can_start_again() {
    let mut system = machine(1).boot();
    let end = system.last_command("poweroff --reboot", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::Reset));
}
