//! Disks, in the string forms of xl.cfg and of the xm.cfg before it.
//!
//! `file:/path,xvda,w` and `phy:/dev/vg/lv,xvda,r` are the old form; `/path,raw,xvda,rw` and
//! `format=raw, vdev=xvda, access=rw, target=/path` the new ones.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use protocol::connection::TARGET_MAX;

use super::name_fault;
use super::reader::shown;

/// What lies behind a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A file.
    File,
    /// A whole device, partition or logical volume.
    Phy,
}

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// What lies behind it.
    pub backend: Backend,
    /// Its path.
    pub target: String,
    /// The guest's name for it, for instance `xvda` or `sda1`.
    pub vdev: String,
    /// Whether the guest may write.
    pub writable: bool,
    /// The driver domain that serves it; the first one for disks if none is named.
    pub driver: Option<String>,
}

impl Disk {
    /// What its driver domain is asked for, if it is something that a driver domain can serve.
    pub fn device_target(&self) -> Result<String, String> {
        let name = self.target.strip_prefix("/dev/").unwrap_or(&self.target);
        match self.backend {
            Backend::File => Err(format!(
                "`{}` is a file, which no driver domain serves yet: name a disk, partition or label, `phy:virtio0p1`",
                shown(&self.target)
            )),
            Backend::Phy if name.is_empty() || name.len() > TARGET_MAX => {
                Err(format!("`{}` is no name of 1 to {TARGET_MAX} bytes: `disks` shows those there are", shown(name)))
            }
            Backend::Phy => Ok(name.to_owned()),
        }
    }
}

/// Parses one entry of `disk`.
pub fn parse(text: &str) -> Result<Disk, String> {
    let (mut target, mut vdev, mut access, mut backend, mut driver) = (None, None, None, None, None);
    for (position, part) in text.split(',').map(str::trim).enumerate() {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) if !name.contains('/') => (name.trim(), value.trim()),
            _ if position == 0 => ("target", part),
            _ if is_access(part) => ("access", part),
            _ if is_format(part) => ("format", part),
            _ => ("vdev", part),
        };
        match name {
            "target" => {
                let (prefix, path) = split_prefix(value);
                target = Some(path);
                backend = match prefix {
                    "" => backend,
                    "file" | "tap:aio" | "aio" => Some(Backend::File),
                    "phy" => Some(Backend::Phy),
                    other => return Err(format!("`{}:` is no kind of disk known here", shown(other))),
                };
            }
            "vdev" => vdev = Some(value),
            "access" if is_access(value) => access = Some(value),
            "format" if matches!(value, "raw" | "") => {}
            "format" if is_format(value) => return Err(format!("format `{value}` is not known here, only raw")),
            "backend" => match name_fault(value) {
                None => driver = Some(value.to_owned()),
                Some(fault) => return Err(format!("backend `{}` {fault}", shown(value))),
            },
            "backendtype" if value == "phy" => backend = Some(Backend::Phy),
            "backendtype" => backend = Some(Backend::File),
            _ => return Err(format!("`{}` is no part of a disk", shown(part))),
        }
    }
    let target = target.filter(|target| !target.is_empty()).ok_or("names no path")?;
    let vdev = vdev.ok_or("names no device for the guest")?;
    if !is_vdev(vdev) {
        return Err(format!("`{}` is no device name like xvda or sda1", shown(vdev)));
    }
    let guessed = if target.starts_with("/dev/") { Backend::Phy } else { Backend::File };
    let writable = !matches!(access, Some("r" | "ro" | "readonly"));
    let (backend, target, vdev) = (backend.unwrap_or(guessed), target.to_owned(), vdev.to_owned());
    Ok(Disk { backend, target, vdev, writable, driver })
}

/// `file:/path` as its prefix and path; a path may hold colons of its own.
fn split_prefix(text: &str) -> (&str, &str) {
    let slash = text.find('/').unwrap_or(text.len());
    match text[..slash].rfind(':') {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => ("", text),
    }
}

fn is_access(text: &str) -> bool {
    matches!(text, "r" | "ro" | "readonly" | "w" | "rw" | "w!")
}

fn is_format(text: &str) -> bool {
    matches!(text, "" | "raw" | "qcow" | "qcow2" | "vhd" | "qed")
}

/// A name such as xvda, sdb3, hdc: a known prefix, one or two letters, perhaps a partition.
fn is_vdev(text: &str) -> bool {
    let Some(rest) = ["xvd", "sd", "hd"].iter().find_map(|prefix| text.strip_prefix(prefix)) else {
        return false;
    };
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let digits = &rest[letters..];
    (1..=2).contains(&letters) && digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(backend: Backend, target: &str, vdev: &str, writable: bool) -> Result<Disk, String> {
        Ok(Disk { backend, target: target.into(), vdev: vdev.into(), writable, driver: None })
    }

    #[test]
    fn all_forms_of_the_manuals() {
        let file = |writable| disk(Backend::File, "/var/xen/root", "sda1", writable);
        assert_eq!(parse("file:/var/xen/root,sda1,w"), file(true));
        assert_eq!(parse("/var/xen/root,raw,sda1,rw"), file(true));
        assert_eq!(parse("/var/xen/root,,sda1"), file(true));
        assert_eq!(parse("format=raw, vdev=sda1, access=ro, target=/var/xen/root"), file(false));
        assert_eq!(parse("phy:/dev/vg/a:b,xvda,r"), disk(Backend::Phy, "/dev/vg/a:b", "xvda", false));
        assert_eq!(parse("/dev/vg/lv,raw,xvdaa,rw"), disk(Backend::Phy, "/dev/vg/lv", "xvdaa", true));
        assert_eq!(parse("tap:aio:/x,xvda,w"), disk(Backend::File, "/x", "xvda", true));
    }

    #[test]
    fn what_a_driver_domain_is_asked_for() {
        let target = |text| parse(text).unwrap().device_target();
        assert_eq!(target("phy:virtio0p1,xvda,r"), Ok("virtio0p1".into()));
        assert_eq!(target("phy:/dev/web,xvda,r,backend=disk2"), Ok("web".into()));
        assert_eq!(parse("phy:web,xvda,r,backend=disk2").unwrap().driver.as_deref(), Some("disk2"));
        assert!(target("file:/x,xvda,w").unwrap_err().contains("file"));
        assert!(target(&format!("phy:{},xvda,w", "x".repeat(65))).is_err());
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name() {
        for (bad, part) in [
            ("", "path"),
            ("file:,xvda,w", "path"),
            ("/x", "device"),
            ("/x,vda,w", "vda"),
            ("/x,xvda,sometimes", "sometimes"),
            ("tape:/x,xvda,w", "tape"),
            ("/x,qcow2,xvda,w", "qcow2"),
            ("/x,xvda,w,bogus=1", "bogus"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}
