//! The verb `image`: everything on one medium that boots from a USB stick, on machines with a BIOS and with UEFI.
//!
//! Partitions: GRUB's second stage for a BIOS; the EFI system partition with GRUB for UEFI, the menu, the core and the boot
//! bundle, which both GRUBs read; and the data partitions that the machine's disk has too.

mod grub;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::disk::content::{self, Page};
use crate::disk::gpt::{Kind, Partition};
use crate::disk::{self, MIB, fat, gpt};
use crate::system::Tool;
use crate::{build, process, workspace};

/// Programs and files of the system that making an image needs.
pub const TOOLS: [Tool; 3] = grub::TOOLS;

/// Space for GRUB's second stage.
const STAGE_SIZE: u64 = MIB;
/// Space for the core and the bundle.
const BOOT_SIZE: u64 = 64 * MIB;
/// Number of the partition that they are on.
const BOOT_PARTITION: usize = 2;
/// Cluster of its file system. GRUB reads cluster by cluster.
const BOOT_CLUSTER: u32 = 8192;

/// Make one image that boots from a USB stick, on BIOS and UEFI
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Where to write it [default: target/bulkhead.img]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// Makes the image and says where it is.
pub fn run(arguments: &Arguments) -> Result<u8> {
    build::prepare(&TOOLS, arguments.yes)?;
    let path = arguments.output.clone().unwrap_or_else(workspace::image);
    make(&path, &workspace::bundle())?;
    let size = fs::metadata(&path)?.len() / MIB;
    let shown = workspace::short(&path);
    let option = arguments.output.as_ref().map(|_| format!(" --image {shown}")).unwrap_or_default();
    println!("{shown} ({size} MiB): `cargo xtask flash{option} /dev/sdX` writes it to a USB stick");
    Ok(0)
}

/// Makes the image at `path` from the built core and a bundle, unless it is there and up to date.
pub fn make(path: &Path, bundle: &Path) -> Result<()> {
    if path.exists() && !path.is_file() {
        bail!("{} is not a file; `cargo xtask flash` writes to devices", path.display());
    }
    let folder = workspace::target().join("grub").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let loaders = grub::Bios::make(&folder, MIB, BOOT_PARTITION).and_then(|bios| Ok((bios, grub::efi(&folder)?)));
    let _ = fs::remove_dir_all(&folder);
    let (bios, efi) = loaders?;
    let menu = workspace::root().join("images").join("grub.cfg");
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let files = [
        Page::new("EFI/BOOT/BOOTX64.EFI", efi),
        Page::new("boot/grub/grub.cfg", read(&menu)?),
        Page::new("boot/bulkhead", read(&workspace::core_elf())?),
        Page::new("boot/bundle.tar", read(bundle)?),
    ];
    let sources = content::sources()?;
    let stages = [("boot.img", &bios.boot[..]), ("core.img", &bios.core[..])];
    let inputs = files.iter().chain(&sources).map(|page| (page.name.as_str(), &page.bytes[..])).chain(stages);
    let print = disk::fingerprint(&partitions(Vec::new(), Vec::new(), None)?, inputs);
    if gpt::fingerprint(path).is_some_and(|found| found == print) {
        return Ok(());
    }
    process::step(format_args!("making {}", workspace::short(path)));
    let boot = fat::file_system(BOOT_SIZE, BOOT_CLUSTER, "BULKBOOT", &files)?;
    let partitions = partitions(bios.core, boot, Some(&content::complete(sources)))?;
    disk::write(path, &gpt::disk(print, &partitions, Some(&bios.boot))?)
}

fn partitions(stage: Vec<u8>, boot: Vec<u8>, pages: Option<&[Page]>) -> Result<Vec<Partition>> {
    let mut partitions = vec![
        Partition { name: "grub", kind: Kind::BiosBoot, size: STAGE_SIZE, contents: stage },
        Partition { name: "boot", kind: Kind::EfiSystem, size: BOOT_SIZE, contents: boot },
    ];
    partitions.extend(disk::data_partitions(pages)?);
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_loader_is_where_the_first_stage_looks_for_it() {
        let partitions = partitions(Vec::new(), Vec::new(), None).unwrap();
        assert_eq!(gpt::offsets(&partitions)[0], MIB);
        assert_eq!(partitions[BOOT_PARTITION - 1].kind, Kind::EfiSystem);
        let names: Vec<_> = partitions.iter().map(|partition| partition.name).collect();
        assert_eq!(names, ["grub", "boot", disk::WEB, disk::SCRATCH, disk::SCRATCH2]);
    }
}
