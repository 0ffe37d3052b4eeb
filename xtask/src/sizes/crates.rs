//! The third-party crates that are linked into the core, with their sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::count;
use crate::{process, workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Lines by `name version`. Crates that run only in the compiler (procedural macros) are not linked and not listed.
pub fn third_party() -> Result<BTreeMap<String, usize>> {
    let linked = linked()?;
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--filter-platform", workspace::TARGET]);
    let metadata: Metadata = serde_json::from_str(&process::capture(&mut cargo)?).context("cargo metadata")?;
    let mut sizes = BTreeMap::new();
    for package in metadata.packages {
        let key = format!("{} {}", package.name, package.version);
        let macros = package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"));
        if package.source.is_some() && !macros && linked.contains(&key) {
            let folder = package.manifest_path.with_file_name("src");
            sizes.insert(key, lines(folder)?);
        }
    }
    Ok(sizes)
}

/// The core's dependencies as cargo resolves them, without those of build scripts and tests.
fn linked() -> Result<BTreeSet<String>> {
    let mut cargo = process::cargo();
    cargo.args(["tree", "--package", workspace::CORE_PACKAGE, "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    cargo.args(["--format", "{p}", "--target", workspace::TARGET]);
    let tree = process::capture(&mut cargo)?;
    let name = |line: &str| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    Ok(tree.lines().filter_map(name).collect())
}

fn lines(folder: PathBuf) -> Result<usize> {
    let mut sum = 0;
    for file in workspace::files(&folder, &["rs"])? {
        let source = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // Some crates carry templates that are no Rust by themselves.
        sum += count::rust(&source, &[]).map_or(0, |count| count.lines);
    }
    Ok(sum)
}
