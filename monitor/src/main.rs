//! The program around the library.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

unikernel::main!(monitor::run);
