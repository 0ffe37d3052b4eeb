//! A simulated machine for tests of the safe core, and a core booted on it.

mod events;
mod grants;
mod hostile;
mod lifecycle;
pub mod sim;
mod smp;
mod storm;
pub mod walker;
pub mod world;
