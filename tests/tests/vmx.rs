//! Virtual machines on a processor of Intel's, which Bochs has.

use system_tests::{BOCHS_BOOT, machine};
use xtask::emulator::Firmware;

#[test]
fn guests_exit_for_what_they_do() {
    let setup = machine(2).from_image(Firmware::Bochs).no_network().first_domain("machines").image("machine");
    let mut system = setup.start();
    // As many of the machine's seconds as the image waits itself, and what the boot takes.
    system.wait_for("machines: ", 2 * BOCHS_BOOT).unwrap_or_else(|error| panic!("{error:#}"));
    let verdict = |line: &str| line.split_once("machines: ").map(|(_, verdict)| verdict.to_string());
    let verdict = move |text: String| text.lines().filter_map(verdict).find(|verdict| !verdict.is_empty());
    let verdict = system.until("the verdict", |system| verdict(system.transcript()));
    assert!(verdict.starts_with("passed"), "{}", system.transcript());
}
