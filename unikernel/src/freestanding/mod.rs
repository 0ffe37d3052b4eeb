//! What an image for the machine must have exactly once.

pub mod entry;
mod panic;
