//! Symbols that the compiler and prebuilt `core` expect of every program for this target.
//!
//! In assembly, because a compiler may turn a Rust body into a call of the very function it implements. Eight bytes at a time
//! where it matters; `copy_bytes` is `memcpy` under a name that the compiler does not know, for memory that others change.

use core::arch::global_asm;

global_asm!(
    r#"
    .text
    .global memcpy, memmove, memset, memcmp, bcmp, copy_bytes
memmove:
    mov rax, rdi; sub rax, rsi; cmp rax, rdx
    jae memcpy
    mov rax, rdi
    lea rdi, [rdi + rdx - 1]; lea rsi, [rsi + rdx - 1]; mov rcx, rdx
    std; rep movsb; cld
    ret
memcpy:
copy_bytes:
    mov rax, rdi
    mov rcx, rdx; shr rcx, 3; rep movsq
    mov ecx, edx; and ecx, 7; rep movsb
    ret
memset:
    mov r8, rdi
    movzx eax, sil; mov rcx, 0x0101010101010101; imul rax, rcx
    mov rcx, rdx; shr rcx, 3; rep stosq
    mov ecx, edx; and ecx, 7; rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xchg rdi, rsi; xor eax, eax
    mov rcx, rdx; test rcx, rcx; repe cmpsb
    seta al; sbb eax, 0
    ret
"#
);

unsafe extern "C" {
    /// Copies between ranges that do not overlap.
    ///
    /// # Safety
    /// Both ranges are mapped, the destination writable.
    pub fn copy_bytes(to: *mut u8, from: *const u8, length: usize);
}

/// Named by prebuilt `core`; never called, because a panic aborts.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
