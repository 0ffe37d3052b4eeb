// The ways in and out; their rules are in entry.rs, which also fills in what stands in braces.

    // Vector state of the context in rdi. Clobbers rax and rdx.
    .macro restore_vector_state
    mov eax, -1; mov edx, -1
    xrstor64 [rdi + {xstate}]
    .endm

    .macro save_call_saved ctx
    mov [\ctx + 8 * 1], rbx; mov [\ctx + 8 * 6], rbp
    mov [\ctx + 8 * 12], r12; mov [\ctx + 8 * 13], r13; mov [\ctx + 8 * 14], r14; mov [\ctx + 8 * 15], r15
    .endm

    .macro load_call_saved ctx
    mov rbx, [\ctx + 8 * 1]; mov rbp, [\ctx + 8 * 6]
    mov r12, [\ctx + 8 * 12]; mov r13, [\ctx + 8 * 13]; mov r14, [\ctx + 8 * 14]; mov r15, [\ctx + 8 * 15]
    .endm

    // Puts RIP of the context in \ctx into rcx, 0 into rdx.
    .macro load_rip ctx
    mov rcx, [\ctx + {rip}]
    mov rdx, rcx
    shr rdx, 47
    jnz bad_rip
    .endm

    .text
    .global syscall_entry, first_entry, interrupt_stubs, leave_core, enter_by_trap
    .balign 64
syscall_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{context}]
    save_call_saved rsp
    mov rbx, gs:[{scratch}]
    mov [rsp + 8 * {rsp}], rbx
    mov [rsp + {rip}], rcx
    mov [rsp + {rflags}], r11
    mov qword ptr [rsp + {entered}], {by_call}
    mov rsp, gs:[{stack}]
    // rdi, rsi, rdx are arguments already; then the fourth and fifth, and the number last.
    mov rcx, r10; mov r9, rax
    call {on_hypercall}

leave_core:
    test rax, rax
    jz idle
    cmp qword ptr [rax + {entered}], {by_call}
    jne leave_by_trap
    test edx, edx
    jz leave_by_call
    mov rdi, rax
    restore_vector_state
    mov rax, rdi
leave_by_call:
    load_rip rax
    cmp byte ptr [rip + {has_avx}], 0
    jz zero_xmm
    vzeroall
leave_clean:
    load_call_saved rax
    mov r11, [rax + {rflags}]
    mov rsp, [rax + 8 * {rsp}]
    xor esi, esi; xor edi, edi; xor r8d, r8d; xor r9d, r9d; xor r10d, r10d
    mov rax, [rax]
    swapgs
    sysretq

zero_xmm:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor xmm\n, xmm\n
    .endr
    jmp leave_clean

leave_by_trap:
    cmp qword ptr [rax + {entered}], {by_guest}
    je leave_by_guest
    mov rdi, rax
    restore_vector_state
    load_rip rdi
    push {user_data}; push qword ptr [rdi + 8 * {rsp}]
    push qword ptr [rdi + {rflags}]
    push {user_code}; push rcx
    load_call_saved rdi
    mov rax, [rdi]; mov rcx, [rdi + 8 * 2]; mov rdx, [rdi + 8 * 3]; mov rsi, [rdi + 8 * 4]
    mov r8, [rdi + 8 * 8]; mov r9, [rdi + 8 * 9]; mov r10, [rdi + 8 * 10]; mov r11, [rdi + 8 * 11]
    mov rdi, [rdi + 8 * 5]
    swapgs
    iretq

bad_rip:
    mov edi, {general_protection}; xor esi, esi
enter_by_trap:
    mov rsp, gs:[{stack}]
    xor ebp, ebp
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
2:  sti; hlt
    jmp 2b

    // Interrupts and exceptions. Each stub leaves an error code and (push imm32, in bytes) the vector on the stack.
    .balign 64
interrupt_stubs:
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
    cmp dword ptr [rip + {reporter}], 0
    jne 2f
    iretq
2:  cli; hlt
    jmp 2b

interrupted:
    test byte ptr [rsp + 24], 3
    jz interrupted_core
    swapgs
    push rax
    mov rax, gs:[{context}]
    save_call_saved rax
    mov [rax + 8 * 2], rcx; mov [rax + 8 * 3], rdx; mov [rax + 8 * 4], rsi; mov [rax + 8 * 5], rdi
    mov [rax + 8 * 8], r8; mov [rax + 8 * 9], r9; mov [rax + 8 * 10], r10; mov [rax + 8 * 11], r11
    pop qword ptr [rax]
    pop rdi; pop rsi
    pop qword ptr [rax + {rip}]; pop rbx
    pop qword ptr [rax + {rflags}]; pop qword ptr [rax + 8 * {rsp}]
    mov qword ptr [rax + {entered}], {by_trap}
    // Clears what a domain may have set and an interrupt does not clear: DF and AC.
    push 2; popfq
    mov rbx, rax
    mov eax, -1; mov edx, -1
    xsaveopt64 [rbx + {xstate}]
    jmp enter_by_trap

    // An interrupt ended the halt, and nothing on the stack is needed any more; an exception is a fault of the core.
interrupted_core:
    cmp dword ptr [rsp], {first_interrupt}
    jb core_fault
    mov edi, [rsp]
    jmp enter_by_trap
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
