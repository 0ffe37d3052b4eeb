//! A simulated machine for tests of the safe core, and a core booted on it.

mod grants;
mod hostile;
mod lifecycle;
pub mod sim;
pub mod walker;
pub mod world;
