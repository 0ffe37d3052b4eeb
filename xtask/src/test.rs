//! The verb `test`: host tests, model checks and whole boots, with one summary. Fuzzers have no end of their own, so they are
//! not run here.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::emulator::bochs;
use crate::workspace::{self, Package};
use crate::{build, image, process, system};

/// Package of the system tests.
const SYSTEM_TESTS: &str = "system-tests";
/// What the names of the model checks contain, and only theirs.
const MODEL_CHECKS: &str = "loom_";
/// Tells the system tests to run at full length.
pub const FULL_VARIABLE: &str = "BULKHEAD_FULL";
/// Tells the boot matrix to run whole.
pub const MATRIX_VARIABLE: &str = "BULKHEAD_MATRIX";
/// The test that is the boot matrix.
const MATRIX_TEST: &str = "stock_kernels_boot";
/// Tells the system tests that everything is built.
pub const BUILT_VARIABLE: &str = "BULKHEAD_BUILT";
/// System tests at once: each machine keeps about one CPU of the host busy, and the longest tests use more.
const SYSTEM_TEST_THREADS: &str = "2";

/// Run every test: on the host, in the model checker, and in an emulator
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Run only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Leave out the tests that boot a machine
    #[arg(long)]
    no_system: bool,
    /// Run the long tests (churn, storm) at full length, which takes about an hour
    #[arg(long)]
    full: bool,
    /// Run the boot matrix instead: stock Linux kernels of two kinds, in every compression, with 128 MiB to 4 GiB and 1 to 4 vCPUs
    #[arg(long, conflicts_with_all = ["filter", "no_system", "full"])]
    matrix: bool,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// What one part of the run gave.
#[derive(Debug, Default)]
struct Part {
    name: &'static str,
    passed: usize,
    failed: usize,
    time: Duration,
    note: String,
}

/// Runs everything, even after a failure, and prints a summary. The status is 1 if anything failed.
pub fn run(arguments: &Arguments) -> Result<u8> {
    if !arguments.no_system {
        // Asked first: nobody wants to be asked after minutes.
        let mut tools = vec![system::QEMU, system::OVMF, system::OVMF_VARIABLES, system::MKFS_EXT4, system::LZ4];
        if arguments.matrix {
            tools.push(system::ZSTD);
        }
        tools.extend(image::TOOLS.iter().chain(&bochs::TOOLS));
        system::require(&tools, arguments.yes)?;
    }
    if arguments.matrix {
        return Ok(summary(&[part("boot matrix", || {
            build::build_with_tests()?;
            let mut tests = system_tests(false);
            tests.env(MATRIX_VARIABLE, "1").args(["--test", "linux_matrix"]);
            // Each boot says what it found.
            cargo_test(tests, Some(MATRIX_TEST), &["--nocapture"])
        })]));
    }
    let packages = workspace::packages()?;
    let filter = arguments.filter.as_deref();
    let mut parts = vec![part("host tests", || cargo_test(host_tests(), filter, &[]))];
    // Other tests do not run where loom has replaced the atomics.
    let model_filter = filter.unwrap_or(MODEL_CHECKS);
    if model_filter.contains(MODEL_CHECKS) {
        parts.push(part("model checks", || cargo_test(model_checks(&packages)?, Some(model_filter), &[])));
    }
    if !arguments.no_system {
        parts.push(part("system tests", || {
            build::build_with_tests()?;
            cargo_test(system_tests(arguments.full), filter, &[])
        }));
    }
    Ok(summary(&parts))
}

fn part(name: &'static str, run: impl FnOnce() -> Result<Part>) -> Part {
    process::step(name);
    let begin = Instant::now();
    let done = run().unwrap_or_else(|error| Part { failed: 1, note: format!("{error:#}"), ..Part::default() });
    Part { name, time: begin.elapsed(), ..done }
}

fn summary(parts: &[Part]) -> u8 {
    println!();
    for part in parts {
        let seconds = part.time.as_secs_f32();
        println!("{:>14}: {} passed, {} failed ({seconds:.0} s) {}", part.name, part.passed, part.failed, part.note);
    }
    let passed: usize = parts.iter().map(|part| part.passed).sum();
    let failed: usize = parts.iter().map(|part| part.failed).sum();
    println!("\nfuzzers are not run here: `cargo xtask fuzz --seconds 60` runs each for a minute");
    println!("{passed} passed, {failed} failed");
    u8::from(failed != 0 || passed == 0)
}

fn host_tests() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--exclude", SYSTEM_TESTS, "--no-fail-fast"]);
    cargo
}

/// loom replaces the atomics of the code under test, so these are builds of their own.
fn model_checks(packages: &[Package]) -> Result<Command> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--release", "--lib", "--no-fail-fast", "--target-dir", "target/loom"]);
    for package in packages {
        let manifest = std::fs::read_to_string(&package.manifest_path).context("a manifest")?;
        if manifest.contains("cfg(loom)") {
            cargo.args(["--package", &package.name]);
        }
    }
    // Panics must unwind: the checker reports the interleaving that failed.
    cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_PROFILE_RELEASE_PANIC", "unwind");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    Ok(cargo)
}

fn system_tests(full: bool) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--package", SYSTEM_TESTS, "--no-fail-fast"]);
    cargo.env("RUST_TEST_THREADS", SYSTEM_TEST_THREADS).env(BUILT_VARIABLE, "1");
    if full {
        cargo.env(FULL_VARIABLE, "1");
    }
    cargo
}

/// Runs cargo's test runner, shows what it prints, and adds up its results.
fn cargo_test(mut cargo: Command, filter: Option<&str>, runner: &[&str]) -> Result<Part> {
    cargo.args(filter).arg("--").args(runner);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut part = Part::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed)) = results(&line) {
            part.passed += passed;
            part.failed += failed;
        }
    }
    if !child.wait()?.success() && part.failed == 0 {
        part.failed = 1;
        part.note = "did not build or did not finish".into();
    }
    Ok(part)
}

/// Numbers of a line such as `test result: ok. 5 passed; 0 failed; ...`.
fn results(line: &str) -> Option<(usize, usize)> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut numbers = numbers.split("; ").filter_map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_runner() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(results(line), Some((12, 3)));
        assert_eq!(results("running 3 tests"), None);
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert_eq!(summary(&[]), 1);
        assert_eq!(summary(&[Part { passed: 1, ..Part::default() }]), 0);
        assert_eq!(summary(&[Part { passed: 1, failed: 1, ..Part::default() }]), 1);
    }
}
