//! Every way into the core and out of it, except the first: the one place that knows how registers are kept.
//!
//! The core is compiled for the host target, so any Rust function may use XMM registers. The rules, all of them kept here:
//! - Interrupts are off in the core. The exceptions are below: the `sti; hlt`, and the window behind a guest; there nothing is
//!   worth keeping.
//! - A hypercall keeps what the calling convention names. XMM0..15 belong to the core from there on; the exit zeroes them, and
//!   with AVX their upper parts, so nothing of the core shows. x87 and MXCSR stay untouched all along, because the core
//!   never uses them.
//! - An interrupt or exception out of ring 3 keeps all registers, and the vector state is in the context frame before any Rust
//!   runs. The way back out restores both.
//! - A switch between contexts saves the vector state of one that left by a hypercall too (`save_vector_state`, called with
//!   the lock held, while the context is still this CPU's), and always restores that of the other.
//! - Whether GS is the core's follows from the ring an interrupt came from, except in the few instructions around `swapgs`.
//!   Maskable interrupts do not come there; NMI needs no GS; any other exception there ends the core, so its entry looks at
//!   the register itself and never goes back.
//! - A guest's vector state is loaded by the last instructions before it runs and saved by the first after it, before any Rust,
//!   and both with the core's XCR0. With SVM, GIF is clear from before the guest's GS base is loaded until the core's is again,
//!   so not even an NMI comes in between; with VMX, the processor switches it in the same step as the instruction pointer.
//!   An interrupt that ended the run is taken behind that, in a window of one instruction in which, as in the halt, nothing is
//!   worth keeping.
//! - RIP is checked before SYSRET and IRET: a non-canonical one would fault in ring 0. It is the domain's fault then.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use microkernel::platform::{ENTERED_BY_CALL, ENTERED_BY_GUEST, ENTERED_BY_TRAP, Registers, XSTATE, reg};
use x86_64::registers::rflags::RFlags;

use super::descriptors::{USER_CODE, USER_DATA};
use super::percpu::Cpu;

/// RFLAGS bits that SYSCALL clears: TF, IF, DF, IOPL, NT, AC.
pub const SYSCALL_MASK: RFlags = RFlags::from_bits_retain(0x47700);

/// Distance of two stubs.
const STUB_SIZE: usize = 16;
/// First vector that is an interrupt.
pub const FIRST_INTERRUPT: u64 = 32;

unsafe extern "C" {
    static interrupt_stubs: [u8; 256 * STUB_SIZE];
    /// Where SYSCALL leads to.
    pub fn syscall_entry();
    /// Enters the scheduler for the first time on this CPU; discards the stack.
    pub fn first_entry() -> !;
}

/// What the entry functions in Rust give back to the assembly, in RAX and RDX.
#[repr(C)]
pub struct Leave {
    /// The context to run; null to wait for an interrupt.
    pub context: *mut Registers,
    /// Not 0 if it is another one than entered.
    pub switched: u64,
}

/// The core's own state at an exception, as it lies on the stack: r15 down to r8, rdi, rsi, rbp, rbx, rdx, rcx, rax, vector,
/// error code, rip, cs, rflags, rsp, ss.
pub type CoreFrame = [u64; 22];

/// Saves the vector state into a context frame.
///
/// # Safety
/// The frame is mapped, and no other CPU uses it.
pub unsafe fn save_vector_state(context: *mut Registers) {
    // SAFETY: the caller vouches for the frame, which is large enough; a CPU without the instruction was refused.
    unsafe {
        asm!("xsaveopt64 [{} + {}]", in(reg) context, const XSTATE, in("eax") -1, in("edx") -1, options(nostack));
    }
}

/// Address of the stub of a vector.
pub fn stub(vector: usize) -> u64 {
    (&raw const interrupt_stubs) as u64 + (vector * STUB_SIZE) as u64
}

global_asm!(
    include_str!("entry.s"),
    has_avx = sym super::features::HAS_AVX,
    xstate = const XSTATE,
    rsp = const reg::RSP,
    rip = const offset_of!(Registers, rip),
    rflags = const offset_of!(Registers, rflags),
    entered = const offset_of!(Registers, entered),
    by_call = const ENTERED_BY_CALL,
    by_trap = const ENTERED_BY_TRAP,
    by_guest = const ENTERED_BY_GUEST,
    stack = const offset_of!(Cpu, stack),
    context = const offset_of!(Cpu, context),
    scratch = const offset_of!(Cpu, scratch),
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    stub_size = const STUB_SIZE,
    first_interrupt = const FIRST_INTERRUPT,
    general_protection = const 13,
    reporter = sym super::panic::REPORTER,
    on_start = sym super::dispatch::on_start,
    on_hypercall = sym super::dispatch::on_hypercall,
    on_trap = sym super::dispatch::on_trap,
    on_core_fault = sym super::panic::on_core_fault,
);
