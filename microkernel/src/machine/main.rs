//! The core as a program: on the machine the unsafe shell with the safe core in it; on the host only a hint, so that the
//! workspace builds and is checked without special flags.
#![cfg_attr(freestanding, no_std, no_main)]

#[cfg(freestanding)]
#[path = "mod.rs"]
mod machine;

#[cfg(not(freestanding))]
fn main() {
    eprintln!("bulkhead runs on a machine of its own: `cargo xtask run`");
}
