//! The network domain: a learning bridge between guests and the wire.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bridge;
