//! Switching off and starting again: what is written where, with the tables of an emulated PC.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::acpi;
use dom0::hypervisor::Width;
use sim::Sim;

/// A machine with an FADT that names PM1a at 0x604, ACPI mode by 0xb2, and a reset register at 0xcf9.
fn machine() -> Sim {
    let mut fadt = vec![0; 244];
    fadt[48..50].copy_from_slice(&0xb2_u16.to_le_bytes());
    fadt[52] = 0xf1;
    fadt[64..66].copy_from_slice(&0x604_u16.to_le_bytes());
    fadt[112..116].copy_from_slice(&(1_u32 << 10).to_le_bytes());
    fadt[116..122].copy_from_slice(&[1, 8, 0, 1, 0xf9, 0x0c]);
    fadt[128] = 15;
    let mut dsdt = vec![0; 5000];
    dsdt.extend(b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00");
    let sim = Sim::new();
    sim.state.borrow_mut().tables.extend([(*b"FACP", fadt), (*b"DSDT", dsdt)]);
    sim
}

#[test]
fn off_is_the_sleep_type_of_s5_in_the_power_register() {
    let mut sim = machine();
    sim.state.borrow_mut().reads.insert(0x604, 1 | 3 << 10);
    acpi::power_off(&mut sim);
    assert_eq!(sim.state.borrow().writes, [(0x604, Width::Word, 1 | 5 << 10 | 1 << 13)]);
}

#[test]
fn acpi_mode_is_turned_on_first_where_the_firmware_left_it_off() {
    let mut sim = machine();
    acpi::power_off(&mut sim);
    assert_eq!(sim.state.borrow().writes[0], (0xb2, Width::Byte, 0xf1));
    assert_eq!(sim.state.borrow().writes[1].0, 0x604);
}

#[test]
fn without_tables_the_reason_is_said() {
    assert_eq!(acpi::power_off(&mut Sim::new()), "the firmware has no FADT");
    let mut sim = machine();
    sim.state.borrow_mut().tables.remove(b"DSDT");
    assert!(acpi::power_off(&mut sim).contains("_S5_"));
}

#[test]
fn a_reset_tries_every_register_there_is() {
    let mut sim = machine();
    acpi::reset(&mut sim);
    let ports: Vec<_> = sim.state.borrow().writes.iter().map(|write| (write.0, write.2)).collect();
    assert_eq!(ports, [(0xcf9, 15), (0xcf9, 6), (0x64, 0xfe)]);
}
