//! What the builder of a domain tells it.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::event::Port;

/// The page at [`crate::layout::ARGUMENTS`]: postcard, preceded by its length as a little-endian u16. An empty page means
/// defaults. The first domain, which has no builder, finds the boot line there, padded with zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootArguments {
    /// Command line of the domain; for the first one the boot line of the core.
    pub command_line: String<1024>,
    /// The port of its console ring, if a console is connected.
    pub console: Option<Port>,
    /// Handles of the devices it was given ([`crate::handle::Handle`]), in the order of its configuration.
    pub devices: Vec<u32, DEVICES_MAX>,
    /// I/O ports it was given: those that its configuration asks for and nobody else has.
    pub ports: Vec<GivenPorts, PORTS_MAX>,
    /// ISA interrupts it was given, likewise.
    pub interrupts: Vec<GivenInterrupt, INTERRUPTS_MAX>,
    /// The guest of a monitor.
    pub guest: Option<GuestBoot>,
}

/// A range of I/O ports that a domain was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenPorts {
    /// The first port.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// The handle ([`crate::handle::Handle`]).
    pub handle: u32,
}

/// An ISA interrupt that a domain was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenInterrupt {
    /// The line.
    pub line: u8,
    /// The handle ([`crate::handle::Handle`]).
    pub handle: u32,
}

/// What a monitor is to run. The files lie in guest memory ([`crate::layout::GUEST_MEMORY`]), page-aligned, at the top of the RAM
/// below [`LOW_MEMORY_END`]: the RAM disk last, the kernel below it. The command line is the domain's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestBoot {
    /// RAM of the guest, in pages.
    pub memory_pages: u64,
    /// RAM that it may come to have, in pages: that much its kernel is told of.
    pub max_pages: u64,
    /// The file of its kernel.
    pub kernel: GuestFile,
    /// The file of its initial RAM disk; of length 0 if it has none.
    pub ramdisk: GuestFile,
    /// UTC when the core started, in seconds since 1970.
    pub start_utc: u64,
}

/// A file in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

/// RAM of a guest lies below this guest-physical address, and what does not fit there from 4 GiB on.
pub const LOW_MEMORY_END: u64 = 3 << 30;

/// Most devices that one domain can be given.
pub const DEVICES_MAX: usize = 16;

/// Most ranges of I/O ports that one domain can be given: as many as it can use at once.
pub const PORTS_MAX: usize = 4;

/// Most ISA interrupts that one domain can be given: as many as there are.
pub const INTERRUPTS_MAX: usize = 16;

/// Largest encoded size of [`BootArguments`], with the length.
pub const ARGUMENTS_MAX: usize = crate::layout::PAGE_SIZE as usize;

/// Encodes `arguments` for the page; gives the bytes used.
pub fn encode_arguments(arguments: &BootArguments, page: &mut [u8; ARGUMENTS_MAX]) -> Option<usize> {
    let used = postcard::to_slice(arguments, &mut page[2..]).ok()?.len();
    page[..2].copy_from_slice(&u16::try_from(used).ok()?.to_le_bytes());
    Some(used + 2)
}

/// Decodes the page; `None` if it is damaged.
pub fn decode_arguments(page: &[u8]) -> Option<BootArguments> {
    let used = u16::from_le_bytes([*page.first()?, *page.get(1)?]) as usize;
    if used == 0 {
        return Some(BootArguments::default());
    }
    postcard::from_bytes(page.get(2..2 + used)?).ok()
}

/// What the page of the first domain says; `None` if it is no text.
pub fn first_arguments(page: &[u8]) -> Option<BootArguments> {
    let end = page.iter().position(|&byte| byte == 0).unwrap_or(page.len());
    let command_line = String::try_from(core::str::from_utf8(&page[..end]).ok()?).ok()?;
    Some(BootArguments { command_line, ..BootArguments::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_the_page() {
        let mut page = [0; ARGUMENTS_MAX];
        assert_eq!(decode_arguments(&page), Some(BootArguments::default()));
        let arguments = BootArguments {
            command_line: String::try_from("a=1 b").unwrap(),
            console: Some(Port(3)),
            ports: Vec::from_slice(&[GivenPorts { first: 0x1f0, count: 8, handle: 7 }]).unwrap(),
            interrupts: Vec::from_slice(&[GivenInterrupt { line: 14, handle: 8 }]).unwrap(),
            ..BootArguments::default()
        };
        let used = encode_arguments(&arguments, &mut page).unwrap();
        assert_eq!(decode_arguments(&page[..used]), Some(arguments));
        assert_eq!(decode_arguments(&page[..used - 1]), None);
        assert_eq!(decode_arguments(&[]), None);
    }

    #[test]
    fn the_first_domain_finds_text() {
        let line = |page: &[u8]| first_arguments(page).map(|arguments| arguments.command_line);
        assert_eq!(line(b"dom0_mem=64 a\0\0").as_deref(), Some("dom0_mem=64 a"));
        assert_eq!(line(&[0; ARGUMENTS_MAX]).as_deref(), Some(""));
        assert_eq!(line(&[0xff]), None);
        assert_eq!(line(&[b'x'; 1025]), None);
    }
}
