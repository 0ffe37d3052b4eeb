//! Everything around the machine: building it, running it in an emulator, testing, checking and measuring it.
//!
//! A library as well as a program, so that the system tests and the benchmarks boot the machine with the same code as
//! `cargo xtask run`, and talk to the same console as the operator.
#![forbid(unsafe_code)]

pub mod bench;
pub mod build;
pub mod bundle;
pub mod check;
pub mod disk;
pub mod emulator;
pub mod flash;
pub mod fuzz;
pub mod guest;
pub mod image;
pub mod process;
pub mod run;
pub mod sizes;
pub mod soak;
pub mod system;
pub mod test;
pub mod workspace;
