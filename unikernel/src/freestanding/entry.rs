//! The first instruction of every vCPU.

use core::arch::naked_asm;

use crate::start::{Domain, Main};

unsafe extern "Rust" {
    /// What [`crate::main`] makes in the image's own crate.
    safe fn bulkhead_domain_main(domain: Domain) -> Main;
}

/// Entry of all vCPUs, with the registers as [`protocol::start::StartInfo`] says. The index goes where [`crate::cpu::vcpu`]
/// finds it, above the stack.
///
/// # Safety
/// Only the core enters it.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "mov fs:[0], rdi",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        start = sym start,
    )
}

extern "C" fn start(vcpu: u32) -> ! {
    if vcpu != 0 {
        crate::vcpu::run(vcpu);
    }
    let info = crate::start::info();
    let domain = Domain { info, arguments: crate::start::arguments() };
    crate::log::start(domain.word("loglevel"));
    if let Some(port) = domain.arguments.console {
        crate::console::connect(port);
    }
    crate::executor::run(bulkhead_domain_main(domain))
}
