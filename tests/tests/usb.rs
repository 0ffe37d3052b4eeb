//! The image for a USB stick boots on every kind of firmware, up to a prompt that carries out commands.

use system_tests::{BOCHS_BOOT, SOON, System, machine};
use xtask::emulator::{Exit, Firmware};

fn at_prompt(system: &mut System) {
    let names: Vec<_> = system.json("list").as_array().expect("a list").iter().map(|row| row["name"].clone()).collect();
    assert!(names.contains(&"dom0".into()) && names.contains(&"console".into()), "{names:?}");
    assert_eq!(system.json("info")["cpus"], 2);
}

fn boots(firmware: Firmware) {
    let mut system = machine(2).from_image(firmware).boot();
    assert_eq!(system.boot_reply().status, 0, "{}", system.boot_reply().text);
    at_prompt(&mut system);
    // The boot menu has passed on the words of the boot line.
    assert!(system.ok("info").contains("off-insecure (DMA is NOT confined)"));
    let end = system.last_command("poweroff 3", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::PowerOff(3)));
}

#[test]
fn the_image_boots_from_a_stick_with_a_bios() {
    boots(Firmware::Bios);
}

#[test]
fn the_image_boots_from_a_stick_with_uefi() {
    boots(Firmware::Uefi);
}

/// Nobody presses a key in the boot menu, so DMA is refused, which the driver for its disk does without.
#[test]
fn the_image_boots_in_bochs_as_on_a_machine_without_an_emulators_help() {
    let mut system = machine(2).from_image(Firmware::Bochs).no_network().timeout(BOCHS_BOOT).boot();
    assert_eq!(system.boot_reply().status, 0, "{}", system.boot_reply().text);
    at_prompt(&mut system);
    assert!(system.ok("info").contains("none (devices that do DMA are refused)"));
    let served = |line: &str| line.contains("ata0p3") && line.contains(" web ");
    system.until("the disk", |system| system.run("disks").text.lines().any(served).then_some(()));
    let end = system.last_command("poweroff", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(end, Err(Exit::PowerOff(0)));
}
