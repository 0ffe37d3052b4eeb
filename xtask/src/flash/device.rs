//! Which device may be written: a whole removable one that nobody uses. Everything is read from the kernel, nothing is guessed
//! from names.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::disk::{MIB, SECTOR};

/// Major and minor number of a block device.
pub type Number = (u32, u32);

/// Where the kernel says what it knows of devices; elsewhere in tests.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The folder `/sys`.
    pub sys: PathBuf,
    /// The folder `/proc`.
    pub proc: PathBuf,
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// A device that may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `sdb`.
    pub name: String,
    /// What it says it is.
    pub model: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The number of the block device at `path`.
pub fn number(path: &Path) -> Result<Number> {
    let data = fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
    let number = number_of(&data);
    number.with_context(|| {
        format!("{} is not a block device; a USB stick is /dev/sdX (`lsblk` lists them)", path.display())
    })
}

/// The number of the block device that is described; `None` if it is none.
pub fn number_of(data: &Metadata) -> Option<Number> {
    let rdev = data.rdev();
    data.file_type().is_block_device().then(|| (rustix::fs::major(rdev), rustix::fs::minor(rdev)))
}

impl Kernel {
    /// The device with this number, if `needed` bytes may be written to it.
    pub fn examine(&self, number: Number, needed: u64) -> Result<Device> {
        let folder = self.folder(number)?;
        let name = name(&folder);
        if folder.join("partition").exists() {
            let whole = folder.parent().map(self::name).unwrap_or_default();
            bail!("{name} is a partition; the image is written to the whole device, which is /dev/{whole}");
        }
        let is = |file: &str| text(&folder.join(file)).is_some_and(|text| text == "1");
        if !is("removable") && !behind_usb(&folder) {
            bail!("{name} is not removable; only removable devices and those at a USB port are written");
        }
        let sectors: u64 = text(&folder.join("size")).and_then(|text| text.parse().ok()).unwrap_or(0);
        // The kernel counts in these whatever the device's own sectors are.
        let size = sectors * SECTOR;
        if size == 0 {
            bail!("there is no medium in {name}");
        }
        if is("ro") {
            bail!("{name} is write-protected");
        }
        if size < needed {
            bail!("{name} has {} MiB, and the image has {} MiB", size / MIB, needed.div_ceil(MIB));
        }
        if let Some(user) = self.user(&folder)? {
            bail!("{user}; unmount or release it first");
        }
        let part = |file: &str| text(&folder.join("device").join(file));
        let model = [part("vendor"), part("model")].into_iter().flatten().collect::<Vec<_>>().join(" ");
        Ok(Device { name, model: if model.is_empty() { "unknown model".into() } else { model }, size })
    }

    fn folder(&self, (major, minor): Number) -> Result<PathBuf> {
        let link = self.sys.join("dev/block").join(format!("{major}:{minor}"));
        link.canonicalize().with_context(|| format!("the kernel does not know block device {major}:{minor}"))
    }

    /// Who uses the device or one of its partitions.
    fn user(&self, folder: &Path) -> Result<Option<String>> {
        let mut parts = vec![folder.to_path_buf()];
        let listing = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        parts.extend(
            listing.filter_map(|entry| Some(entry.ok()?.path())).filter(|part| part.join("partition").exists()),
        );
        let read = |file: &str| {
            let path = self.proc.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (mounts, swaps) = (read("self/mountinfo")?, read("swaps")?);
        for part in parts {
            let name = name(&part);
            let number = text(&part.join("dev")).unwrap_or_default();
            if let Some(place) = mounts.lines().find_map(|line| mounted(line, &number, &name)) {
                return Ok(Some(format!("{name} is mounted at {place}")));
            }
            if swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}"))) {
                return Ok(Some(format!("{name} is swapped to")));
            }
            let mut holders = fs::read_dir(part.join("holders")).into_iter().flatten().filter_map(Result::ok);
            if let Some(holder) = holders.next() {
                return Ok(Some(format!("{name} is held by {}", holder.file_name().to_string_lossy())));
            }
        }
        Ok(None)
    }
}

/// Where a line of `mountinfo` says that this device is mounted. Some file systems have numbers of their own there, and show
/// the device only by its name.
fn mounted<'l>(line: &'l str, number: &str, name: &str) -> Option<&'l str> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let (found, place) = (before.next()?, before.nth(1)?);
    let source = after.split(' ').nth(1)?;
    (found == number || source == format!("/dev/{name}")).then_some(place)
}

