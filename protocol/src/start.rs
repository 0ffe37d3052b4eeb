//! What a domain finds when its first instruction runs.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Name, event::Port};

/// In [`StartInfo::magic`]: `"BULKHEAD"`, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULKHEAD");

/// The page at [`crate::layout::START_INFO`], written by the core before the first instruction of every start.
///
/// Registers at the first instruction of vCPU `i`: RDI is `i`, RSP and the FS base are
/// [`crate::layout::vcpu_stack_top`]`(i)` (unless `vcpu_start` or `domain_start` named another stack), all else is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// The domain's id; for logs only.
    pub id: u32,
    /// Incarnation.
    pub incarnation: u32,
    /// Times this incarnation was reset.
    pub resets: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// Pages of the grant table.
    pub grant_frames: u32,
    /// Pages of retained memory.
    pub retained_pages: u32,
    /// Grants of others that can be mapped at once.
    pub max_mappings: u32,
    /// Frames set aside for the domain at start.
    pub memory_pages: u64,
    /// TSC frequency, Hz.
    pub tsc_hz: u64,
    /// Bytes of the boot bundle at [`crate::layout::BUNDLE`]; 0 in every domain but the first.
    pub bundle_bytes: u64,
    /// Name.
    pub name: Name,
}

/// The page at [`crate::layout::ARGUMENTS`]: postcard, preceded by its length as a little-endian u16. An empty page means
/// defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootArguments {
    /// Command line of the domain; for dom0 the boot line of the core.
    pub command_line: String<1024>,
    /// The port of its console ring, if a console is connected.
    pub console: Option<Port>,
    /// Handles of the devices it was given ([`crate::handle::Handle`]), in the order of its configuration.
    pub devices: Vec<u32, DEVICES_MAX>,
}

/// Most devices that one domain can be given.
pub const DEVICES_MAX: usize = 16;

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
            ..BootArguments::default()
        };
        let used = encode_arguments(&arguments, &mut page).unwrap();
        assert_eq!(decode_arguments(&page[..used]), Some(arguments));
        assert_eq!(decode_arguments(&page[..used - 1]), None);
        assert_eq!(decode_arguments(&[]), None);
    }
}
