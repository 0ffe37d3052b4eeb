#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]
//! x
use unikernel::{Domain, println};
unikernel::main!(run);
async fn run(_d: Domain) {
    println!("echo");
}
