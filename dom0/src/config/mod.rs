//! The configuration of a domain: TOML with the keys of xl.cfg.
//!
//! A file that worked with Xen is read as it is: what means nothing here is named in a warning, and only what is unknown or
//! wrong is refused, with the place, the key and the cure. Every value is bounded before it is used.

pub mod cpus;
mod devices;
pub mod disk;
pub mod keys;
pub mod pci;
pub mod ports;
mod problem;
mod reader;
pub mod size;
pub mod suggest;
pub mod vif;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::domain::{CLASS_DRIVER, CLASS_GUEST, DEFAULT_WEIGHT, MAX_MAPPINGS, MAX_RETAINED, WEIGHTS};
use protocol::event::MAX_VCPUS;
use protocol::grant::MAX_GRANT_FRAMES;
use toml::de::DeValue;

pub use devices::Role;
pub use disk::Disk;
pub use problem::Problem;
pub use reader::{FILE_MAX, shown};
pub use vif::Vif;

use reader::Reader;

/// Frames of a domain that does not say how much memory it wants: 8 MiB, enough for any of the images that come along.
const DEFAULT_PAGES: u64 = 8 << 8;
/// Grants of others that a domain can hold mapped by default.
const DEFAULT_MAPPINGS: u32 = 64;
/// KiB in a page.
const KIB_PER_PAGE: i64 = protocol::layout::PAGE_SIZE as i64 / 1024;
/// Most domains that one can be connected to by its configuration.
const CONNECT_MAX: usize = 16;

/// What to do when a domain has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Give everything back.
    Destroy,
    /// Start it again, in place.
    Restart,
    /// Keep it, dead, to be looked at.
    Preserve,
}

/// What kind of guest a domain is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Guest {
    /// An image from the bundle that runs by itself.
    Native {
        /// Its name under `images/`.
        image: String,
    },
    /// A Linux kernel.
    Linux {
        /// Path of the kernel.
        kernel: String,
        /// Path of the initial RAM disk.
        ramdisk: Option<String>,
        /// Where the key `kernel` stood, for the message that refuses it.
        place: String,
    },
}

/// The configuration of a domain, checked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Config {
    /// Name.
    pub name: String,
    /// Kind of guest.
    pub guest: Guest,
    /// Frames set aside.
    pub memory_pages: u64,
    /// Bound for `mem-set`.
    pub max_pages: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// CPUs each vCPU may run on; the last entry holds for all further ones, and none at all means any.
    pub affinity: Vec<cpus::Mask>,
    /// Scheduling weight.
    pub weight: u32,
    /// Limit in percent of a CPU; 0 is none.
    pub cap: u32,
    /// [`CLASS_GUEST`] or [`CLASS_DRIVER`].
    pub class: u32,
    /// Command line.
    pub command_line: String,
    /// Network interfaces.
    pub vifs: Vec<Vif>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// What it serves others, if it is a driver domain.
    pub backend: Option<Role>,
    /// PCI devices that it is given.
    pub pci: Vec<pci::Pattern>,
    /// I/O ports that it is given, if they are free.
    pub ioports: Vec<ports::Range>,
    /// ISA interrupts that it is given, if they are free.
    pub irqs: Vec<u8>,
    /// Devices it can serve at once.
    pub connections: u16,
    /// When it ended by itself.
    pub on_poweroff: Action,
    /// When it asked for a reboot.
    pub on_reboot: Action,
    /// When it died.
    pub on_crash: Action,
    /// Pages of retained memory.
    pub retained_pages: u32,
    /// Pages of the grant table.
    pub grant_frames: u32,
    /// Grants of others it can hold mapped.
    pub max_mappings: u32,
    /// Domains it is connected to.
    pub connect: Vec<String>,
}

impl Config {
    /// Name of the image that runs in it, under `images/`.
    pub fn image(&self) -> &str {
        match &self.guest {
            Guest::Native { image } => image,
            Guest::Linux { .. } => crate::guest::MONITOR,
        }
    }
}

/// A configuration and what in it has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The configuration.
    pub config: Config,
    /// What has no effect.
    pub warnings: Vec<Problem>,
}

/// Parses `text`, named `file` in messages, with `overrides` (`key=value`) laid over it.
pub fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Parsed, Vec<Problem>> {
    let mut reader = Reader::new(file, text, overrides);
    let config = if reader.problems.is_empty() { read(&mut reader, file) } else { None };
    match config {
        Some(config) if reader.problems.is_empty() => Ok(Parsed { config, warnings: reader.warnings }),
        _ => Err(reader.problems),
    }
}

