//! The domain around one Linux guest.
//!
//! A stock distribution kernel runs in the domain's virtual machine, started by the PVH entry with the guest ABI of Xen. All
//! that the guest asks of the machine below comes here: the monitor loads the kernel, answers CPUID, MSRs, I/O ports and
//! hypercalls, and keeps its event channels, its store and its console. It holds nothing but this guest, so whatever the
//! guest makes of it is the guest's own loss.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use unikernel::{Domain, control};

/// Runs the guest until it ends.
pub async fn run(domain: Domain) {
    if domain.arguments.guest.is_none() {
        log::error!("no kernel: the configuration of a Linux guest says kernel = \"...\"");
    }
    control::serve(control::refuse).await;
}
