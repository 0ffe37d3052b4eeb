//! The verb `build`: the core, the domains, the bundle that holds them, and the machine's disk.

use std::process::Command;

use anyhow::{Context, Result};

use crate::system::{self, Tool};
use crate::workspace::{self, Package};
use crate::{bundle, disk, process};

/// Cargo configuration with the flags of the core.
const CORE_CONFIG: &str = "microkernel/link.toml";
/// Cargo configuration with the flags of the domains.
const DOMAIN_CONFIG: &str = "unikernel/link.toml";

/// Makes sure that `tools` are there, then builds everything that boots.
pub fn prepare(tools: &[Tool], yes: bool) -> Result<Vec<Package>> {
    system::require(tools, yes)?;
    build()
}

/// Builds everything that boots. Gives the packages of the workspace, which callers often need next.
pub fn build() -> Result<Vec<Package>> {
    let packages = workspace::packages()?;
    build_core()?;
    build_domains(&packages, &[])?;
    process::step("making target/bundle.tar");
    let entries = bundle::standard(&packages, workspace::FIRST_DOMAIN)?;
    bundle::write(&workspace::bundle(), &entries)?;
    disk::make_standard()?;
    Ok(packages)
}

/// Builds everything that boots, and the images of the system tests.
pub fn build_with_tests() -> Result<Vec<Package>> {
    let packages = build()?;
    let tests = workspace::test_image_packages(&packages);
    if !tests.is_empty() {
        build_domains(&packages, &tests)?;
    }
    Ok(packages)
}

fn build_core() -> Result<()> {
    process::step("building the core");
    process::run(&mut core_cargo("build")).context("the core does not build")
}

fn build_domains(packages: &[Package], tests: &[&Package]) -> Result<()> {
    process::step(if tests.is_empty() { "building the domains" } else { "building the test images" });
    process::run(&mut domain_cargo("build", packages, tests)).context("the domains do not build")
}

/// Cargo for the core, with the machine's flags.
pub fn core_cargo(verb: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args([verb, "--release", "--package", workspace::CORE_PACKAGE, "--bin", workspace::CORE_BIN]);
    freestanding(&mut cargo, CORE_CONFIG, "target/core");
    cargo
}

/// Cargo for the domains, with the machine's flags: the bundled ones, or `tests` if there are any.
pub fn domain_cargo(verb: &str, packages: &[Package], tests: &[&Package]) -> Command {
    let bundled = workspace::image_packages(packages);
    let chosen = if tests.is_empty() { &bundled } else { tests };
    let first = tests.is_empty().then_some(workspace::FIRST_DOMAIN);
    let names = first.into_iter().chain(chosen.iter().map(|package| package.name.as_str()));
    domain_cargo_for(verb, names, "target/domains")
}

/// Cargo for these packages, with the flags of domains, building into `folder`.
pub fn domain_cargo_for<'n>(verb: &str, names: impl IntoIterator<Item = &'n str>, folder: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args([verb, "--release", "--bins"]);
    for name in names {
        cargo.args(["--package", name]);
    }
    freestanding(&mut cargo, DOMAIN_CONFIG, folder);
    cargo
}

fn freestanding(cargo: &mut Command, config: &str, target_dir: &str) {
    cargo.args(["--config", config, "--target", workspace::TARGET, "--target-dir", target_dir]);
}
