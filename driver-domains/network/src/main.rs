#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]
unikernel::main!(run);
async fn run(_: unikernel::Domain) {}
