//! GRUB for both kinds of firmware, put together from its modules.
//!
//! What `grub-install` does to a disk is a patch of two numbers, done here: so an image is made without a loop device and without
//! being root.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::disk::SECTOR;
use crate::process;
use crate::system::{GRUB_BIOS, GRUB_EFI, GRUB_MKIMAGE, Tool};

/// Programs and files that [`Bios::make`] and [`efi`] need.
pub const TOOLS: [Tool; 3] = [GRUB_MKIMAGE, GRUB_BIOS, GRUB_EFI];
/// Where GRUB looks for its configuration.
const PREFIX: &str = "/boot/grub";
/// What the menu uses.
const MODULES: [&str; 13] = [
    "normal",
    "part_gpt",
    "fat",
    "multiboot2",
    "serial",
    "terminal",
    "smbios",
    "regexp",
    "test",
    "echo",
    "ls",
    "reboot",
    "halt",
];

/// In `boot.img`: the sector that the second stage begins at (GRUB's `boot.h`, `GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const KERNEL_SECTOR: usize = 0x5c;
/// In `boot.img`: a jump over the repair of what some BIOSes say about the drive they boot (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
const DRIVE_CHECK: usize = 0x66;
/// In the first sector of `core.img`: where the rest of it is, and how many sectors (`struct grub_pc_bios_boot_blocklist`).
const BLOCK_LIST: usize = 512 - 12;
/// Two instructions that do nothing.
const NOPS: [u8; 2] = [0x90, 0x90];

/// GRUB for a BIOS.
pub struct Bios {
    /// First stage: the code in the first sector of the disk.
    pub boot: Vec<u8>,
    /// Second stage.
    pub core: Vec<u8>,
}

impl Bios {
    /// Makes it: `offset` is the byte of the disk that the second stage begins at, `partition` the number of the one with
    /// the configuration.
    pub fn make(folder: &Path, offset: u64, partition: usize) -> Result<Bios> {
        let core = mkimage(folder, "i386-pc", &format!("(,gpt{partition}){PREFIX}"), &["biosdisk"])?;
        let boot = fs::read(GRUB_BIOS.program).with_context(|| format!("cannot read {}", GRUB_BIOS.program))?;
        Bios { boot, core }.placed(offset / SECTOR)
    }

    /// Patched for a second stage that begins at `sector`.
    fn placed(mut self, sector: u64) -> Result<Bios> {
        self.core.resize(self.core.len().next_multiple_of(SECTOR as usize), 0);
        let rest = (self.core.len() / SECTOR as usize).saturating_sub(1);
        let list = self.core.get_mut(BLOCK_LIST..BLOCK_LIST + 10).context("GRUB's second stage is empty")?;
        if usize::from(u16::from_le_bytes([list[8], list[9]])) != rest {
            bail!("GRUB's second stage does not say that it has {rest} more sectors; this is a GRUB of another layout");
        }
        list[..8].copy_from_slice(&(sector + 1).to_le_bytes());
        if self.boot.len() != SECTOR as usize {
            bail!("{} is not one sector long", GRUB_BIOS.program);
        }
        self.boot[KERNEL_SECTOR..][..8].copy_from_slice(&sector.to_le_bytes());
        self.boot[DRIVE_CHECK..][..2].copy_from_slice(&NOPS);
        Ok(self)
    }
}

/// GRUB for UEFI: it finds its configuration on the partition it was loaded from.
pub fn efi(folder: &Path) -> Result<Vec<u8>> {
    mkimage(folder, "x86_64-efi", PREFIX, &[])
}

fn mkimage(folder: &Path, format: &str, prefix: &str, modules: &[&str]) -> Result<Vec<u8>> {
    let output = folder.join(format);
    let mut command = Command::new(process::find(GRUB_MKIMAGE.program).context("grub-mkimage not found")?);
    command.args(["--format", format, "--prefix", prefix, "--output"]).arg(&output).args(MODULES).args(modules);
    process::run(&mut command)?;
    fs::read(&output).with_context(|| format!("cannot read {}", output.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bios(sectors: u16) -> Bios {
        let mut core = vec![1; 3 * 512 - 100];
        core[BLOCK_LIST + 8..][..2].copy_from_slice(&sectors.to_le_bytes());
        Bios { boot: vec![2; 512], core }
    }

    #[test]
    fn each_stage_says_where_the_next_one_is() {
        let placed = bios(2).placed(2048).unwrap();
        assert_eq!(placed.boot[KERNEL_SECTOR..][..8], 2048_u64.to_le_bytes());
        assert_eq!(placed.core[BLOCK_LIST..][..8], 2049_u64.to_le_bytes());
        assert_eq!(placed.core.len(), 3 * 512);
    }

    #[test]
    fn another_layout_is_refused() {
        assert!(bios(3).placed(2048).is_err());
        assert!(Bios { boot: vec![0; 510], ..bios(2) }.placed(2048).is_err());
        assert!(Bios { core: Vec::new(), ..bios(2) }.placed(2048).is_err());
    }
}
