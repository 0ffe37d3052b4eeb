// The first instructions; what they are for is in entry.rs, which also fills in what stands in braces.

    // The multiboot2 header (specification, section 3.1), with one tag: modules must start on page boundaries.
    .section .boot.header, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2_header
    .long 0x100000000 - 0xe85250d6 - (multiboot2_end - multiboot2_header)
    .word 6, 0, 8, 0
    .word 0, 0, 8, 0
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
1:  cli; cld
    mov esi, ebx
enter_long_mode:
    // CR4: PAE, OSFXSR, OSXMMEXCPT.
    mov eax, cr4; or eax, 0x620; mov cr4, eax
    mov eax, offset early_root; mov cr3, eax
    // EFER.LME
    mov ecx, 0xc0000080
    rdmsr; or eax, 0x100; wrmsr
    // CR0: without EM, TS, NW and CD; with PE, MP, NE, WP and PG.
    mov eax, cr0; and eax, 0x9ffffff3; or eax, 0x80010023; mov cr0, eax
    lgdt [early_gdt_pointer]
    // Far jumps are spelled out in bytes: the assembler knows no symbol there in this syntax. This one is to 0x08:2f.
    .byte 0xea
    .long 2f
    .word 0x08
    .code64
2:  movabs rax, offset enter_core
    jmp rax

    .text
enter_core:
    xor ebp, ebp
    cmp edi, {secondary}
    je 3f
    mov rsp, offset {stack} + {stack_size}; and rsp, -16
    call {start_primary}
    // Another CPU goes on in the core's own tables, because its stack is only there; they need EFER.NXE, which the first CPU
    // has found to exist. Then it claims the area that waits for it.
3:  mov ecx, 0xc0000080
    rdmsr; or eax, 0x800; wrmsr
    mov rax, [rip + {core_root}]; mov cr3, rax
    xor edi, edi
    xchg [rip + {offer}], rdi
    test rdi, rdi
    jz 4f
    mov rsp, [rdi + {area_stack}]
    call {start_secondary}
    // Too late: nobody waits for this CPU any more.
4:  cli; hlt
    jmp 4b

    // Copied to a page below 1 MiB; another CPU starts it in real mode, with CS its segment and IP 0.
    .section .rodata.trampoline, "a"
    .global trampoline_start, trampoline_end
    .code16
trampoline_start:
    cli
    mov ax, cs; mov ds, ax
    // lgdtd [5f - trampoline_start]
    .byte 0x66, 0x0f, 0x01, 0x16
    .word 5f - trampoline_start
    mov eax, cr0; or al, 1; mov cr0, eax
    // 32-bit far jump to 0x18:6f.
    .byte 0x66, 0xea
    .long 6f
    .word 0x18
5:  .word 31
    .long early_gdt
trampoline_end:

    .section .boot.text, "ax"
    .code32
6:  mov eax, 0x10; mov ds, eax
    mov edi, {secondary}
    jmp enter_long_mode
    .code64

    // Flat segments: 64-bit code, data, 32-bit code.
    .balign 8
early_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff, 0x00cf9a000000ffff
early_gdt_pointer:
    .word 31
    .long early_gdt

    // Page tables: entries are present and writable (3), those of the directories pages of 2 MiB (0x83).
    .section .boot.tables, "a"
    .balign 4096
early_root:
    .quad early_low + 3
    .fill 255, 8, 0
    .quad early_low + 3
    .fill 254, 8, 0
    .quad early_core + 3
early_low:
    .quad early_directories + 0x0003, early_directories + 0x1003, early_directories + 0x2003, early_directories + 0x3003
    .fill 508, 8, 0
early_core:
    .fill 510, 8, 0
    .quad early_directories + 3, 0
early_directories:
    .set page, 0
    .rept 2048
    .quad page << 21 | 0x83
    .set page, page + 1
    .endr
    .text
