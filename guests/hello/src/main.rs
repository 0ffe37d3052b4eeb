//! The smallest native guest: says who it is, then waits for the control plane to end it.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

use unikernel::{Domain, control, memory, println};

unikernel::main!(run);

async fn run(domain: Domain) {
    let used = memory::info().map_or(0, |info| info.used_pages);
    println!(
        "hello from {}: {} of {} KiB used, {} vCPU(s), incarnation {}",
        domain.name(),
        used * 4,
        domain.info.spec.memory_pages * 4,
        domain.info.spec.vcpus,
        domain.info.incarnation,
    );
    control::serve(control::refuse).await;
}
