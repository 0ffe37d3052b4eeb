//! The safe core: every decision the privileged code takes, without the machine.
//!
//! The binary next to it (`machine/`) is the unsafe shell: it boots, saves and restores registers, and calls in here with the
//! one lock held. What the safe core needs from the machine it asks of the traits in [`platform`]; tests put a simulated machine behind them.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, loom))]
extern crate std;

pub mod boot;
mod calls;
pub mod clock;
mod create;
pub mod death;
mod domain;
mod entry;
pub mod events;
pub mod flush;
mod frames;
mod grants;
mod handles;
pub mod log;
mod mappings;
pub mod pci;
pub mod platform;
mod ports;
mod prelude;
mod sched;
pub mod space;
pub mod state;
mod table;
mod teardown;
#[cfg(test)]
mod testing;
mod user;
mod vcpu;
pub mod vm;

/// One check, before anything is changed.
#[inline(always)]
pub fn refuse_if<E>(wrong: bool, error: E) -> Result<(), E> {
    if wrong { Err(error) } else { Ok(()) }
}
