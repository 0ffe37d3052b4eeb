//! The keys about devices: those a guest has, and what a driver domain serves.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use protocol::arguments::PORTS_MAX;

use super::disk::{self, Disk};
use super::pci::{self, Pattern};
use super::ports::{self, Range};
use super::reader::{Reader, shown};
use super::vif::{self, Vif};

/// The keys whose values are lists with a syntax of their own, and an example of it.
const VIF: (&str, &str) = ("vif", "'mac=00:16:3e:00:00:01,bridge=br0'");
const PCI: (&str, &str) = ("pci", "'1af4:1042' or '00:04.0'");
const IOPORTS: (&str, &str) = ("ioports", "'1f0-1f7' or '3f6'");
const DISK: (&str, &str) = ("disk", "'phy:virtio0p1,xvda,r' or 'file:/path,xvda,w'");

/// Most devices of one kind that a domain has.
pub const DEVICES_MAX: usize = 16;
/// Most devices that a driver domain can say it serves at once.
const CONNECTIONS_MAX: i64 = 64;
/// ISA interrupts: the lines of two 8259s.
const IRQS: RangeInclusive<i64> = 0..=15;
/// Devices that a driver domain serves if it does not say.
const DEFAULT_CONNECTIONS: u16 = 16;

/// What a driver domain serves others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Disks.
    Disk,
    /// Network interfaces.
    Network,
}

impl Role {
    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Disk => "disk",
            Role::Network => "network",
        }
    }
}

/// What the domain serves.
pub fn role(reader: &mut Reader<'_>) -> Option<Role> {
    let (entry, text) = reader.text("backend")?;
    let found = [Role::Disk, Role::Network].into_iter().find(|role| role.name() == text);
    if found.is_none() {
        reader.bad(&entry, format!("`{}` is nothing that is served", shown(&text)), "write 'disk' or 'network'");
    }
    found
}

/// How many devices it can serve at once.
pub fn connections(reader: &mut Reader<'_>) -> u16 {
    reader.integer("connections", 1..=CONNECTIONS_MAX).map_or(DEFAULT_CONNECTIONS, |number| number as u16)
}

/// The disks of a guest.
pub fn disks(reader: &mut Reader<'_>, linux: bool) -> Vec<Disk> {
    let parse = |text: &str| {
        let disk = disk::parse(text)?;
        if !linux {
            disk.device_target()?;
        }
        Ok(disk)
    };
    list(reader, DISK, parse, |disk| Some(disk.vdev.clone()))
}

/// The PCI devices that a domain is given.
pub fn pci(reader: &mut Reader<'_>) -> Vec<Pattern> {
    list(reader, PCI, pci::parse, |pattern| Some(alloc::string::ToString::to_string(pattern)))
}

/// The I/O ports that a domain is given.
pub fn ioports(reader: &mut Reader<'_>) -> Vec<Range> {
    let place = reader.place(IOPORTS.0).unwrap_or_default();
    let ranges = list(reader, IOPORTS, ports::parse, |range| Some(alloc::string::ToString::to_string(range)));
    if ranges.len() > PORTS_MAX {
        let text = format!("{} ranges, {PORTS_MAX} are the most", ranges.len());
        reader.problem(&place, IOPORTS.0, text, "join ranges, or shorten the list");
    }
    ranges
}

/// The ISA interrupts that a domain is given.
pub fn irqs(reader: &mut Reader<'_>) -> Vec<u8> {
    let Some((entry, numbers)) = reader.integers("irqs", IRQS) else { return Vec::new() };
    for (index, number) in numbers.iter().enumerate() {
        if numbers[..index].contains(number) {
            reader.bad(&entry, format!("{number} stands there twice"), "keep one");
        }
    }
    numbers.into_iter().map(|number| number as u8).collect()
}

/// The network interfaces of a guest.
pub fn vifs(reader: &mut Reader<'_>) -> Vec<Vif> {
    list(reader, VIF, vif::parse, |vif| vif.mac.map(|mac| vif::text(&mac)))
}

/// A list of entries of one syntax, each checked; no two may have the same name.
fn list<T>(
    reader: &mut Reader<'_>,
    (key, example): (&str, &str),
    parse: impl Fn(&str) -> Result<T, String>,
    name: impl Fn(&T) -> Option<String>,
) -> Vec<T> {
    let Some((entry, texts)) = reader.texts(key) else { return Vec::new() };
    if texts.len() > DEVICES_MAX {
        reader.bad(&entry, format!("{} entries, {DEVICES_MAX} are the most", texts.len()), "shorten the list");
    }
    let mut values: Vec<T> = Vec::new();
    for text in texts.iter().take(DEVICES_MAX) {
        match parse(text) {
            Ok(value) => {
                let own = name(&value);
                if let Some(own) = own.filter(|own| values.iter().any(|other| name(other).as_ref() == Some(own))) {
                    reader.bad(&entry, format!("{own} stands there twice"), "keep one");
                }
                values.push(value);
            }
            Err(text) => reader.bad(&entry, text, &format!("write entries like {example}")),
        }
    }
    values
}
