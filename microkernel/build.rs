//! Hands the linker script to the freestanding build of the core; the hosted build links like any program.

fn main() {
    println!("cargo:rerun-if-changed=core.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_FREESTANDING").is_some() {
        let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest directory");
        println!("cargo:rustc-link-arg-bins=-T{here}/core.ld");
    }
}
