//! Pages of peers that only a device uses.
//!
//! Such a page has no address in this domain, so mapping and unmapping it touches no page table of the domain's, and no code of
//! the domain's can reach what a guest reads or writes.

use heapless::Vec;
use protocol::answer::decode;
use protocol::error::{Error, Result};
use protocol::grant::{DEVICE_ONLY, MAX_BATCH, MapElement, UnmapElement};

use super::{Access, Source};
use crate::hypercall::{raw, to_the_end};

/// A peer's page that devices of this domain can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePage {
    /// Its address for a device.
    pub address: u64,
    /// What unmapping calls it.
    pub mapping: u32,
}

/// Maps up to [`MAX_BATCH`] pages by one hypercall; `found` gets a result for each.
pub fn map_for_device(
    wanted: impl IntoIterator<Item = (Source, Access)>,
    found: &mut Vec<Result<DevicePage>, MAX_BATCH>,
) {
    let mut elements: Vec<MapElement, MAX_BATCH> = wanted
        .into_iter()
        .take(MAX_BATCH)
        .map(|(Source { peer, reference }, access)| MapElement {
            peer,
            flags: access.flags() | DEVICE_ONLY,
            reference,
            // Stays if the core does not come to this element.
            status: -(Error::Invalid as i32),
            ..MapElement::default()
        })
        .collect();
    let (address, count) = (elements.as_mut_ptr() as u64, elements.len() as u64);
    // SAFETY: the elements live until the call returns; no address of this domain is mapped.
    let called = to_the_end(|| unsafe { raw::grant_map(address, count) });
    found.clear();
    found.extend(elements.iter().map(|element| {
        called.and(decode(i64::from(element.status) as u64))?;
        Ok(DevicePage { address: element.device_address, mapping: element.mapping })
    }));
}

/// Unmaps up to [`MAX_BATCH`] pages by one hypercall: afterwards no device can reach them.
pub fn unmap_for_device(mappings: &[u32]) {
    let mut elements: Vec<UnmapElement, MAX_BATCH> =
        mappings.iter().take(MAX_BATCH).map(|&mapping| UnmapElement { mapping, status: 0 }).collect();
    // SAFETY: the elements live until the call returns. Pages for devices have no address here. Should a number be that of
    // another page, its place in the window is not used again, and whoever still reads it faults.
    let _ = to_the_end(|| unsafe { raw::grant_unmap(elements.as_mut_ptr() as u64, elements.len() as u64) });
}
