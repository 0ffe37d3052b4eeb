//! Every way into the core and out of it, except the first: the one place that knows how registers are kept.
//!
//! The core is compiled for the host target, so any Rust function may use XMM registers. The rules, all of them kept here:
//! - Interrupts are off in the core. The only exception is the `sti; hlt` below, and there nothing is worth keeping.
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
//! - RIP is checked before SYSRET and IRET: a non-canonical one would fault in ring 0. It is the domain's fault then.

use core::arch::global_asm;
use core::mem::offset_of;

use microkernel::platform::{ENTERED_BY_CALL, ENTERED_BY_TRAP, Registers, XSTATE, XSTATE_READY, reg};

use crate::descriptors::{USER_CODE, USER_DATA};
use crate::percpu::Cpu;

/// RFLAGS bits that SYSCALL clears: TF, IF, DF, IOPL, NT, AC.
pub const SYSCALL_MASK: u64 = 0x47700;

/// Distance of two stubs.
const STUB_SIZE: usize = 16;
/// First vector that is an interrupt.
pub const FIRST_INTERRUPT: u64 = 32;

/// General protection: what a non-canonical RIP is reported as.
const GENERAL_PROTECTION: u64 = 13;

unsafe extern "C" {
    static interrupt_stubs: [u8; 256 * STUB_SIZE];
    /// Where SYSCALL leads to.
    pub fn syscall_entry();
    /// Enters the scheduler for the first time on this CPU; discards the stack.
    pub fn first_entry() -> !;
    /// Saves the vector state into a context frame.
    pub fn save_vector_state(context: *mut Registers);
}

/// What the entry functions in Rust give back to the assembly, in RAX and RDX.
#[repr(C)]
pub struct Leave {
    /// The context to run; null to wait for an interrupt.
    pub context: *mut Registers,
    /// Not 0 if it is another one than entered.
    pub switched: u64,
}

/// Registers of the core itself at an exception, as the assembly pushes them.
#[repr(C)]
pub struct CoreFrame {
    /// r15 down to r8, rdi, rsi, rbp, rbx, rdx, rcx, rax.
    pub general: [u64; 15],
    /// Vector of the exception.
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Code segment; its low bits are the ring.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// Address of the stub of a vector.
pub fn stub(vector: usize) -> u64 {
    (&raw const interrupt_stubs) as u64 + (vector * STUB_SIZE) as u64
}

global_asm!(
    r#"
    // Saves or restores the vector state of the context in \ctx. Clobbers rax and rdx.
    .macro vector_state save, restore, ctx
    mov eax, -1
    mov edx, -1
    test byte ptr [rip + {vector_state}], {by_xsave}
    jz 8f
    \save\()64 [\ctx + {xstate}]
    jmp 9f
8:  \restore\()64 [\ctx + {xstate}]
9:
    .endm

    .macro reload_call_saved ctx
    mov rbx, [\ctx + 8 * 1]
    mov rbp, [\ctx + 8 * 6]
    mov r12, [\ctx + 8 * 12]
    mov r13, [\ctx + 8 * 13]
    mov r14, [\ctx + 8 * 14]
    mov r15, [\ctx + 8 * 15]
    .endm

    .text
    .global syscall_entry, first_entry, save_vector_state
    .balign 64
syscall_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{context}]
    mov [rsp + 8 * 1], rbx
    mov [rsp + 8 * 6], rbp
    mov rbx, gs:[{scratch}]
    mov [rsp + 8 * {rsp}], rbx
    mov [rsp + 8 * 12], r12
    mov [rsp + 8 * 13], r13
    mov [rsp + 8 * 14], r14
    mov [rsp + 8 * 15], r15
    mov [rsp + {rip}], rcx
    mov [rsp + {rflags}], r11
    mov qword ptr [rsp + {entered}], {by_call}
    mov rsp, gs:[{stack}]
    // rdi, rsi, rdx are arguments already; then the fourth and fifth, and the number last.
    mov rcx, r10
    mov r9, rax
    call {on_hypercall}

leave_core:
    test rax, rax
    jz idle
    cmp qword ptr [rax + {entered}], {by_call}
    jne leave_by_trap
    test edx, edx
    jnz leave_switched
leave_by_call:
    mov rcx, [rax + {rip}]
    mov rdx, rcx
    shr rdx, 47
    jnz bad_rip
    test byte ptr [rip + {vector_state}], {has_avx}
    jz zero_xmm
    vzeroall
leave_clean:
    reload_call_saved rax
    mov r11, [rax + {rflags}]
    mov rsp, [rax + 8 * {rsp}]
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    mov rax, [rax]
    swapgs
    sysretq

leave_switched:
    mov rdi, rax
    call restore_vector_state
    mov rax, rdi
    jmp leave_by_call

zero_xmm:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor xmm\n, xmm\n
    .endr
    jmp leave_clean

leave_by_trap:
    mov rdi, rax
    call restore_vector_state
    mov rcx, [rdi + {rip}]
    mov rdx, rcx
    shr rdx, 47
    jnz bad_rip
    push {user_data}
    push qword ptr [rdi + 8 * {rsp}]
    push qword ptr [rdi + {rflags}]
    push {user_code}
    push rcx
    reload_call_saved rdi
    mov rax, [rdi]
    mov rcx, [rdi + 8 * 2]
    mov rdx, [rdi + 8 * 3]
    mov rsi, [rdi + 8 * 4]
    mov r8, [rdi + 8 * 8]
    mov r9, [rdi + 8 * 9]
    mov r10, [rdi + 8 * 10]
    mov r11, [rdi + 8 * 11]
    mov rdi, [rdi + 8 * 5]
    swapgs
    iretq

bad_rip:
    mov rsp, gs:[{stack}]
    mov edi, {general_protection}
    xor esi, esi
    call {on_trap}
    jmp leave_core

first_entry:
    mov rsp, gs:[{stack}]
    xor ebp, ebp
    call {on_start}
    jmp leave_core

