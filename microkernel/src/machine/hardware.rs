//! The rest of what the safe core asks of the machine.

use core::fmt;

use microkernel::platform::Machine;

use super::percpu::Cpu;
use super::{acpi, apic, cpu, ioapic, pci, serial};

/// The machine; its state is in the modules it hands the calls to.
pub struct Hardware;

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

    fn release_serial(&self, released: bool) {
        serial::release(released);
    }

    fn show(&self, line: fmt::Arguments<'_>, aloud: bool) {
        serial::show(line, aloud);
    }
}
