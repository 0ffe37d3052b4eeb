//! The configuration space of PCI functions, by I/O ports: every PC has them.

use x86_64::instructions::port::Port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Makes the data port stand for a register; gives the port of its first byte. The core's lock keeps the two steps together.
fn select(function: u16, offset: u16) -> u16 {
    // SAFETY: selecting a register has no effect by itself.
    unsafe { Port::<u32>::new(ADDRESS).write(1 << 31 | u32::from(function) << 8 | u32::from(offset & 0xfc)) };
    DATA + (offset & 3)
}

/// Reads `width` (1, 2 or 4) bytes at an offset that is a multiple of it.
pub fn read(function: u16, offset: u16, width: u64) -> u32 {
    // SAFETY: reading a configuration register has no effect on memory.
    let word: u32 = unsafe { Port::new(select(function, offset & !3)).read() };
    (word >> (8 * (offset & 3))) & (u32::MAX >> (32 - 8 * width))
}

/// Writes there. What that lets the function do to memory is the caller's matter: all of it goes through `microkernel::pci`.
pub fn write(function: u16, offset: u16, width: u64, value: u32) {
    let port = select(function, offset);
    // SAFETY: see above for the effect.
    unsafe {
        match width {
            1 => Port::new(port).write(value as u8),
            2 => Port::new(port).write(value as u16),
            _ => Port::new(port).write(value),
        }
    }
}
