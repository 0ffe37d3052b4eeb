//! Disks: what the backend's directory says, and what is read from the guest's.

use protocol::connection::{DiskLimits, RING_PAGES_MAX};
use protocol::control::FromDomain;
use protocol::ring::block::Layout;

use super::device::Device;
use super::keys::{BadKey, Keys};
use crate::store::Store;

/// Read-only, in the key `info`.
const READ_ONLY: u32 = 4;
/// Names of the keys of a ring's pages.
const RING_REFS: [&str; RING_PAGES_MAX] =
    ["ring-ref0", "ring-ref1", "ring-ref2", "ring-ref3", "ring-ref4", "ring-ref5", "ring-ref6", "ring-ref7"];

/// Writes what a driver needs to know to make its ring.
pub fn offer<R>(device: &Device<R>, read_only: bool, store: &mut Store) {
    let mut write = |key: &str, value: &dyn core::fmt::Display| device.write_back(store, key, value);
    write("dev", &device.name());
    write("device-type", &"disk");
    // Mini-OS looks at once how it may open the disk.
    write("mode", &mode(read_only));
    write("removable", &0);
    write("bootable", &1);
    write("feature-barrier", &0);
    // A page of the guest's is with the disk domain for one request only, and never copied.
    write("feature-persistent", &0);
    write("multi-queue-max-queues", &1);
    write("max-ring-page-order", &RING_PAGES_MAX.ilog2());
}

/// How a disk can be opened.
const fn mode(read_only: bool) -> &'static str {
    if read_only { "r" } else { "w" }
}

/// Reads the ring that the driver made, in a guest with such structures.
pub fn rings(keys: Keys<'_>, own: Layout) -> Result<FromDomain, BadKey> {
    let layout = keys.check_common(own)?;
    let order = keys.number_or("ring-page-order", 0)?;
    if order > RING_PAGES_MAX.ilog2() {
        return Err(BadKey("ring-page-order"));
    }
    let mut ring = heapless::Vec::new();
    if order == 0 && keys.text("ring-ref").is_some() {
        // There is room for one.
        let _ = ring.push(keys.number("ring-ref")?);
    } else {
        for key in &RING_REFS[..1 << order] {
            // There is room for as many as there are names.
            let _ = ring.push(keys.number(key)?);
        }
    }
    Ok(FromDomain::BlockRing { ring, persistent: false, layout })
}

/// Writes what the disk is like.
pub fn announce<R>(device: &Device<R>, limits: &DiskLimits, store: &mut Store) {
    let mut write = |key: &str, value: &dyn core::fmt::Display| device.write_back(store, key, value);
    write("feature-flush-cache", &u32::from(limits.flush));
    write("feature-discard", &u32::from(limits.discard));
    if limits.discard {
        write("discard-granularity", &limits.sector_size);
        write("discard-alignment", &0);
        write("discard-secure", &0);
    }
    write("feature-max-indirect-segments", &limits.indirect_segments);
    write("mode", &mode(limits.read_only));
    write("info", &if limits.read_only { READ_ONLY } else { 0 });
    write("sector-size", &limits.sector_size);
    write("physical-sector-size", &limits.sector_size);
    resize(device, limits, store);
}

/// Writes how large the disk is.
pub fn resize<R>(device: &Device<R>, limits: &DiskLimits, store: &mut Store) {
    device.write_back(store, "sectors", &limits.sectors);
}