fn read(reader: &mut Reader<'_>, file: &str) -> Option<Config> {
    let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".toml");
    let default_image = reader.name_in_file.clone().unwrap_or_else(|| stem.to_owned());
    let name = name(reader, stem);
    let linux = reader.place("kernel").is_some();
    let guest = guest(reader, if stem.is_empty() { &name } else { &default_image });
    let memory_pages = memory(reader, "memory").unwrap_or(DEFAULT_PAGES);
    let max_pages = max_memory(reader, memory_pages);
    let vcpus = reader.integer("vcpus", 1..=MAX_VCPUS as i64).unwrap_or(1) as u32;
    let config = Config {
        name,
        guest,
        memory_pages,
        max_pages,
        vcpus,
        affinity: affinity(reader),
        weight: reader
            .integer("cpu_weight", i64::from(*WEIGHTS.start())..=i64::from(*WEIGHTS.end()))
            .unwrap_or(DEFAULT_WEIGHT.into()) as u32,
        cap: reader.integer("cap", 0..=100 * i64::from(vcpus)).unwrap_or(0) as u32,
        class: class(reader),
        command_line: command_line(reader, linux),
        vifs: devices::vifs(reader),
        disks: devices::disks(reader, linux),
        pci: if linux { Vec::new() } else { devices::pci(reader) },
        ioports: if linux { Vec::new() } else { devices::ioports(reader) },
        irqs: if linux { Vec::new() } else { devices::irqs(reader) },
        backend: if linux { None } else { devices::role(reader) },
        connections: if linux { 0 } else { devices::connections(reader) },
        on_poweroff: action(reader, "on_poweroff").unwrap_or(Action::Destroy),
        on_reboot: action(reader, "on_reboot").unwrap_or(Action::Restart),
        on_crash: action(reader, "on_crash").unwrap_or(Action::Destroy),
        retained_pages: if linux { 0 } else { retained(reader) },
        grant_frames: reader.integer("grant_frames", 1..=MAX_GRANT_FRAMES as i64).unwrap_or(1) as u32,
        max_mappings: reader.integer("max_mappings", 0..=MAX_MAPPINGS.into()).unwrap_or(DEFAULT_MAPPINGS.into()) as u32,
        connect: if linux { Vec::new() } else { connect(reader) },
    };
    reader.finish(if linux { "Linux" } else { "native" });
    Some(config)
}

/// Why a text cannot be the name of a domain, if it cannot.
pub fn name_fault(name: &str) -> Option<&'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    match name {
        "" => Some("is empty"),
        _ if name.len() > protocol::NAME_MAX => Some("is longer than 32 bytes"),
        _ if !name.chars().all(known) => Some("holds other characters than letters, digits and -_.+"),
        _ if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) => Some("starts with no letter or digit"),
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => Some("is a number, and would be taken for an id"),
        _ => None,
    }
}

fn name(reader: &mut Reader<'_>, stem: &str) -> String {
    let place = reader.place("name").unwrap_or_else(|| "command line".to_owned());
    let name = match (reader.place("name"), reader.text("name")) {
        (Some(_), None) => return String::new(),
        (_, Some((_, name))) => name,
        (None, None) => stem.to_owned(),
    };
    if let Some(fault) = name_fault(&name) {
        reader.problem(&place, "name", format!("`{}` {fault}", shown(&name)), "write a name like web-1");
    }
    name
}

fn guest(reader: &mut Reader<'_>, default_image: &str) -> Guest {
    let Some((entry, kernel)) = reader.text("kernel") else {
        let image = match reader.text("image") {
            Some((entry, image)) => {
                let image = image.strip_prefix("images/").unwrap_or(&image).to_owned();
                if let Some(fault) = name_fault(&image) {
                    reader.bad(
                        &entry,
                        format!("`{}` {fault}", shown(&image)),
                        "name an entry of images/ in the bundle",
                    );
                }
                image
            }
            None => default_image.to_owned(),
        };
        return Guest::Native { image };
    };
    if reader.place("image").is_some() {
        reader.bad(&entry, "stands beside `image`".to_owned(), "keep `image` for a native guest, `kernel` for Linux");
    }
    let ramdisk = reader.text("ramdisk").map(|(_, path)| path);
    Guest::Linux { kernel, ramdisk, place: entry.place }
}

fn memory(reader: &mut Reader<'_>, key: &str) -> Option<u64> {
    let entry = reader.take(key)?;
    let pages = match &entry.value {
        DeValue::Integer(number) if number.radix() == 10 => size::pages(number.as_str()),
        DeValue::Float(number) => size::pages(number.as_str()),
        DeValue::String(text) => size::pages(text),
        _ => Err(size::SizeError::Syntax),
    };
    let text = match pages {
        Ok(pages) => return Some(pages),
        Err(size::SizeError::Syntax) => "is no size",
        Err(size::SizeError::Range) => "is out of range, 4 KiB to 16 TiB",
    };
    reader.bad(&entry, text.to_owned(), "write MiB, or a unit: 36, 4.5, '64K', '36M', '1.5G'");
    None
}

