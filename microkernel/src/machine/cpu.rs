//! Single instructions that Rust has no name for.
//!
//! The functions are safe where the instruction cannot break memory safety by itself in the one program that ring 0 runs:
//! what a device or a register does with the value is its caller's matter, and is argued there.

use core::arch::asm;

const FS_BASE: u32 = 0xc000_0100;

/// Reads an I/O port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: touches no memory and no flags; no device the core reads answers a read with DMA.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes an I/O port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: touches no memory and no flags; the devices the core writes to (UART, PIC, PIT) do no DMA.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) }
}

/// Reads a 32-bit I/O port.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as for `inb`; used for the ACPI timer only.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads the time stamp counter, not before earlier loads.
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.TSD does not matter in ring 0; touches no memory.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists on this CPU, or the read raises #GP in the core.
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, the value is valid for it, and its effect on this CPU is what the rest of the core relies on.
pub unsafe fn wrmsr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller vouches for register and value. No `nomem`: the effect may concern memory.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags)) }
}

/// Reads CR2: the address of the last page fault.
pub fn fault_address() -> u64 {
    let value;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads CR3: the root of the address space.
pub fn root() -> u64 {
    let value;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
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
        wrmsr(FS_BASE, base);
    }
}

/// Reads and then writes CR4.
///
/// # Safety
/// CPUID says that the bits exist: a bit that does not is answered by undefined behaviour in some emulators.
pub unsafe fn set_cr4_bits(bits: u64) {
    // SAFETY: the caller vouches for the bits.
    unsafe {
        asm!("mov {old}, cr4", "or {old}, {bits}", "mov cr4, {old}", old = out(reg) _, bits = in(reg) bits, options(nostack))
    }
}

/// Halts this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but an NMI ends the halt, and the loop halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
