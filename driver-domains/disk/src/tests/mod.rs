//! The whole disk domain on the host: frontends, honest and not, on one side, a disk on the other, and death in between.

mod crash;
mod frontend;
mod hostile;
mod lifecycle;
mod linux;
mod world;
