//! The small guest: a kernel of the distribution, unchanged, and a RAM disk with busybox and the frontends' modules.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Files;
use super::cpio::Archive;
use super::packages::{self, Architecture};
use crate::{bundle, workspace};

/// Modules of the kernel package that go into the RAM disk, in the order in which they are loaded: those for the guest, and those for
/// the same kernel on a machine of its own, which the word `devices=virtio` chooses.
const DEVICES: [(&str, &[&str]); 2] = [
    ("xen", &["drivers/block/xen-blkfront.ko", "drivers/net/xen-netfront.ko"]),
    (
        "virtio",
        &[
            "drivers/virtio/virtio_ring.ko",
            "drivers/virtio/virtio.ko",
            "drivers/virtio/virtio_pci_legacy_dev.ko",
            "drivers/virtio/virtio_pci_modern_dev.ko",
            "drivers/virtio/virtio_pci.ko",
            "drivers/block/virtio_blk.ko",
            "net/core/failover.ko",
            "drivers/net/net_failover.ko",
            "drivers/net/virtio_net.ko",
        ],
    ),
];

/// And those for file systems.
const FILE_SYSTEMS: [&str; 5] =
    ["lib/crc16.ko", "crypto/crc32c_generic.ko", "fs/mbcache.ko", "fs/jbd2/jbd2.ko", "fs/ext4/ext4.ko"];

/// Makes what is not there yet, with the kernel of this package.
pub fn prepare(folder: &Path, architecture: Architecture, kernel: &str) -> Result<Files> {
    let kernel_package = architecture.behind(kernel)?;
    let root = packages::unpack(architecture, &[&kernel_package, "busybox-static"], &folder.join("packages"))?;
    let (kernel, ramdisk) = (packages::named(&root.join("boot"), "vmlinuz-")?, folder.join("initrd"));
    let content = archive(&root)?;
    // Somebody may be reading it: the same bytes are not written again.
    if fs::read(&ramdisk).ok().as_ref() != Some(&content) {
        fs::write(&ramdisk, content).with_context(|| format!("cannot write {}", ramdisk.display()))?;
    }
    Ok(Files { kernel, ramdisk, disk: None })
}

fn archive(root: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "tmp", "mnt", "lib"] {
        archive.directory(name);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("bin/busybox", 0o755, &read(&root.join("bin/busybox"))?);
    archive.link("bin/sh", "busybox");
    let modules = packages::named(&root.join("lib/modules"), "")?.join("kernel");
    for (devices, drivers) in DEVICES.into_iter().chain([("any", &FILE_SYSTEMS[..])]) {
        let mut order = String::new();
        for module in drivers {
            let path = modules.join(module);
            // What a kernel has built in it has no module for.
            if path.exists() {
                let name = bundle::file_name(&path);
                archive.file(&format!("lib/{name}"), 0o644, &read(&path)?);
                order.push_str(&format!("{name}\n"));
            }
        }
        archive.file(&format!("lib/order.{devices}"), 0o644, order.as_bytes());
    }
    archive.file("init", 0o755, &read(&workspace::root().join("images/guests/busybox.init"))?);
    Ok(archive.finish())
}
