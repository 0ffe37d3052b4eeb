//! Where things lie in the workspace, and which packages become images of the machine.
//!
//! Images are found from the layout: a new driver domain or guest is bundled by being put in its folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// Target triple of everything that runs on the machine; passed explicitly, so that host programs (build scripts, macros)
/// do not get the machine's compiler flags.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Package of the core.
pub const CORE_PACKAGE: &str = "microkernel";
/// Its binary.
pub const CORE_BIN: &str = "bulkhead";
/// Package of the first domain, which is also the name of its entry in the bundle.
pub const FIRST_DOMAIN: &str = "dom0";
/// Folders whose packages are bundled as `images/<name>`.
const IMAGE_FOLDERS: [&str; 3] = ["driver-domains", "guests", "monitor"];
/// Folder of the images that only the system tests boot.
const TEST_IMAGES: &str = "tests/images";

/// The top of the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where build products that are not cargo's own go.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The built core.
pub fn core_elf() -> PathBuf {
    target().join("core").join(TARGET).join("release").join(CORE_BIN)
}

/// The built binary of a domain.
pub fn domain_elf(bin: &str) -> PathBuf {
    target().join("domains").join(TARGET).join("release").join(bin)
}

/// The boot bundle.
pub fn bundle() -> PathBuf {
    target().join("bundle.tar")
}

/// The machine's disk.
pub fn disk() -> PathBuf {
    target().join("disk.img")
}

/// The image for a USB stick.
pub fn image() -> PathBuf {
    target().join("bulkhead.img")
}

/// A path as it is shown: relative to the top of the workspace where it lies below it.
pub fn short(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
}

/// A package of the workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

impl Package {
    /// Its folder, relative to the top of the workspace.
    pub fn folder(&self) -> PathBuf {
        let folder = self.manifest_path.parent().unwrap_or(Path::new(""));
        folder.strip_prefix(root()).unwrap_or(folder).to_path_buf()
    }

    /// Names of its programs.
    pub fn bins(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin")).map(|target| &*target.name)
    }
}

/// All packages of the workspace.
pub fn packages() -> Result<Vec<Package>> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_str(&process::capture(&mut cargo)?).context("cargo metadata")?;
    Ok(metadata.packages)
}

/// The packages whose programs are bundled as `images/<name>`.
pub fn image_packages(packages: &[Package]) -> Vec<&Package> {
    let in_image_folder = |package: &&Package| IMAGE_FOLDERS.iter().any(|folder| package.folder().starts_with(folder));
    packages.iter().filter(in_image_folder).collect()
}

/// The packages with the images that only the system tests boot.
pub fn test_image_packages(packages: &[Package]) -> Vec<&Package> {
    packages.iter().filter(|package| package.folder().starts_with(TEST_IMAGES)).collect()
}

/// All files below `folder` with one of these extensions, sorted.
pub fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let wanted = |extension: &std::ffi::OsStr| extensions.iter().any(|wanted| extension == *wanted);
    let mut found = all_files(folder)?;
    found.retain(|path| path.extension().is_some_and(wanted));
    Ok(found)
}

/// All files below `folder`, sorted.
pub fn all_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let listing = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in listing {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A command whose working directory is the top of the workspace.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_from_the_layout() {
        let packages = packages().unwrap();
        let names: Vec<_> = image_packages(&packages).iter().map(|package| package.name.as_str()).collect();
        assert!(names.contains(&"console") && names.contains(&"hello"), "{names:?}");
        assert!(!names.contains(&FIRST_DOMAIN) && !names.contains(&CORE_PACKAGE), "{names:?}");
    }
}
