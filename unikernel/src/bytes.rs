//! `memcpy` and its family.
//!
//! The compiler calls them by name, and the standard library of the host target expects a C library to have them. In assembly,
//! because the compiler could turn a loop in Rust into a call of the very function; with 16-byte copies rather than `rep movsb`,
//! which costs little code and keeps instruction counts meaningful. In tests they have ordinary names.

use core::arch::naked_asm;

/// Copies `count` bytes, in either direction of overlap.
///
/// Up to 32 bytes everything is loaded before anything is stored. Beyond, the last 32 bytes (forwards) or the first
/// (backwards) are loaded first and stored last, so that the loop need not care for the remainder.
#[cfg_attr(freestanding, unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 6f",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        "2:",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 4f",
        // Forwards.
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 32]",
        "3:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "add rsi, 32",
        "add rdi, 32",
        "cmp rdi, r8",
        "jb 3b",
        "movups [r8], xmm2",
        "movups [r8 + 16], xmm3",
        "ret",
        // Backwards.
        "4:",
        "movups xmm2, [rsi]",
        "movups xmm3, [rsi + 16]",
        "5:",
        "movups xmm0, [rsi + rdx - 32]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi + rdx - 32], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "sub rdx, 32",
        "cmp rdx, 32",
        "ja 5b",
        "movups [rax], xmm2",
        "movups [rax + 16], xmm3",
        "ret",
        // Less than 16.
        "6:",
        "cmp edx, 8",
        "jb 7f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "7:",
        "cmp edx, 4",
        "jb 8f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        // 1 to 3: first, middle and last, which may be the same.
        "8:",
        "test edx, edx",
        "jz 9f",
        "mov r9, rdx",
        "shr r9, 1",
        "movzx ecx, byte ptr [rsi]",
        "movzx r10d, byte ptr [rsi + r9]",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], cl",
        "mov [rdi + r9], r10b",
        "mov [rdi + rdx - 1], r8b",
        "9:",
        "ret",
    )
}

/// Copies `count` bytes.
#[cfg_attr(freestanding, unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    naked_asm!("jmp {}", sym memmove)
}

/// Sets `count` bytes to the low byte of `value`. The last 16 are stored first, which covers the remainder.
#[cfg_attr(freestanding, unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "mov rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 3f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "lea r8, [rdi + rdx - 16]",
        "movups [r8], xmm0",
        "2:",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "cmp rdi, r8",
        "jb 2b",
        "ret",
        // Less than 16.
        "3:",
        "cmp edx, 8",
        "jb 4f",
        "mov [rdi], rsi",
        "mov [rdi + rdx - 8], rsi",
        "ret",
        "4:",
        "cmp edx, 4",
        "jb 5f",
        "mov [rdi], esi",
        "mov [rdi + rdx - 4], esi",
        "ret",
        "5:",
        "test edx, edx",
        "jz 6f",
        "mov [rdi], sil",
        "mov [rdi + rdx - 1], sil",
        "shr edx, 1",
        "mov [rdi + rdx], sil",
        "6:",
        "ret",
    )
}

/// Compares as the first bytes that differ do, as unsigned numbers.
#[cfg_attr(freestanding, unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "cmp rdx, 8",
        "jb 3f",
        "lea r8, [rdx - 8]",
        "2:",
        "mov rax, [rdi + rcx]",
        "mov r9, [rsi + rcx]",
        "cmp rax, r9",
        "jne 5f",
        "add rcx, 8",
        "cmp rcx, r8",
        "jbe 2b",
        "3:",
        "cmp rcx, rdx",
        "je 4f",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "inc rcx",
        "sub eax, r9d",
        "je 3b",
        "ret",
        "4:",
        "xor eax, eax",
        "ret",
        // The first byte that differs is the most significant one after a swap.
        "5:",
        "bswap rax",
        "bswap r9",
        "cmp rax, r9",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
    )
}

/// As [`memcmp`], for who only wants to know whether they differ.
#[cfg_attr(freestanding, unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    naked_asm!("jmp {}", sym memcmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn pattern() -> Vec<u8> {
        (0..200u32).map(|i| (i * 7 + 3) as u8).collect()
    }

    #[test]
    fn every_length_and_overlap_is_copied_like_the_library_does() {
        for count in 0..100 {
            for from in [0, 1, 30, 60] {
                for to in [0, 1, 2, 29, 31, 45, 61, 90] {
                    let (mut ours, mut theirs) = (pattern(), pattern());
                    theirs.copy_within(from..from + count, to);
                    let base = ours.as_mut_ptr();
                    // SAFETY: both ranges are inside the buffer.
                    let given = unsafe { memmove(base.add(to), base.add(from), count) };
                    assert_eq!(given, base.wrapping_add(to));
                    assert_eq!(ours, theirs, "{count} from {from} to {to}");
                }
            }
            let mut out = std::vec![0; 100];
            // SAFETY: both buffers have room for it.
            unsafe { memcpy(out.as_mut_ptr(), pattern().as_ptr(), count) };
            assert_eq!(out[..count], pattern()[..count]);
            assert!(out[count..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn every_length_is_set() {
        for count in 0..100 {
            let mut buffer = std::vec![0xaau8; 110];
            // SAFETY: inside the buffer.
            unsafe { memset(buffer.as_mut_ptr().add(5), 0x1_5b, count) };
            let set = |at: usize| if (5..5 + count).contains(&at) { 0x5b } else { 0xaa };
            assert!(buffer.iter().enumerate().all(|(at, &byte)| byte == set(at)), "{count}");
        }
    }

    #[test]
    fn the_first_difference_decides() {
        for count in 0..40 {
            let one = pattern();
            // SAFETY: inside the buffer.
            assert_eq!(unsafe { memcmp(one.as_ptr(), one.as_ptr(), count) }, 0);
            for at in 0..count {
                for change in [1u8, 0x80, 0xff] {
                    let mut other = one.clone();
                    other[at] = other[at].wrapping_add(change);
                    if at + 1 < count {
                        other[at + 1] = !other[at + 1];
                    }
                    let expected = one[..count].cmp(&other[..count]);
                    // SAFETY: inside the buffers.
                    let found = unsafe { memcmp(one.as_ptr(), other.as_ptr(), count) };
                    assert_eq!(found.cmp(&0), expected, "{count} at {at}");
                    // SAFETY: as above.
                    assert_ne!(unsafe { bcmp(one.as_ptr(), other.as_ptr(), count) }, 0);
                }
            }
        }
    }
}
