//! A guest that keeps all its vCPUs busy for ever and answers nobody: what the scheduler has to be fair about.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

use unikernel::{Domain, println, vcpu};

unikernel::main!(run);

async fn run(domain: Domain) {
    println!("hello from {}: spinning on {} vCPU(s)", domain.name(), domain.info.spec.vcpus);
    for index in 1..domain.info.spec.vcpus {
        if let Err(error) = vcpu::spawn(index, || spin()) {
            println!("vCPU {index} does not start: {error}");
        }
    }
    spin()
}

#[expect(clippy::empty_loop, reason = "a pause instruction would be a kindness, which this guest must not show")]
fn spin() -> ! {
    loop {}
}
