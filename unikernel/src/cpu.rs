//! The few instructions that Rust has no name for.
//!
//! Everything here is plain x86-64 in ring 3; what can break memory safety is `unsafe` and wrapped by the modules that own the
//! condition.

use core::arch::asm;

/// Executes `syscall`: number and arguments in the registers that [`protocol::hypercall`] names.
///
/// # Safety
/// Addresses among the arguments must be of memory that the call may read or write as its declaration says, and memory that
/// Rust objects lie in must not be taken away or shared by it.
#[inline]
pub unsafe fn syscall(number: u64, arguments: [u64; 5]) -> u64 {
    let [a, b, c, d, e] = arguments;
    let result;
    // SAFETY: the core preserves what the calling convention of `protocol::hypercall` says, everything else is declared as
    // overwritten; memory is the caller's condition.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") a => _,
            inlateout("rsi") b => _,
            inlateout("rdx") c => _,
            inlateout("r10") d => _,
            inlateout("r8") e => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
    result
}

/// Reads the time stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result, and the core leaves it enabled for ring 3.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What CPUID says here: EAX, EBX, ECX and EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// The domain must have been given the port, and the device behind it must not reach memory because of this access.
#[inline]
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the caller has the port.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// As for [`in8`].
#[inline]
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: the caller has the port.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a 16-bit word from an I/O port.
///
/// # Safety
/// As for [`in8`].
#[inline]
pub unsafe fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: the caller has the port.
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a 16-bit word to an I/O port.
///
/// # Safety
/// As for [`in8`].
#[inline]
pub unsafe fn out16(port: u16, value: u16) {
    // SAFETY: the caller has the port.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a 32-bit word from an I/O port.
///
/// # Safety
/// As for [`in8`].
#[inline]
pub unsafe fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: the caller has the port.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a 32-bit word to an I/O port.
///
/// # Safety
/// As for [`in8`].
#[inline]
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: the caller has the port.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Index of the vCPU that runs this.
#[inline]
pub fn vcpu() -> u32 {
    #[cfg(freestanding)]
    {
        let index;
        // SAFETY: the FS base is the top of the vCPU's stack, above which `_start` left the index.
        unsafe { asm!("mov {:e}, fs:[0]", out(reg) index, options(nostack, preserves_flags, readonly)) };
        index
    }
    #[cfg(not(freestanding))]
    0
}