    // The interrupt that ends the halt does not come back; an NMI does.
idle:
    mov rsp, gs:[{stack}]
2:  sti
    hlt
    jmp 2b

save_vector_state:
    vector_state xsaveopt, fxsave, rdi
    ret

    // A context that never ran gets the initial x87 control word and MXCSR; zeros are right for all else.
restore_vector_state:
    cmp qword ptr [rdi + {ready}], 0
    jne 2f
    mov word ptr [rdi + {xstate}], 0x37f
    mov dword ptr [rdi + {xstate} + 24], 0x1f80
    mov qword ptr [rdi + {ready}], 1
2:  vector_state xrstor, fxrstor, rdi
    ret

    // Interrupts and exceptions. Each stub leaves the vector and an error code on the stack.
    .balign 64
interrupt_stubs:
    .global interrupt_stubs
    .set vector, 0
    .rept 256
    .balign {stub_size}
    .if vector == 2
    jmp nmi
    .else
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push 0
    .endif
    .byte 0x68
    .long vector
    jmp interrupted
    .endif
    .set vector, vector + 1
    .endr
    .balign {stub_size}

nmi:
    cmp byte ptr [rip + {stopped}], 0
    jne 2f
    iretq
2:  cli
    hlt
    jmp 2b

interrupted:
    test byte ptr [rsp + 24], 3
    jz interrupted_core
    swapgs
    push rax
    mov rax, gs:[{context}]
    mov [rax + 8 * 1], rbx
    mov [rax + 8 * 2], rcx
    mov [rax + 8 * 3], rdx
    mov [rax + 8 * 4], rsi
    mov [rax + 8 * 5], rdi
    mov [rax + 8 * 6], rbp
    mov [rax + 8 * 8], r8
    mov [rax + 8 * 9], r9
    mov [rax + 8 * 10], r10
    mov [rax + 8 * 11], r11
    mov [rax + 8 * 12], r12
    mov [rax + 8 * 13], r13
    mov [rax + 8 * 14], r14
    mov [rax + 8 * 15], r15
    pop qword ptr [rax]
    pop rdi
    pop rsi
    pop qword ptr [rax + {rip}]
    pop rbx
    pop qword ptr [rax + {rflags}]
    pop qword ptr [rax + 8 * {rsp}]
    mov qword ptr [rax + {entered}], {by_trap}
    mov rsp, gs:[{stack}]
    // Clears what a domain may have set and an interrupt does not clear: DF and AC.
    push 2
    popfq
    xor ebp, ebp
    mov rbx, rax
    vector_state xsaveopt, fxsave, rbx
    call {on_trap}
    jmp leave_core

interrupted_core:
    cmp dword ptr [rsp], {first_interrupt}
    jb core_fault
    // It ended the halt: nothing on the stack is needed any more.
    mov edi, [rsp]
    mov rsp, gs:[{stack}]
    xor ebp, ebp
    call {on_trap}
    jmp leave_core

core_fault:
    .irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    push \r
    .endr
    cld
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    js 2f
    swapgs
2:  mov rdi, rsp
    and rsp, -16
    call {on_core_fault}
"#,
    vector_state = sym crate::features::VECTOR_STATE,
    by_xsave = const crate::features::BY_XSAVE,
    has_avx = const crate::features::HAS_AVX,
    xstate = const XSTATE,
    ready = const XSTATE_READY,
    rsp = const reg::RSP,
    rip = const offset_of!(Registers, rip),
    rflags = const offset_of!(Registers, rflags),
    entered = const offset_of!(Registers, entered),
    by_call = const ENTERED_BY_CALL,
    by_trap = const ENTERED_BY_TRAP,
    stack = const offset_of!(Cpu, stack),
    context = const offset_of!(Cpu, context),
    scratch = const offset_of!(Cpu, scratch),
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    stub_size = const STUB_SIZE,
    first_interrupt = const FIRST_INTERRUPT,
    general_protection = const GENERAL_PROTECTION,
    stopped = sym crate::panic::STOPPED,
    on_start = sym crate::dispatch::on_start,
    on_hypercall = sym crate::dispatch::on_hypercall,
    on_trap = sym crate::dispatch::on_trap,
    on_core_fault = sym crate::panic::on_core_fault,
);
