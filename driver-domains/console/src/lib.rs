//! The console domain: one terminal, shared by dom0's shell and all guests.
//!
//! The driver is [`uart`]; who is on the screen, and what happens to the output of all others, is decided by
//! [`multiplexer`], which knows neither the machine nor the driver and is tested on the host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod backlog;
pub mod connection;
pub mod multiplexer;
pub mod screen;
pub mod uart;
