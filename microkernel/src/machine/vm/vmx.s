    // The context in rbx, the block at r12; both lie on the stack while the guest runs.
    .global vmx_exit
leave_by_vmx:
    call {prepare_vmx}
    mov r12, rax
    mov ebp, edx
    push rbx
    push r12
    load_guest_state
    mov rax, [r12 + {cr2}]; mov cr2, rax
    mov rax, [r12 + {dr6}]; mov dr6, rax
    mov eax, {host_rsp}
    vmwrite rax, rsp
    mov rax, [r12 + {rax}]
    test ebp, ebp
    load_guest_registers
    jz 2f
    vmresume
    jmp 3f
2:  vmlaunch
    // Who comes here did not get into the guest.
3:  mov byte ptr gs:[{vmx_failed}], 1
vmx_exit:
    save_guest_registers
    pop r12
    mov [r12 + {rax}], rax
    mov rax, cr2; mov [r12 + {cr2}], rax
    mov rax, dr6; mov [r12 + {dr6}], rax
    save_guest_state
    mov rsp, gs:[{stack}]
    xor ebp, ebp
    mov rdi, rbx
    call {on_vmx_exit}
    jmp guest_exited
