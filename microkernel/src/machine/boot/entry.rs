//! The first instructions: from what a boot loader or another CPU left, to long mode in the higher half.
//!
//! Three ways in, one way on: the PVH note (QEMU `-kernel`), the multiboot2 header (GRUB), and the start-up interrupt that
//! wakes the other CPUs. Early page tables map the low 4 GiB three times: one to one, in the window at
//! [`crate::window::BASE`], and (the first GiB) where the core is linked. CR4.OSFXSR and CR0 are set here because prebuilt
//! `core` uses SSE everywhere: no Rust may run before that.

use core::arch::global_asm;

/// Handed to [`crate::start::start_primary`]: the entry was the PVH note's; the argument points to `hvm_start_info`.
pub const PROTOCOL_PVH: u32 = 0;
/// The value a multiboot2 loader leaves in EAX; the argument points to its boot information.
pub const PROTOCOL_MULTIBOOT2: u32 = 0x36d7_6289;
/// Only inside the assembly: another CPU comes up.
const SECONDARY: u32 = 1;

/// CR4: PAE, OSFXSR, OSXMMEXCPT.
const CR4_BOOT: u32 = 1 << 5 | 1 << 9 | 1 << 10;
/// CR0 bits that must be clear: EM, TS, NW, CD.
const CR0_CLEAR: u32 = !(1 << 2 | 1 << 3 | 1 << 29 | 1 << 30);
/// CR0 bits that must be set: PE, MP, NE, WP, PG.
const CR0_SET: u32 = 1 | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;

global_asm!(
    // The multiboot2 header (specification, section 3.1). One tag: modules must start on page boundaries.
    r#"
    .section .boot.header, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2_header
    .long 0x100000000 - 0xe85250d6 - (multiboot2_end - multiboot2_header)
    .word 6, 0
    .long 8
    .word 0, 0
    .long 8
multiboot2_end:

    // ELF note XEN_ELFNOTE_PHYS32_ENTRY; QEMU reads eight bytes of it.
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad boot_pvh

    .section .boot.text, "ax"
    .code32
    .global boot_pvh, boot_multiboot2
boot_pvh:
    mov edi, {pvh}
    jmp 1f
boot_multiboot2:
    mov edi, eax
1:  cli
    cld
    mov esi, ebx

    // Entries of the four page directories: 2 MiB pages, present, writable.
    mov eax, 0x83
    xor edx, edx
    mov ecx, offset early_directories - {base}
2:  mov [ecx], eax
    mov dword ptr [ecx + 4], 0
    add ecx, 8
    add eax, 0x200000
    jnc 2b
    // One table of pointers to them for the low half and the window, another for the core.
    mov eax, offset early_directories - {base} + 3
    mov [early_pointers_core - {base} + 510 * 8], eax
    mov ecx, offset early_pointers_low - {base}
3:  mov [ecx], eax
    add ecx, 8
    add eax, 0x1000
    cmp ecx, offset early_pointers_low - {base} + 4 * 8
    jne 3b
    mov dword ptr [early_root - {base}], offset early_pointers_low - {base} + 3
    mov dword ptr [early_root - {base} + 256 * 8], offset early_pointers_low - {base} + 3
    mov dword ptr [early_root - {base} + 511 * 8], offset early_pointers_core - {base} + 3
    jmp enter_long_mode

boot_secondary:
    mov edi, {secondary}
enter_long_mode:
    mov eax, cr4
    or eax, {cr4}
    mov cr4, eax
    mov eax, offset early_root - {base}
    mov cr3, eax
    // EFER.LME
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, {cr0_clear}
    or eax, {cr0_set}
    mov cr0, eax
    lgdt [early_gdt_pointer]
    // Far jumps are spelled out in bytes: the assembler knows no symbol there in this syntax. This one is to 0x08:4f.
    .byte 0xea
    .long 4f
    .word 0x08

    .code64
4:  mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    cmp edi, {secondary}
    je 5f
    movabs rsp, offset {stack}
    add rsp, {stack_size}
    xor ebp, ebp
    movabs rax, offset {start_primary}
    call rax
5:  movabs rax, offset secondary_high
    jmp rax

    // Another CPU goes on in the core's own tables, because its stack is only there; they need EFER.NXE, which the first CPU
    // has found to exist. Then it claims the area that waits for it.
    .text
secondary_high:
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    mov rax, [rip + {core_root}]
    mov cr3, rax
    xor edi, edi
    xchg [rip + {offer}], rdi
    test rdi, rdi
    jz 6f
    mov rsp, [rdi + {area_stack}]
    xor ebp, ebp
    call {start_secondary}
    // Too late: nobody waits for this CPU any more.
6:  cli
    hlt
    jmp 6b

    .section .boot.text, "ax"
    .balign 8
early_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff, 0x00cf9a000000ffff
early_gdt_pointer:
    .word early_gdt_pointer - early_gdt - 1
    .long early_gdt

    // Copied to a page below 1 MiB; another CPU starts it in real mode, with CS its segment and IP 0.
    .section .rodata.trampoline, "a"
    .global trampoline_start, trampoline_end
    .code16
trampoline_start:
    cli
    mov ax, cs
    mov ds, ax
    // lgdtd [5f - trampoline_start]
    .byte 0x66, 0x0f, 0x01, 0x16
    .word 5f - trampoline_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
    // 32-bit far jump to 0x18:7f.
    .byte 0x66, 0xea
    .long 7f
    .word 0x18
    .balign 2
5:  .word 31
    .long early_gdt
trampoline_end:
    .section .boot.text, "ax"
    .code32
7:  mov eax, 0x10
    mov ds, eax
    jmp boot_secondary
    .code64

    .section .bss.early, "aw", @nobits
    .balign 4096
early_root: .skip 4096
early_pointers_low: .skip 4096
early_pointers_core: .skip 4096
early_directories: .skip 4 * 4096
    .text
"#,
    pvh = const PROTOCOL_PVH,
    secondary = const SECONDARY,
    base = const crate::paging::CORE_BASE,
    cr4 = const CR4_BOOT,
    cr0_clear = const CR0_CLEAR,
    cr0_set = const CR0_SET,
    stack = sym crate::start::BOOT_STACK,
    stack_size = const size_of::<crate::start::BootStack>(),
    start_primary = sym crate::start::start_primary,
    core_root = sym crate::paging::CORE_ROOT,
    offer = sym crate::smp::OFFER,
    area_stack = const core::mem::offset_of!(crate::percpu::Cpu, stack),
    start_secondary = sym crate::smp::start_secondary,
);
