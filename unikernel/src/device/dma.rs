//! Memory of one's own that devices reach too.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use protocol::error::{Error, Result};
use protocol::layout::{HEAP_END, PAGE_SIZE};

use super::pci::PciDevice;
use crate::area::{Area, shared_by_area};
use crate::hypercall::raw;
use crate::memory::populate;
use crate::pages::PAGES_END;

/// Pages whose device addresses one hypercall gives.
const PAGES_PER_CALL: usize = 512;

/// Where no buffer is yet. What a device knows stays until the domain is reset or ends, so places are never used twice.
static NEXT: AtomicU64 = AtomicU64::new(PAGES_END);

/// Zeroed memory for a device and its driver, at addresses that follow each other here but not for the device: there, only a
/// page is in one piece. It is not given back before the domain is reset or ends, even when this is dropped.
#[derive(Debug)]
pub struct DmaBuffer {
    area: Area,
    addresses: Box<[u64]>,
}

impl DmaBuffer {
    /// Memory of so many pages for `device`.
    pub fn new(device: &PciDevice, pages: usize) -> Result<DmaBuffer> {
        let length = (pages as u64).checked_mul(PAGE_SIZE).filter(|length| *length > 0).ok_or(Error::Invalid)?;
        let place = |next: u64| next.checked_add(length).filter(|end| *end <= HEAP_END);
        let base = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).map_err(|_| Error::NoMemory)?;
        populate(base, pages as u64)?;
        let mut addresses = alloc::vec![0; pages].into_boxed_slice();
        for (chunk, address) in
            addresses.chunks_mut(PAGES_PER_CALL).zip((base..).step_by(PAGES_PER_CALL * PAGE_SIZE as usize))
        {
            let out = chunk.as_mut_ptr() as u64;
            // SAFETY: the chunk has room for an address of each page, and the pages hold no Rust objects.
            unsafe { raw::device_addresses(device.handle(), address, chunk.len() as u64, out) }?;
        }
        // SAFETY: populated just now and never released; nobody else knows of it.
        let area = unsafe { Area::new(base, length as usize) };
        Ok(DmaBuffer { area, addresses })
    }

    /// Its memory.
    pub fn area(&self) -> &Area {
        &self.area
    }

    /// Pages it has.
    pub fn pages(&self) -> usize {
        self.addresses.len()
    }

    /// The device's address of the byte at `offset`; what follows it in the same page follows there too. Beyond the end it
    /// panics.
    pub fn device_address(&self, offset: usize) -> u64 {
        self.addresses[offset / PAGE_SIZE as usize] + (offset % PAGE_SIZE as usize) as u64
    }

    /// Reads 16 bits at an even offset, acquire.
    pub fn load_u16(&self, offset: usize) -> u16 {
        self.area.half(offset).load(Ordering::Acquire)
    }

    /// Writes 16 bits at an even offset, release.
    pub fn store_u16(&self, offset: usize, value: u16) {
        self.area.half(offset).store(value, Ordering::Release);
    }
}

shared_by_area!(DmaBuffer);
