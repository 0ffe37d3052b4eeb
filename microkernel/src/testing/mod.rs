//! A simulated machine for tests of the safe core, and a core booted on it.

mod bus;
mod events;
mod grants;
mod hostile;
mod lifecycle;
mod pci;
pub mod sim;
mod smp;
mod storm;
mod vm;
pub mod walker;
pub mod world;