fn max_memory(reader: &mut Reader<'_>, memory_pages: u64) -> u64 {
    let place = reader.place("maxmem").unwrap_or_default();
    let max_pages = memory(reader, "maxmem").unwrap_or(memory_pages);
    if max_pages < memory_pages {
        let text = format!("{} is less than memory, {}", size::mib(max_pages), size::mib(memory_pages));
        reader.problem(&place, "maxmem", text, "raise maxmem or lower memory");
    }
    max_pages
}

fn affinity(reader: &mut Reader<'_>) -> Vec<cpus::Mask> {
    let last = protocol::system::MAX_CPUS as i64 - 1;
    let (place, cpu) = (reader.place("cpu"), reader.integer("cpu", -1..=last).filter(|&cpu| cpu >= 0));
    let Some(entry) = reader.take("cpus") else {
        return cpu.map(|cpu| 1 << cpu).into_iter().collect();
    };
    if let (Some(place), Some(_)) = (place, cpu) {
        reader.problem(&place, "cpu", "stands beside `cpus`".to_owned(), "keep one of them");
    }
    let parts: Vec<String> = match &entry.value {
        DeValue::String(text) => alloc::vec![text.as_ref().to_owned()],
        DeValue::Integer(number) => alloc::vec![number.as_str().to_owned()],
        DeValue::Array(parts) if parts.len() <= MAX_VCPUS => {
            let part = |value: &DeValue<'_>| match value {
                DeValue::String(text) => text.as_ref().to_owned(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                _ => String::new(),
            };
            parts.iter().map(|value| part(value.get_ref())).collect()
        }
        _ => Vec::new(),
    };
    let masks: Result<Vec<_>, _> = parts.iter().map(|part| cpus::mask(part)).collect();
    match masks {
        Ok(masks) if !masks.is_empty() => return masks,
        Ok(_) => reader.bad(&entry, "is no list of CPUs".to_owned(), "write '0-3,^1', 'all', or one such text a vCPU"),
        Err(text) => reader.bad(&entry, text, "write '0-3,^1', 'all', or one such text a vCPU"),
    }
    Vec::new()
}

fn class(reader: &mut Reader<'_>) -> u32 {
    match reader.text("class") {
        Some((_, class)) if class == "driver" => CLASS_DRIVER,
        Some((entry, class)) if class != "guest" => {
            reader.bad(&entry, format!("`{}` is no class", shown(&class)), "write 'guest' or 'driver'");
            CLASS_GUEST
        }
        _ => CLASS_GUEST,
    }
}

/// The words of `cmdline`, of `root` for Linux, and of `extra`, as xl joins them.
fn command_line(reader: &mut Reader<'_>, linux: bool) -> String {
    let place = reader.place("extra").or(reader.place("cmdline")).unwrap_or_default();
    let words = [
        reader.text("cmdline").map(|(_, text)| text),
        linux.then(|| reader.text("root")).flatten().map(|(_, text)| format!("root={text}")),
        reader.text("extra").map(|(_, text)| text),
    ];
    let words: Vec<String> = words.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let line = words.join(" ");
    if line.len() > reader::TEXT_MAX {
        let text = format!("the command line has {} bytes, {} are the most", line.len(), reader::TEXT_MAX);
        reader.problem(&place, "extra", text, "shorten it");
    }
    line
}

fn action(reader: &mut Reader<'_>, key: &str) -> Option<Action> {
    let (entry, text) = reader.text(key)?;
    let plain = text.strip_prefix("coredump-").unwrap_or(&text);
    let action = match plain {
        "destroy" => Action::Destroy,
        "restart" => Action::Restart,
        "preserve" => Action::Preserve,
        _ => {
            let message = format!("`{}` is no action", shown(&text));
            reader.bad(&entry, message, "write 'destroy', 'restart' or 'preserve'");
            return None;
        }
    };
    if plain != text {
        reader.warn(&entry, "no core dump is kept; 'preserve' keeps the domain itself");
    }
    Some(action)
}

fn retained(reader: &mut Reader<'_>) -> u32 {
    let kib = reader.integer("retained", 0..=i64::from(MAX_RETAINED) * KIB_PER_PAGE).unwrap_or(0);
    (kib as u32).div_ceil(KIB_PER_PAGE as u32)
}

fn connect(reader: &mut Reader<'_>) -> Vec<String> {
    let Some((entry, names)) = reader.texts("connect") else { return Vec::new() };
    if names.len() > CONNECT_MAX {
        reader.bad(&entry, format!("{} names, {CONNECT_MAX} are the most", names.len()), "shorten the list");
    }
    for (index, name) in names.iter().enumerate() {
        if let Some(fault) = name_fault(name) {
            reader.bad(&entry, format!("`{}` {fault}", shown(name)), "name domains that are created before this one");
        } else if names[..index].contains(name) {
            reader.bad(&entry, format!("{name} stands there twice"), "keep one");
        }
    }
    names
}
