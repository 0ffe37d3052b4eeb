//! The rest of what the safe core asks of the machine.

use core::fmt;

use microkernel::platform::{Machine, Phys};

use super::percpu::Cpu;
use super::{acpi, apic, cpu, ioapic, pci, serial};

/// The machine; its state is in the modules it hands the calls to.
pub struct Hardware;

/// I/O ports the core drives: (first, last) of the PICs, the PIT with its gate, the PICs' trigger modes, PCI configuration.
const RESERVED_PORTS: [(u16, u16); 6] =
    [(0x20, 0x21), (0x40, 0x43), (0x61, 0x61), (0xa0, 0xa1), (0x4d0, 0x4d1), (0xcf8, 0xcff)];

fn overlap(first: u16, count: u16, range: (u16, u16)) -> bool {
    count > 0 && first <= range.1 && u32::from(range.0) < u32::from(first) + u32::from(count)
}

impl Machine for Hardware {
    fn tsc(&self) -> u64 {
        cpu::tsc()
    }

    fn flush_local(&self) {
        // SAFETY: the root that is loaded already.
        unsafe { cpu::set_root(Cpu::current().root.get()) };
    }

    fn mask_line(&self, line: u8, masked: bool) {
        ioapic::mask(line, masked);
    }

    fn config_read(&self, function: u16, offset: u16, width: u64) -> u32 {
        pci::read(function, offset, width)
    }

    fn config_write(&self, function: u16, offset: u16, width: u64, value: u32) {
        pci::write(function, offset, width, value);
    }

    fn apic_id(&self, cpu: usize) -> u32 {
        apic::message_id(cpu)
    }

    fn acpi_table(&self, signature: [u8; 4], instance: u32) -> Option<&'static [u8]> {
        acpi::find(&signature, instance as usize)
    }

    fn port_reserved(&self, first: u16, count: u16) -> bool {
        RESERVED_PORTS.iter().any(|range| overlap(first, count, *range))
    }

    fn is_serial(&self, first: u16, count: u16) -> bool {
        overlap(first, count, (serial::COM1, serial::COM1 + serial::COM1_COUNT - 1))
    }

    fn release_serial(&self, released: bool) {
        serial::release(released);
    }

    fn show(&self, line: fmt::Arguments<'_>, aloud: bool) {
        serial::show(line, aloud);
    }
}
