//! The verb `check`: everything that can be said about the tree without booting it.
//!
//! All checks run even if an early one fails, so that one run names everything there is to do.

mod disassembly;
mod hypercalls;
mod links;
mod source;
mod toolchain;

use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::{process, sizes, workspace};

/// Check format, lints, sizes, documentation and the machine code of the core
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Repair what can be repaired: format, generated documentation
    #[arg(long)]
    fix: bool,
}

/// A check gives a line for each thing that is wrong; an error means that it could not run.
type Check = fn(&Arguments) -> Result<Vec<String>>;

const CHECKS: [(&str, Check); 10] = [
    ("format", toolchain::format),
    ("source rules", |_| source::problems()),
    ("lints, hosted", |_| toolchain::lints_hosted()),
    ("lints, freestanding", |_| toolchain::lints_freestanding()),
    ("lints, fuzz targets", |_| toolchain::lints_fuzzers()),
    ("machine code of the core", |_| disassembly::problems()),
    ("size of the core", |_| size()),
    ("documentation builds", |_| toolchain::documentation()),
    ("docs/hypercalls.md is up to date", |arguments| hypercalls::problems(arguments.fix)),
    ("links in the documents", |_| links::problems()),
];

/// Runs every check. The status is 1 if one of them fails.
pub fn run(arguments: &Arguments) -> Result<u8> {
    toolchain::require_components()?;
    let mut summary = Vec::new();
    for (name, check) in CHECKS {
        process::step(format_args!("checking: {name}"));
        let begin = Instant::now();
        let problems = check(arguments).unwrap_or_else(|error| vec![format!("{error:#}")]);
        problems.iter().for_each(|problem| println!("{problem}"));
        summary.push((name, problems.len(), begin.elapsed()));
    }
    println!();
    for (name, problems, time) in &summary {
        let verdict = if *problems == 0 { "ok" } else { "FAILED" };
        println!("{verdict:>7}  {name} ({:.1} s)", time.as_secs_f32());
    }
    let failed = summary.iter().filter(|(_, problems, _)| *problems != 0).count();
    println!("\nchecks: {} passed, {failed} failed", summary.len() - failed);
    Ok(u8::from(failed != 0))
}

fn size() -> Result<Vec<String>> {
    let sizes = sizes::measure()?;
    sizes.parts().iter().for_each(|(name, part)| println!("{name}: {part}"));
    Ok(sizes.problems())
}

/// Runs a command; its failure is the one problem it found.
fn command(command: &mut std::process::Command) -> Result<Vec<String>> {
    Ok(process::run(command).err().map(|error| error.to_string()).into_iter().collect())
}

/// Every folder at the top of the workspace that holds our own files.
fn folders() -> Result<Vec<std::path::PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(workspace::root())? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| anyhow!("the name {name:?} is no text"))?;
        if entry.file_type()?.is_dir() && !name.starts_with('.') && name != "target" {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}
