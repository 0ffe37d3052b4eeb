//! Debian as a guest: debootstrap makes its root disk, and kernel and RAM disk are those that its own packages put there.
//!
//! Changed are host name, root's password, console and network configuration, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Files, folder, packages};
use crate::process;

/// The release.
const RELEASE: &str = "bookworm";
/// Packages beside the smallest system.
const PACKAGES: &str =
    "linux-image-cloud-amd64,systemd-sysv,udev,dbus,ifupdown,iproute2,iputils-ping,netcat-openbsd,fio";
/// Size of the root disk; it is sparse.
const DISK_SIZE: &str = "4G";
/// Root's password, as `openssl passwd -6 bulkhead` gives it: a guest for trying things out, behind no open port.
const PASSWORD: &str = "bulkhead";

/// Makes what is not there yet.
pub fn prepare() -> Result<Files> {
    let folder = folder("debian");
    let files =
        Files { kernel: folder.join("vmlinuz"), ramdisk: folder.join("initrd"), disk: Some(folder.join("root.img")) };
    // Last of all, so that it stands for everything.
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(files);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("debootstrap needs root: run `sudo cargo xtask guest debian` once");
    }
    let _ = fs::remove_dir_all(&folder);
    let root = folder.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    process::step(format_args!("debootstrap {RELEASE} (some minutes)"));
    let include = format!("--include={PACKAGES}");
    process::run(Command::new("debootstrap").args(["--variant=minbase", &include, RELEASE]).arg(&root))?;
    configure(&root)?;
    fs::copy(packages::named(&root.join("boot"), "vmlinuz-")?, &files.kernel)?;
    fs::copy(packages::named(&root.join("boot"), "initrd.img-")?, &files.ramdisk)?;
    process::step("making the root disk");
    let disk = folder.join("root.img");
    process::run(
        Command::new("mkfs.ext4").args(["-q", "-F", "-L", "root", "-d"]).arg(&root).arg(&disk).arg(DISK_SIZE),
    )?;
    fs::remove_dir_all(&root)?;
    fs::write(complete, "")?;
    Ok(files)
}

/// What makes it a guest.
fn configure(root: &Path) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("etc/hostname", "debian\n")?;
    write("etc/fstab", "/dev/xvda / ext4 defaults,errors=remount-ro 0 1\n")?;
    write("etc/network/interfaces", INTERFACES)?;
    write("etc/resolv.conf", "nameserver 10.0.2.3\n")?;
    let line = format!("echo root:{PASSWORD} | chpasswd");
    process::run(Command::new("chroot").arg(root).args(["sh", "-c", &line]))
}

/// The emulator's network; the guest `web` has 10.0.2.15.
const INTERFACES: &str = "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n    address 10.0.2.16/24\n    \
                          gateway 10.0.2.2\n";
