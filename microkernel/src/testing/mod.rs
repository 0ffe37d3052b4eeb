//! A simulated machine for tests of the safe core, and a core booted on it.

pub mod sim;
mod smoke;
pub mod walker;
pub mod world;
