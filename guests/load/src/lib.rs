//! What the load generators have in common.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod content;
pub mod histogram;
pub mod random;
pub mod report;
pub mod words;
