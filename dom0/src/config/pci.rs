//! PCI devices that are given to a domain: by what they are, `1af4:1042`, or by where they are, `00:04.0`.

use alloc::format;
use alloc::string::String;

use protocol::device::DeviceInfo;

use super::reader::shown;

/// Which devices a domain is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Pattern {
    /// Every one of this kind that nobody else was given.
    Kind {
        /// Vendor.
        vendor: u16,
        /// Device id.
        device: u16,
    },
    /// The one at this address, as [`DeviceInfo::address`] has it.
    Address(u16),
}

impl Pattern {
    /// Whether the device is meant.
    pub const fn fits(&self, info: &DeviceInfo) -> bool {
        match *self {
            Pattern::Kind { vendor, device } => info.vendor == vendor && info.device == device,
            Pattern::Address(address) => info.address == address,
        }
    }
}

impl core::fmt::Display for Pattern {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Pattern::Kind { vendor, device } => write!(f, "{vendor:04x}:{device:04x}"),
            Pattern::Address(at) => f.write_str(&address(at)),
        }
    }
}

/// An address as `lspci` writes it.
pub fn address(at: u16) -> String {
    format!("{:02x}:{:02x}.{}", at >> 8, at >> 3 & 0x1f, at & 7)
}

/// Parses one entry of `pci`.
pub fn parse(text: &str) -> Result<Pattern, String> {
    let wrong = || format!("`{}` is no kind of device like 1af4:1042 and no address like 00:04.0", shown(text));
    let hex = |text: &str, digits: usize| {
        let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(text, 16).ok().filter(|_| whole).ok_or_else(wrong)
    };
    let Some((place, function)) = text.split_once('.') else {
        let (vendor, device) = text.split_once(':').ok_or_else(wrong)?;
        return Ok(Pattern::Kind { vendor: hex(vendor, 4)?, device: hex(device, 4)? });
    };
    // The only segment there is may be named, as xl does.
    let (bus, device) = place.strip_prefix("0000:").unwrap_or(place).split_once(':').ok_or_else(wrong)?;
    let (bus, device, function) = (hex(bus, 2)?, hex(device, 2)?, hex(function, 1)?);
    if device >= 32 || function >= 8 {
        return Err(wrong());
    }
    Ok(Pattern::Address(bus << 8 | device << 3 | function))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_and_addresses() {
        assert_eq!(parse("1af4:1042"), Ok(Pattern::Kind { vendor: 0x1af4, device: 0x1042 }));
        assert_eq!(parse("00:04.0"), Ok(Pattern::Address(0x20)));
        assert_eq!(parse("0000:02:1f.7"), Ok(Pattern::Address(0x2ff)));
        for bad in ["", "1af4", "1af4:", "1af4:10422", "00:20.0", "00:04.8", "+1:04.0", "0:04.0", "virtio"] {
            assert!(parse(bad).unwrap_err().contains("00:04.0"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_understood(at: u16, vendor: u16, device: u16) {
            for pattern in [Pattern::Address(at), Pattern::Kind { vendor, device }] {
                prop_assert_eq!(parse(&std::format!("{pattern}")), Ok(pattern));
            }
        }
    }
}
