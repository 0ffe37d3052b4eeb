//! The safe core: every decision the privileged code takes, without the machine.
//!
//! The binary next to it (`machine/`) is the unsafe shell: it boots, saves and restores registers, and calls in here with the
//! one lock held. What the safe core needs from the machine it asks of the traits in [`platform`]; tests put a simulated machine behind them.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, loom))]
extern crate std;

pub mod boot;
pub mod clock;
pub mod flush;
pub mod log;
pub mod platform;
pub mod sched;
pub mod state;
