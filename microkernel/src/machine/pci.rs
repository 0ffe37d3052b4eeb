//! The configuration space of PCI functions, as memory where the firmware says so (MCFG), else by I/O ports.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::Phys;
use x86_64::instructions::port::Port;

use super::boot::u64_at;
use super::paging::{DEVICE, Tables};
use super::{acpi, window};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Where the space of function 0 lies in memory (bits 8..), and the last bus (bits 0..8); 0: ports are used.
static MEMORY: AtomicU64 = AtomicU64::new(0);

/// Finds out how the spaces are reached; gives how many bytes of each are.
pub fn initialize(tables: &mut Tables) -> u64 {
    // The first entry of the table (PCI firmware specification, section 4.1.2): base, segment, first and last bus.
    let mcfg = acpi::find_bytes(b"MCFG").unwrap_or(&[]);
    let (Some(base), Some(&[0, 0, 0, last])) = (u64_at(mcfg, 44), mcfg.get(52..56)) else { return 256 };
    if base % (1 << 20) != 0 || tables.reach(base, (u64::from(last) + 1) << 20, DEVICE).is_err() {
        return 256;
    }
    MEMORY.store(base | u64::from(last), Relaxed);
    4096
}

/// Where a register is: in memory, if its bus is reached there.
fn memory(function: u16, offset: u16) -> Option<u64> {
    let (base, last) = match MEMORY.load(Relaxed) {
        0 => return None,
        word => (word & !0xff, word & 0xff),
    };
    // On a bus that is not there, all functions are absent, as the last one of this is in practice.
    let function = if u64::from(function >> 8) <= last { u64::from(function) } else { last << 8 | 0xff };
    Some(window::pointer::<u8>(Phys(base | function << 12 | u64::from(offset))) as u64)
}

/// Makes the data port stand for a register; gives the port of its first byte. The core's lock keeps the two steps together.
fn select(function: u16, offset: u16) -> u16 {
    // SAFETY: selecting a register has no effect by itself.
    unsafe { Port::<u32>::new(ADDRESS).write(1 << 31 | u32::from(function) << 8 | u32::from(offset & 0xfc)) };
    DATA + (offset & 3)
}

/// Reads `width` (1, 2 or 4) bytes at an offset that is a multiple of it.
pub fn read(function: u16, offset: u16, width: u64) -> u32 {
    let word = match memory(function, offset & !3) {
        // SAFETY: mapped, uncached; reading a configuration register has no effect on memory.
        Some(at) => unsafe { (at as *const u32).read_volatile() },
        // SAFETY: likewise.
        None => unsafe { Port::new(select(function, offset & !3)).read() },
    };
    (word >> (8 * (offset & 3))) & (u32::MAX >> (32 - 8 * width))
}

/// Writes there. What that lets the function do to memory is the caller's matter: all of it goes through `microkernel::pci`.
pub fn write(function: u16, offset: u16, width: u64, value: u32) {
    let at = memory(function, offset);
    let port = if at.is_none() { select(function, offset) } else { 0 };
    // SAFETY: mapped and uncached, or the data port; see above for the effect.
    unsafe {
        match (at, width) {
            (Some(at), 1) => (at as *mut u8).write_volatile(value as u8),
            (Some(at), 2) => (at as *mut u16).write_volatile(value as u16),
            (Some(at), _) => (at as *mut u32).write_volatile(value),
            (None, 1) => Port::new(port).write(value as u8),
            (None, 2) => Port::new(port).write(value as u16),
            (None, _) => Port::new(port).write(value),
        }
    }
}
