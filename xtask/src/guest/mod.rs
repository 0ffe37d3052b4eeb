//! Linux guests for users and tests: kernels and root disks of the distribution, made with its own tools.

mod busybox;
mod cpio;
mod debian;
mod grub;
mod packages;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::packages::Architecture;
use crate::bundle::Entry;
use crate::emulator::{Access, Disk};
use crate::system::{self, Tool};
use crate::{process, workspace};

/// The guests that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Debian's cloud kernel, with busybox in a RAM disk
    Busybox,
    /// Debian: the stock kernel and RAM disk, and a root disk by debootstrap
    Debian,
}

/// Prepare a Linux guest: fetch its kernel, make its root disk
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Which
    kind: Kind,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its kernel, as the distribution ships it.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub ramdisk: PathBuf,
    /// Its root disk, if it has one.
    pub disk: Option<PathBuf>,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Busybox => "busybox",
            Kind::Debian => "debian",
        }
    }

    /// Programs that making it needs.
    pub fn tools(self) -> &'static [Tool] {
        match self {
            Kind::Busybox => &[],
            Kind::Debian => &[system::DEBOOTSTRAP, system::MKFS_EXT4],
        }
    }

    /// Makes what is not there yet. Whoever comes at the same time waits: tests do.
    pub fn prepare(self) -> Result<Files> {
        let folder = folder(self.name());
        let _lock = lock(&folder)?;
        match self {
            Kind::Busybox => busybox::prepare(&folder, Architecture::Own, packages::CLOUD_KERNEL),
            Kind::Debian => debian::prepare(),
        }
    }

    /// Puts the guest's files into a bundle. Its root disk is to be the machine's disk with the number `disks`; gives it.
    pub fn bundle(self, entries: &mut Vec<Entry>, disks: usize) -> Result<Option<Disk>> {
        let files = self.prepare()?;
        let name = self.name();
        entries.push(Entry::file(format!("boot/{name}/vmlinuz"), &files.kernel)?);
        entries.push(Entry::file(format!("boot/{name}/initrd"), &files.ramdisk)?);
        let config = workspace::root().join("images/guests").join(format!("{name}.toml"));
        let text = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let disk = format!("phy:virtio{disks}");
        entries.push(Entry::new(format!("auto/{name}.toml"), text.replace("phy:ROOT", &disk)));
        Ok(files.disk.map(|file| Disk { file, access: Access::Keep }))
    }
}

/// The small guest with the distribution's kernel for every machine, instead of the one for virtual machines.
pub fn generic() -> Result<Files> {
    let folder = folder("busybox-generic");
    let _lock = lock(&folder)?;
    busybox::prepare(&folder, Architecture::Own, packages::GENERIC_KERNEL)
}

/// The small guest of 32-bit programs with the kernel of the same architecture.
pub fn i386() -> Result<Files> {
    let folder = folder("busybox-i386");
    let _lock = lock(&folder)?;
    busybox::prepare(&folder, Architecture::I386, packages::I386_KERNEL)
}

/// GRUB as a kernel with a PVH entry point, which boots what the guest's first disk says.
pub fn grub() -> Result<PathBuf> {
    let folder = folder("grub");
    let _lock = lock(&folder)?;
    grub::prepare(&folder)
}

/// Lets one at a time make what is in a folder, until the lock is dropped.
fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.with_extension("lock");
    let lock = File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", file.display()))?;
    Ok(lock)
}

/// Where the files of a guest are.
fn folder(name: &str) -> PathBuf {
    workspace::target().join("guests").join(name)
}

/// Prepares a guest, and says where it is.
pub fn run(arguments: &Arguments) -> Result<u8> {
    system::require(arguments.kind.tools(), arguments.yes)?;
    let files = arguments.kind.prepare()?;
    for file in [Some(&files.kernel), Some(&files.ramdisk), files.disk.as_ref()].into_iter().flatten() {
        process::step(workspace::short(file));
    }
    process::step(format_args!("`cargo xtask run --guest {}` boots it", arguments.kind.name()));
    Ok(0)
}
