//! GRUB as a guest's kernel: the distribution's modules for Xen's PVH machine, which read the guest's own kernel from its own disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::packages::{self, Architecture};
use crate::process;
use crate::system::GRUB_MKIMAGE;

/// The package.
const PACKAGE: &str = "grub-xen-bin";
/// The machine.
const FORMAT: &str = "i386-xen_pvh";
/// Where its configuration is: on a disk without partitions.
const PREFIX: &str = "(xen/xvda)/boot/grub";
/// Its modules: a menu and a command line, Linux, file systems and partition tables of disks, and sums of files.
const MODULES: [&str; 12] =
    ["normal", "linux", "ext2", "fat", "part_gpt", "part_msdos", "ls", "cat", "echo", "hashsum", "gcry_sha256", "halt"];

/// Makes what is not there yet.
pub fn prepare(folder: &Path) -> Result<PathBuf> {
    let root = packages::unpack(Architecture::Own, &[PACKAGE], &folder.join("packages"))?;
    let kernel = folder.join("grub.pvh");
    if !kernel.exists() {
        let mut command = Command::new(GRUB_MKIMAGE.program);
        command.arg("-d").arg(root.join("usr/lib/grub").join(FORMAT)).arg("-o").arg(&kernel);
        process::run(command.args(["-O", FORMAT, "-p", PREFIX]).args(MODULES))?;
    }
    Ok(kernel)
}
