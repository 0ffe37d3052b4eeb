// The run of a guest; its rules are in entry.rs. guest.rs fills in what stands in braces.

    // Vector state, XCR0 and debug registers of the guest whose context is in rbx, and whose block is at r12. Clobbers rax, rcx
    // and rdx.
    .macro load_guest_state
    mov eax, -1; mov edx, -1
    xrstor64 [rbx + {xstate}]
    xor ecx, ecx; xor edx, edx
    mov eax, [r12 + {xcr0}]
    cmp eax, [rip + {core_xcr0}]
    je 2f
    xsetbv
2:  mov rax, [rbx + {debug}]; mov dr0, rax; mov rax, [rbx + {debug} + 8]; mov dr1, rax
    mov rax, [rbx + {debug} + 16]; mov dr2, rax; mov rax, [rbx + {debug} + 24]; mov dr3, rax
    .endm

    .macro save_guest_state
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
    mov rax, dr0; mov [rbx + {debug}], rax; mov rax, dr1; mov [rbx + {debug} + 8], rax
    mov rax, dr2; mov [rbx + {debug} + 16], rax; mov rax, dr3; mov [rbx + {debug} + 24], rax
    .endm

    // General registers but rax and rsp, from the context in rbx. Leaves the flags alone.
    .macro load_guest_registers
    mov rcx, [rbx + 8 * 2]; mov rdx, [rbx + 8 * 3]; mov rsi, [rbx + 8 * 4]; mov rdi, [rbx + 8 * 5]
    mov r8, [rbx + 8 * 8]; mov r9, [rbx + 8 * 9]; mov r10, [rbx + 8 * 10]; mov r11, [rbx + 8 * 11]
    mov r12, [rbx + 8 * 12]; mov r13, [rbx + 8 * 13]; mov r14, [rbx + 8 * 14]; mov r15, [rbx + 8 * 15]
    mov rbp, [rbx + 8 * 6]; mov rbx, [rbx + 8 * 1]
    .endm

    // The same into the context that is the second word on the stack, which is in rbx then.
    .macro save_guest_registers
    push rbx
    mov rbx, [rsp + 16]
    mov [rbx + 8 * 2], rcx; mov [rbx + 8 * 3], rdx; mov [rbx + 8 * 4], rsi; mov [rbx + 8 * 5], rdi
    mov [rbx + 8 * 6], rbp; mov [rbx + 8 * 8], r8; mov [rbx + 8 * 9], r9; mov [rbx + 8 * 10], r10
    mov [rbx + 8 * 11], r11; mov [rbx + 8 * 12], r12; mov [rbx + 8 * 13], r13; mov [rbx + 8 * 14], r14
    mov [rbx + 8 * 15], r15
    pop qword ptr [rbx + 8 * 1]
    .endm

    .text
    .global leave_by_guest
leave_by_guest:
    mov rbx, rax
    mov rdi, rax
    cmp qword ptr gs:[{vmx_region}], 0
    jne leave_by_vmx
    jmp leave_by_svm

    // The guest exited: for an interrupt if eax is not 0.
guest_exited:
    test eax, eax
    jnz 2f
    call {on_guest_exit}
    jmp leave_core
2:  sti; nop; cli
    mov edi, {spurious}; xor esi, esi
    jmp enter_by_trap
