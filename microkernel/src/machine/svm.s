// The run of a guest; its rules are in entry.rs. svm.rs fills in what stands in braces.

    .text
    .global leave_by_guest
    // The context in rbx, the control block by its two addresses in rdi and r12. What is needed before the core's GS is back
    // lies on the stack.
leave_by_guest:
    mov rbx, rax
    mov rdi, rax
    call {prepare_guest}
    push rbx
    push rdx
    mov rsi, rax
    movabs r12, {window}
    add r12, rax
    mov eax, -1; mov edx, -1
    xrstor64 [rbx + {xstate}]
    xor ecx, ecx; xor edx, edx
    mov eax, [r12 + {xcr0}]
    cmp eax, [rip + {core_xcr0}]
    je 2f
    xsetbv
2:  .irp n, 0, 1, 2, 3
    mov rax, [rbx + {debug} + 8 * \n]
    mov dr\n, rax
    .endr
    clgi
    sti
    mov rax, rsi
    vmload rax
    mov rcx, [rbx + 8 * 2]; mov rdx, [rbx + 8 * 3]; mov rsi, [rbx + 8 * 4]; mov rdi, [rbx + 8 * 5]
    mov r8, [rbx + 8 * 8]; mov r9, [rbx + 8 * 9]; mov r10, [rbx + 8 * 10]; mov r11, [rbx + 8 * 11]
    mov r12, [rbx + 8 * 12]; mov r13, [rbx + 8 * 13]; mov r14, [rbx + 8 * 14]; mov r15, [rbx + 8 * 15]
    mov rbp, [rbx + 8 * 6]; mov rbx, [rbx + 8 * 1]
    vmrun rax
    cli
    vmsave rax
    push rbx
    mov rbx, [rsp + 16]
    mov [rbx + 8 * 2], rcx; mov [rbx + 8 * 3], rdx; mov [rbx + 8 * 4], rsi; mov [rbx + 8 * 5], rdi
    mov [rbx + 8 * 6], rbp; mov [rbx + 8 * 8], r8; mov [rbx + 8 * 9], r9; mov [rbx + 8 * 10], r10
    mov [rbx + 8 * 11], r11; mov [rbx + 8 * 12], r12; mov [rbx + 8 * 13], r13; mov [rbx + 8 * 14], r14
    mov [rbx + 8 * 15], r15
    pop qword ptr [rbx + 8 * 1]
    movabs r12, {window}
    add r12, rax
    pop rax
    vmload rax
    xor ecx, ecx
    xgetbv
    mov [r12 + {xcr0}], eax
    cmp eax, [rip + {core_xcr0}]
    je 2f
    xor edx, edx
    mov eax, [rip + {core_xcr0}]
    xsetbv
    // Not XSAVEOPT: the guest may have made the processor think of an area of its own as this one.
2:  mov eax, -1; mov edx, -1
    xsave64 [rbx + {xstate}]
    .irp n, 0, 1, 2, 3
    mov rax, dr\n
    mov [rbx + {debug} + 8 * \n], rax
    .endr
    mov eax, 0x400
    mov dr7, rax
    mov qword ptr [r12 + {inject}], 0
    stgi
    mov rsp, gs:[{stack}]
    xor ebp, ebp
    // An interrupt, or, one higher, an NMI.
    mov eax, [r12 + {exit_code}]
    sub eax, {exit_interrupt}
    cmp eax, 1
    jbe 2f
    call {on_guest_exit}
    jmp leave_core
2:  sti; nop; cli
    mov edi, {spurious}; xor esi, esi
    jmp enter_by_trap
