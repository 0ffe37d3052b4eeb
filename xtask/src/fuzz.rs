//! The verb `fuzz`: random input for every decoder, guided by coverage.
//!
//! Runs on stable Rust, without sanitizers: what is fuzzed holds no `unsafe`, so a panic is what there is to find.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{process, system, workspace};

/// The program that builds and runs the targets.
const CARGO_FUZZ: &str = "cargo-fuzz";
/// What installs it.
const INSTALL: [&str; 3] = ["install", "--locked", CARGO_FUZZ];

/// Fuzz the decoders
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The targets; all of them if none is named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only say which targets there are
    #[arg(long)]
    list: bool,
    /// Install missing programs without asking
    #[arg(long)]
    yes: bool,
}

/// Runs the targets asked for. The status is 1 if one of them found something.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let all = targets()?;
    if arguments.list {
        println!("{}", all.join("\n"));
        return Ok(0);
    }
    if let Some(unknown) = arguments.targets.iter().find(|target| !all.contains(target)) {
        bail!("no fuzz target is called {unknown}; there are: {}", all.join(", "));
    }
    require(arguments.yes)?;
    process::step("building the fuzzers");
    process::run(&mut cargo_fuzz(&["build", "--sanitizer", "none"]))?;
    let chosen = if arguments.targets.is_empty() { all } else { arguments.targets.clone() };
    let mut failed = Vec::new();
    for target in &chosen {
        process::step(format_args!("fuzzing {target} for {} s", arguments.seconds));
        let limit = format!("-max_total_time={}", arguments.seconds);
        let options = [limit.as_str(), "-verbosity=0", "-print_funcs=0", "-print_final_stats=1"];
        let mut fuzzer = cargo_fuzz(&["run", "--sanitizer", "none", target, "--"]);
        if process::run(fuzzer.args(options)).is_err() {
            failed.push(target.as_str());
        }
    }
    println!("\nfuzzers: {} passed, {} failed {}", chosen.len() - failed.len(), failed.len(), failed.join(" "));
    Ok(u8::from(!failed.is_empty()))
}

/// Makes sure that cargo-fuzz and what it needs are there.
fn require(yes: bool) -> Result<()> {
    system::require(&[system::CXX], yes)?;
    let mut version = cargo_fuzz(&["--version"]);
    if version.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    system::permit(CARGO_FUZZ, &format!("cargo {}", INSTALL.join(" ")), yes)?;
    process::run(process::cargo().args(INSTALL))
}

/// Names of the targets.
fn targets() -> Result<Vec<String>> {
    let files = workspace::files(&workspace::root().join("fuzz/fuzz_targets"), &["rs"])?;
    Ok(files.iter().filter_map(|file| Some(file.file_stem()?.to_str()?.to_string())).collect())
}

fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.arg("fuzz").args(arguments);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared() {
        let manifest = std::fs::read_to_string(workspace::root().join("fuzz/Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
