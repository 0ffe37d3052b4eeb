//! Checks that the tools of the Rust distribution make: format, lints, documentation.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::{Arguments, command};
use crate::{build, process, workspace};

/// The fuzz targets are a workspace of their own.
const FUZZ_MANIFEST: &str = "fuzz/Cargo.toml";

/// Makes sure that rustfmt and clippy are there; a minimal installation lacks them.
pub fn require_components() -> Result<()> {
    if components_present() {
        return Ok(());
    }
    let add = ["component", "add", "rustfmt", "clippy"];
    if process::find("rustup").is_some() {
        process::step("installing rustfmt and clippy");
        let added = process::run(workspace::command("rustup").args(add));
        if added.is_ok() && components_present() {
            return Ok(());
        }
    }
    bail!("rustfmt or clippy not found. Install them with:\n\n    rustup {}\n", add.join(" "));
}

fn components_present() -> bool {
    ["fmt", "clippy"].iter().all(|tool| {
        let mut cargo = process::cargo();
        cargo.args([tool, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        cargo.status().is_ok_and(|status| status.success())
    })
}

/// rustfmt agrees with every file; `--fix` makes it so.
pub fn format(arguments: &Arguments) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for manifest in ["Cargo.toml", FUZZ_MANIFEST] {
        let mut cargo = process::cargo();
        cargo.args(["fmt", "--all", "--manifest-path", manifest]);
        if !arguments.fix {
            cargo.arg("--check");
        }
        problems.extend(command(&mut cargo)?);
    }
    Ok(problems)
}

/// Clippy on everything as the host builds it.
pub fn lints_hosted() -> Result<Vec<String>> {
    let mut cargo = process::cargo();
    cargo.args(["clippy", "--quiet", "--workspace", "--all-targets", "--keep-going"]);
    command(deny_warnings(&mut cargo))
}

/// Clippy on the fuzz targets, without the fuzzer itself, which needs a C++ compiler.
pub fn lints_fuzzers() -> Result<Vec<String>> {
    let mut cargo = process::cargo();
    cargo.args(["clippy", "--quiet", "--manifest-path", FUZZ_MANIFEST, "--no-default-features", "--all-targets"]);
    command(deny_warnings(&mut cargo))
}

/// Clippy on what only the machine builds.
pub fn lints_freestanding() -> Result<Vec<String>> {
    let packages = workspace::packages()?;
    let mut problems = command(deny_warnings(build::core_cargo("clippy").arg("--quiet")))?;
    problems.extend(command(deny_warnings(build::domain_cargo("clippy", &packages, &[]).arg("--quiet")))?);
    let tests = workspace::test_image_packages(&packages);
    if !tests.is_empty() {
        problems.extend(command(deny_warnings(build::domain_cargo("clippy", &packages, &tests).arg("--quiet")))?);
    }
    Ok(problems)
}

fn deny_warnings(cargo: &mut Command) -> &mut Command {
    cargo.args(["--", "--deny", "warnings"])
}

/// The documentation builds without a broken link or another warning.
pub fn documentation() -> Result<Vec<String>> {
    let mut cargo = process::cargo();
    cargo.args(["doc", "--quiet", "--workspace", "--no-deps", "--keep-going"]).env("RUSTDOCFLAGS", "--deny warnings");
    command(&mut cargo)
}
