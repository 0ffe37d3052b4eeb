//! Single instructions that neither Rust nor the crate `x86_64` has a name for, or that are safe here.
//!
//! The functions are safe where the instruction cannot break memory safety by itself in the one program that ring 0 runs:
//! what a device or a register does with the value is its caller's matter, and is argued there.

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::FsBase;
use x86_64::structures::port::PortRead;

/// Reads an I/O port.
pub fn input<T: PortRead>(port: u16) -> T {
    // SAFETY: no device the core reads answers a read with DMA.
    unsafe { Port::new(port).read() }
}

/// Writes an I/O port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the devices the core writes to (UART, PIC, PIT) do no DMA.
    unsafe { Port::new(port).write(value) }
}

/// Reads the time stamp counter, not before earlier loads.
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.TSD does not matter in ring 0; touches no memory.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Loads CR3, which also forgets every cached translation but the global ones; the core has none of those.
///
/// # Safety
/// `root` is a page table root whose upper half is the core's.
pub unsafe fn set_root(root: u64) {
    // SAFETY: the caller vouches for the tables; all memory the core uses is mapped by the upper half.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// Makes the segment registers that a domain can load null, and sets its FS base.
///
/// # Safety
/// `base` is canonical, and the GS base is the core's.
pub unsafe fn set_user_segments(base: u64) {
    // SAFETY: ring 0 uses none of DS, ES, FS. GS is loaded while its base is the domain's, because loading may clear that.
    unsafe {
        asm!("mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}", "swapgs", "mov gs, {0:e}", "swapgs", in(reg) 0,
            options(nostack, preserves_flags));
        FsBase::write(VirtAddr::new_unsafe(base));
    }
}

/// Halts this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but an NMI ends the halt, and the loop halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