/// Whether the way to the device leads through a USB bus.
fn behind_usb(folder: &Path) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    let parts = folder.iter().filter_map(|part| part.to_str());
    parts.filter_map(|part| part.strip_prefix("usb")).any(number)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that knows one stick `sdb` with one partition.
    struct Fake {
        root: PathBuf,
        disk: PathBuf,
    }

    const DISK: Number = (8, 16);
    const PARTITION: Number = (8, 17);

    impl Fake {
        fn new(test: &str, bus: &str) -> Fake {
            let root = std::env::temp_dir().join(format!("bulkhead-flash-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let disk = root.join("sys/devices/pci0000:00").join(bus).join("block/sdb");
            let fake = Fake { root, disk };
            for (file, contents) in [
                ("dev", "8:16\n"),
                ("removable", "0\n"),
                ("ro", "0\n"),
                ("size", "2097152\n"),
                ("device/vendor", "Maker   \n"),
                ("device/model", "Stick 3000\n"),
                ("sdb1/partition", "1\n"),
                ("sdb1/dev", "8:17\n"),
            ] {
                fake.write(file, contents);
            }
            let links = fake.root.join("sys/dev/block");
            fs::create_dir_all(&links).unwrap();
            std::os::unix::fs::symlink(&fake.disk, links.join("8:16")).unwrap();
            std::os::unix::fs::symlink(fake.disk.join("sdb1"), links.join("8:17")).unwrap();
            fake.proc("self/mountinfo", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
            fake.proc("swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
            fake
        }

        fn write(&self, file: &str, contents: &str) {
            let path = self.disk.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        fn proc(&self, file: &str, contents: &str) {
            let path = self.root.join("proc").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        fn examine(&self, number: Number) -> Result<Device> {
            Kernel { sys: self.root.join("sys"), proc: self.root.join("proc") }.examine(number, 300 * MIB)
        }

        fn refuses(&self, number: Number, because: &str) {
            let error = format!("{:#}", self.examine(number).unwrap_err());
            assert!(error.contains(because), "{error}");
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn a_stick_is_taken() {
        let fake = Fake::new("stick", "0000:00:14.0/usb2/2-1/2-1:1.0");
        let device = Device { name: "sdb".into(), model: "Maker Stick 3000".into(), size: 1 << 30 };
        assert_eq!(fake.examine(DISK).unwrap(), device);
        let card = Fake::new("card", "0000:00:1f.2/ata1");
        card.write("removable", "1\n");
        card.write("device/vendor", "\n");
        card.write("device/model", "");
        assert_eq!(card.examine(DISK).unwrap().model, "unknown model");
    }

    #[test]
    fn a_disk_inside_the_machine_is_refused() {
        // A folder that only sounds like a USB bus is none.
        Fake::new("inside", "0000:00:1f.2/ata1/usbish").refuses(DISK, "not removable");
    }

    #[test]
    fn a_partition_is_refused_and_its_device_named() {
        Fake::new("partition", "usb1/1-1").refuses(PARTITION, "which is /dev/sdb");
    }

    #[test]
    fn what_is_unknown_empty_protected_or_too_small_is_refused() {
        let fake = Fake::new("unfit", "usb1/1-1");
        fake.refuses((8, 32), "does not know");
        fake.write("size", "0\n");
        fake.refuses(DISK, "no medium");
        fake.write("size", "204800\n");
        fake.refuses(DISK, "sdb has 100 MiB, and the image has 300 MiB");
        fake.write("ro", "1\n");
        fake.refuses(DISK, "write-protected");
    }

    #[test]
    fn what_is_in_use_is_refused() {
        for mount in [
            "40 22 8:17 / /media/stick rw - vfat /dev/sdb1 rw",
            "40 22 8:16 / /media/stick rw shared:3 - ext4 /dev/root rw",
            "40 22 0:99 /sub /media/stick rw - btrfs /dev/sdb1 rw",
        ] {
            let fake = Fake::new("mounted", "usb1/1-1");
            fake.proc("self/mountinfo", mount);
            fake.refuses(DISK, "is mounted at /media/stick");
        }
        let fake = Fake::new("swap", "usb1/1-1");
        fake.proc("swaps", "Filename\n/dev/sdb1 partition 1 0 -2\n");
        fake.refuses(DISK, "sdb1 is swapped to");
        let fake = Fake::new("held", "usb1/1-1");
        fake.write("sdb1/holders/dm-0", "");
        fake.refuses(DISK, "sdb1 is held by dm-0");
        let fake = Fake::new("blind", "usb1/1-1");
        fs::remove_file(fake.root.join("proc/swaps")).unwrap();
        fake.refuses(DISK, "cannot read");
    }

    #[test]
    fn a_file_is_no_device() {
        assert!(number(Path::new("/etc/passwd")).unwrap_err().to_string().contains("not a block device"));
        assert!(number(Path::new("/dev/nonexistent")).is_err());
    }
}
