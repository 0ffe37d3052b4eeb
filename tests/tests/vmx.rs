//! Virtual machines on a processor of Intel's, which Bochs has.

use std::time::Duration;

use system_tests::{BOCHS_BOOT, full, linux, machine};
use xtask::emulator::Firmware;

/// A kernel takes two minutes in Bochs on an idle host.
const LINUX_BOOT: Duration = Duration::from_secs(1200);

/// Runs the guests of the test image on a machine with so many CPUs.
fn guests(cpus: u32) {
    let setup = machine(cpus).from_image(Firmware::Bochs).no_network().first_domain("machines").image("machine");
    let mut system = setup.start();
    // As many of the machine's seconds as the image waits itself, and what the boot takes.
    system.wait_for("machines: ", 2 * BOCHS_BOOT).unwrap_or_else(|error| panic!("{error:#}"));
    // A line may come in pieces.
    let whole = |line: &str| line.strip_suffix('\n')?.split_once("machines: ").map(|(_, verdict)| verdict.to_string());
    let verdict = move |text: String| text.split_inclusive('\n').find_map(whole);
    let verdict = system.until("the verdict", |system| verdict(system.transcript()));
    assert!(verdict.starts_with("passed"), "{}", system.transcript());
}

#[test]
fn guests_exit_for_what_they_do() {
    guests(2);
}

#[test]
fn guests_share_a_cpu() {
    guests(1);
}

/// With `--full` only: it takes minutes. The second CPU starts in real mode. On a machine with a single one Bochs would hang, because
/// it lets no interrupt end the run of a guest that waits for its other CPU with interrupts off.
#[test]
fn linux_comes_up_with_two_cpus() {
    if !full() {
        return;
    }
    let setup = linux::machine(2).from_image(Firmware::Bochs).no_network().memory("300M").timeout(BOCHS_BOOT);
    let mut system = setup.boot();
    system.create_linux("tux", "", "vcpus=2 disk=[] vif=[]");
    system.type_line("console tux").unwrap_or_else(|error| panic!("{error:#}"));
    system.wait_for("/ # ", LINUX_BOOT).unwrap_or_else(|error| panic!("{error:#}"));
    system.keys(b"echo cpus=$(nproc)\r");
    system.wait_for("cpus=2", BOCHS_BOOT).unwrap_or_else(|error| panic!("{error:#}"));
    system.keys(b"poweroff\r");
    system.wait_for("tux is destroyed", BOCHS_BOOT).unwrap_or_else(|error| panic!("{error:#}"));
}
