    // The context in rbx, the control block by its two addresses in rdi and r12. What is needed before the core's GS is back
    // lies on the stack.
leave_by_svm:
    call {prepare_svm}
    push rbx
    push rdx
    mov rsi, rax
    movabs r12, {window}
    add r12, rax
    load_guest_state
    clgi
    sti
    mov rax, rsi
    vmload rax
    load_guest_registers
    vmrun rax
    cli
    vmsave rax
    save_guest_registers
    movabs r12, {window}
    add r12, rax
    pop rax
    vmload rax
    save_guest_state
    mov eax, 0x400
    mov dr7, rax
    mov qword ptr [r12 + {inject}], 0
    stgi
    mov rsp, gs:[{stack}]
    xor ebp, ebp
    // An interrupt, or, one higher, an NMI.
    mov rcx, [r12 + {exit_code}]
    sub ecx, {exit_interrupt}
    xor eax, eax
    cmp ecx, 1
    setbe al
    jmp guest_exited
