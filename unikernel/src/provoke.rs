//! Test aid: everything a domain must not do, done on purpose.
//!
//! Domains forbid `unsafe`, so the guests that show what happens to a domain that misbehaves do it through here. Each act ends
//! the domain or is refused by the core; none can reach another domain. Nothing but such guests uses this module. The acts are
//! in assembly, so that the compiler assumes nothing about them.

use core::arch::asm;
use core::sync::atomic::AtomicU8;

/// Reads a byte at `address`.
pub fn read(address: u64) {
    // SAFETY: a read has no effect beside the fault that is wanted.
    unsafe { asm!("mov {}, [{}]", out(reg_byte) _, in(reg) address, options(nostack)) };
}

/// Writes a byte to a constant of the image.
pub fn write_constant() {
    static CONSTANT: [u8; 16] = *b"read-only bytes.";
    // SAFETY: the page is read-only, so nothing is written: the write faults.
    unsafe { asm!("mov byte ptr [{}], 0", in(reg) CONSTANT.as_ptr(), options(nostack)) };
}

/// Jumps to a variable that holds the code of a return.
pub fn execute_data() {
    static CODE: AtomicU8 = AtomicU8::new(0xc3);
    // SAFETY: the page is not executable, so the jump faults; were it executable, the code there would return.
    unsafe { asm!("call {}", in(reg) CODE.as_ptr(), clobber_abi("C")) };
}

/// Calls itself until the stack is used up.
pub fn overflow_stack() {
    // SAFETY: the guard page below the stack ends this.
    unsafe { asm!("2:", "push rax", "jmp 2b", options(noreturn)) }
}

/// Executes an instruction that is none.
pub fn illegal_instruction() {
    // SAFETY: the exception is wanted.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// Divides by zero.
pub fn divide_by_zero() {
    // SAFETY: the exception is wanted.
    unsafe { asm!("xor ecx, ecx", "div ecx", out("rcx") _, out("rax") _, out("rdx") _, options(nostack)) };
}

/// Executes an instruction of the core's.
pub fn privileged_instruction() {
    // SAFETY: the exception is wanted; ring 3 cannot disable interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

/// Reads an I/O port, with or without the right to.
pub fn read_port(port: u16) {
    // SAFETY: a port the domain was not given faults; the image that calls this was given none.
    unsafe { crate::cpu::in8(port) };
}

/// Makes any hypercall with any arguments; gives the result register.
///
/// The core checks everything, but it cannot know what the calling domain's own memory is for: a valid call may overwrite the
/// caller. Callers pass numbers whose effects they know.
pub fn hypercall(number: u64, arguments: [u64; 5]) -> u64 {
    // SAFETY: none can be given for all arguments; the domain that calls this stakes only itself.
    unsafe { crate::cpu::syscall(number, arguments) }
}
