//! The verb `fuzz`: random input for every decoder, guided by coverage.
//!
//! Runs on stable Rust, without sanitizers: what is fuzzed holds no `unsafe`, so a panic is what there is to find.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Fuzz the decoders
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The targets; all of them if none is named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the targets asked for. The status is 1 if one of them found something.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let all = targets()?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !all.contains(target)) {
        bail!("no fuzz target is called {unknown}; there are: {}", all.join(", "));
    }
    if let Some(why) = unavailable()? {
        bail!("{why}");
    }
    let chosen = if arguments.targets.is_empty() { all } else { arguments.targets.clone() };
    let failed = run_some(&chosen, Duration::from_secs(arguments.seconds))?;
    println!("\nfuzzers: {} passed, {} failed {}", chosen.len() - failed.len(), failed.len(), failed.join(" "));
    Ok(u8::from(!failed.is_empty()))
}

/// Why the fuzzers cannot run here, if so.
pub fn unavailable() -> Result<Option<String>> {
    if targets()?.is_empty() {
        return Ok(Some("there are no fuzz targets".into()));
    }
    if process::find("cargo-fuzz").is_none()
        && !cargo_fuzz(&["--version"]).status().is_ok_and(|status| status.success())
    {
        return Ok(Some("cargo-fuzz not found; install it with `cargo install cargo-fuzz`".into()));
    }
    if process::find("c++").is_none() && process::find("g++").is_none() {
        return Ok(Some("no C++ compiler found; install it with `apt-get install g++`".into()));
    }
    Ok(None)
}

/// Names of the targets.
pub fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let files = workspace::files(&folder, &["rs"])?;
    Ok(files.iter().filter_map(|file| Some(file.file_stem()?.to_str()?.to_string())).collect())
}

/// Runs every target for `time`; gives the names of those that found something.
pub fn run_each(time: Duration) -> Result<Vec<String>> {
    run_some(&targets()?, time)
}

fn run_some(targets: &[String], time: Duration) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for target in targets {
        process::step(format_args!("fuzzing {target} for {} s", time.as_secs()));
        let limit = format!("-max_total_time={}", time.as_secs());
        let mut cargo = cargo_fuzz(&["run", "--sanitizer", "none", target, "--", &limit, "-verbosity=0"]);
        if !cargo.status().context("cannot run cargo-fuzz")?.success() {
            failed.push(target.clone());
        }
    }
    Ok(failed)
}

fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.arg("fuzz").args(arguments);
    if arguments == ["--version"] {
        cargo.stdout(Stdio::null()).stderr(Stdio::null());
    }
    cargo
}
