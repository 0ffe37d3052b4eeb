//! The rest of what the safe core asks of the machine.

use core::fmt;

use microkernel::platform::Machine;
use x86_64::instructions::port::Port;

use super::percpu::Cpu;
use super::{acpi, apic, cpu, ioapic, serial};

/// The machine; its state is in the modules it hands the calls to.
pub struct Hardware;

/// I/O ports by which the configuration space of PCI functions is reached: every PC has them.
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;

/// Makes the data port stand for a register; gives the port of its first byte. The core's lock keeps the two steps together.
fn select(function: u16, offset: u16) -> u16 {
    // SAFETY: selecting a register has no effect by itself.
    unsafe { Port::<u32>::new(PCI_ADDRESS).write(1 << 31 | u32::from(function) << 8 | u32::from(offset & 0xfc)) };
    PCI_DATA + (offset & 3)
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
        // SAFETY: reading a configuration register has no effect on memory.
        let word: u32 = unsafe { Port::new(select(function, offset & !3)).read() };
        (word >> (8 * (offset & 3))) & (u32::MAX >> (32 - 8 * width))
    }

    fn config_write(&self, function: u16, offset: u16, width: u64, value: u32) {
        let port = select(function, offset);
        // SAFETY: what this lets the function do to memory is the caller's matter: all of it goes through `microkernel::pci`.
        unsafe {
            match width {
                1 => Port::new(port).write(value as u8),
                2 => Port::new(port).write(value as u16),
                _ => Port::new(port).write(value),
            }
        }
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
