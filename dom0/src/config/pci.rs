//! Which PCI devices a driver domain gets: by what they are, or by where they are.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::device::DeviceInfo;
use protocol::start::DEVICES_MAX;

use super::reader::{Reader, shown};

/// Devices to be given to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Pattern {
    /// All of a vendor's model.
    Model {
        /// Vendor.
        vendor: u16,
        /// Model.
        device: u16,
    },
    /// The one at an address, as in [`DeviceInfo::address`].
    At(u16),
}

impl Pattern {
    /// Whether the device is meant.
    pub const fn matches(self, info: &DeviceInfo) -> bool {
        match self {
            Pattern::Model { vendor, device } => info.vendor == vendor && info.device == device,
            Pattern::At(address) => info.address == address,
        }
    }
}

/// Parses `1af4:1041` or `00:04.0`; the latter may begin with the domain `0000:`.
fn parse(text: &str) -> Option<Pattern> {
    let hex = |text: &str, digits: usize| {
        let right = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        right.then(|| u16::from_str_radix(text, 16).ok()).flatten()
    };
    let Some((place, function)) = text.split_once('.') else {
        let (vendor, device) = text.split_once(':')?;
        return Some(Pattern::Model { vendor: hex(vendor, 4)?, device: hex(device, 4)? });
    };
    let (bus, device) = place.strip_prefix("0000:").unwrap_or(place).split_once(':')?;
    let (bus, device, function) = (hex(bus, 2)?, hex(device, 2)?, hex(function, 1)?);
    (device < 32 && function < 8).then_some(Pattern::At(bus << 8 | device << 3 | function))
}

/// The devices that a domain gets.
pub fn devices(reader: &mut Reader<'_>) -> Vec<Pattern> {
    let Some((entry, texts)) = reader.texts("pci") else { return Vec::new() };
    if texts.len() > DEVICES_MAX {
        reader.bad(&entry, format!("{} entries, {DEVICES_MAX} are the most", texts.len()), "shorten the list");
    }
    let mut found = Vec::new();
    for text in &texts {
        match parse(text) {
            Some(pattern) => found.push(pattern),
            None => {
                let problem: String = format!("`{}` names no PCI device", shown(text));
                reader.bad(&entry, problem, "write vendor:device, '1af4:1041', or an address, '00:04.0'");
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_model_or_address() {
        assert_eq!(parse("1af4:1041"), Some(Pattern::Model { vendor: 0x1af4, device: 0x1041 }));
        assert_eq!(parse("00:04.0"), Some(Pattern::At(4 << 3)));
        assert_eq!(parse("0000:03:1f.7"), Some(Pattern::At(3 << 8 | 31 << 3 | 7)));
        for wrong in ["", "1af4", "1af4:104", "1af4:10411", "00:20.0", "00:04.8", "00:04.", "+af4:1041", "0001:00:04.0"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
