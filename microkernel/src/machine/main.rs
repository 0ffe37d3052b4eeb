//! The unsafe shell.
fn main() {}
