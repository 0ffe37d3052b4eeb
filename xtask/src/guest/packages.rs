//! Files of the distribution: its packages, fetched by its own tools and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::{process, workspace};

/// Kernel packages of Debian: their names change with each point release, and these follow them.
pub const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";

/// The one for every machine.
pub const GENERIC_KERNEL: &str = "linux-image-amd64";

/// The one for 32-bit machines, of [`Architecture::I386`].
pub const I386_KERNEL: &str = "linux-image-686-pae";

/// What packages are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// The host's.
    Own,
    /// 32-bit PCs: apt gets lists of its own for them, and the host's are left alone.
    I386,
}

impl Architecture {
    /// One of apt's programs, for packages of this architecture.
    fn apt(self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        if self == Architecture::I386 {
            let folder = workspace::target().join("guests/apt-i386");
            let (lists, cache) = (folder.join("lists"), folder.join("cache"));
            for needed in [lists.join("partial"), cache.join("archives/partial")] {
                fs::create_dir_all(&needed).with_context(|| format!("cannot make {}", needed.display()))?;
            }
            command.args(["-o", "APT::Architecture=i386", "-o", "APT::Architectures=i386"]);
            command.args(["-o", &format!("Dir::State::Lists={}", lists.display())]);
            command.args(["-o", &format!("Dir::Cache={}", cache.display())]);
        }
        Ok(command)
    }

    /// The package that a package which only follows others depends on.
    pub fn behind(self, meta: &str) -> Result<String> {
        let known = || {
            let output = process::capture(self.apt("apt-cache").ok()?.args(["depends", "--important", meta])).ok()?;
            output.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned)
        };
        if let Some(package) = known() {
            return Ok(package);
        }
        // Of several lists, those that can be had may do.
        let updated = self.update();
        known().ok_or_else(|| updated.err().unwrap_or_else(|| anyhow!("apt knows no {meta}: is this Debian?")))
    }

    /// Makes apt's lists, which a fresh machine does not have, and which name files that are gone when they are old.
    fn update(self) -> Result<()> {
        if self == Architecture::Own && !rustix::process::geteuid().is_root() {
            bail!("apt's lists are missing or old: run `sudo apt-get update`");
        }
        process::run(self.apt("apt-get")?.args(["update", "-q"]).stdout(std::io::stderr()))
    }
}

/// Fetches packages and unpacks them into `folder`, unless that was done before.
pub fn unpack(architecture: Architecture, packages: &[&str], folder: &Path) -> Result<PathBuf> {
    let (root, done) = (folder.join("root"), folder.join(packages.join("+")));
    if done.exists() {
        return Ok(root);
    }
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    process::step(format_args!("fetching {}", packages.join(", ")));
    let download = || {
        let mut command = architecture.apt("apt-get")?;
        process::run(command.args(["download", "-q"]).args(packages).current_dir(folder).stdout(std::io::stderr()))
    };
    download().or_else(|_| architecture.update().and_then(|()| download()))?;
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
