//! Files of the distribution: its packages, fetched by its own tools and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::process;

/// Kernel packages of Debian: their names change with each point release, and these follow them.
pub const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";

/// The one for every machine.
pub const GENERIC_KERNEL: &str = "linux-image-amd64";

/// The package that a package which only follows others depends on.
pub fn behind(meta: &str) -> Result<String> {
    let known = || {
        let output = process::capture(Command::new("apt-cache").args(["depends", "--important", meta])).ok()?;
        output.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned)
    };
    if let Some(package) = known() {
        return Ok(package);
    }
    update()?;
    known().ok_or_else(|| anyhow!("apt knows no {meta}: is this Debian?"))
}

/// Makes apt's lists, which a fresh machine does not have, and which name files that are gone when they are old.
fn update() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("apt's lists are missing or old: run `sudo apt-get update`");
    }
    process::run(Command::new("apt-get").args(["update", "-q"]).stdout(std::io::stderr()))
}

/// Fetches packages and unpacks them into `folder`, unless that was done before.
pub fn unpack(packages: &[&str], folder: &Path) -> Result<PathBuf> {
    let (root, done) = (folder.join("root"), folder.join(packages.join("+")));
    if done.exists() {
        return Ok(root);
    }
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    process::step(format_args!("fetching {}", packages.join(", ")));
    let download = || {
        let mut command = Command::new("apt-get");
        process::run(command.args(["download", "-q"]).args(packages).current_dir(folder).stdout(std::io::stderr()))
    };
    download().or_else(|_| update().and_then(|()| download()))?;
    for file in fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
            fs::remove_file(&file)?;
        }
    }
    fs::write(done, "")?;
    Ok(root)
}

/// The one file in `folder` whose name starts with `prefix`.
pub fn named(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let fits = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    found.find(fits).ok_or_else(|| anyhow!("{} holds no {prefix}*", folder.display()))
}
