//! The machine comes up with all its CPUs, says what it is, and goes down with the status it is told.

use std::fs;

use system_tests::{SOON, machine};
use xtask::emulator::Exit;
use xtask::workspace;

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

/// The firmware needs memory for devices, and the bundle lies right below what it keeps.
#[test]
fn with_many_devices() {
    let folder = workspace::target().join("system-tests");
    fs::create_dir_all(&folder).expect("a folder for the disks");
    let disks: Vec<_> = (1..8).map(|number| folder.join(format!("many-{number}.img"))).collect();
    // An image at the end of the bundle, of several pages.
    let image = fs::read(workspace::domain_elf("hello")).expect("the image of hello");
    let mut setup = machine(2).more_networks(3).file("images/last", image).file("auto/last.toml", "memory = 1");
    for (number, disk) in disks.iter().enumerate() {
        fs::File::create(disk).and_then(|file| file.set_len((number as u64 + 1) << 20)).expect("a disk");
        setup = setup.disk(disk.clone());
    }
    let mut system = setup.boot();
    let boot = system.boot_reply().clone();
    assert_eq!(boot.status, 0, "{}", boot.text);
    system.visit("console last", "hello from last: ");
    let found = system.json("pci-list");
    let given = |domain: &str| found.as_array().expect("a list").iter().filter(|row| row["domain"] == domain).count();
    assert_eq!((given("disk"), given("network")), (8, 4), "{found}");
    let sizes = system.until("all disks", |system| {
        // While it looks for its disks the domain does not answer.
        (system.run("disks").status == 0).then_some(())?;
        let found = system.json("disks");
        let mib = |row: &serde_json::Value| row["bytes"].as_u64().map(|bytes| bytes >> 20);
        let whole = |row: &&serde_json::Value| row["name"].as_str().is_some_and(|name| !name[7..].contains('p'));
        let sizes: Vec<_> = found["disks"].as_array()?.iter().filter(whole).filter_map(mib).collect();
        (sizes.len() == 8).then_some(sizes)
    });
    assert_eq!(sizes[1..], [1, 2, 3, 4, 5, 6, 7], "{sizes:?}");
}
