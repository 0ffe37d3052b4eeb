//! PCI devices that the domain was given.
//!
//! The core keeps the configuration space and the interrupt table to itself, and gives registers, interrupts and device
//! addresses on request. Order matters after a restart: an opened device may still hold addresses that a former driver gave
//! it, so it reaches memory only after [`PciDevice::enable_dma`], to be called once the device was reset.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::device::{DMA, DeviceInfo};
use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::handle::Handle;
use protocol::layout::{MMIO, MMIO_END, PAGE_SIZE};

use super::mmio::Mmio;
use crate::event::Channel;
use crate::hypercall::{address_of_mut, raw, to_the_end};

/// Pages that one hypercall maps.
const PAGES_PER_CALL: u64 = 512;

/// Where nothing is mapped yet in the window; places are never used twice.
static NEXT: AtomicU64 = AtomicU64::new(MMIO);

/// What the core says about the device behind a handle.
pub fn info(handle: Handle) -> Result<DeviceInfo> {
    let mut info = DeviceInfo::default();
    // SAFETY: the record lives until the call returns.
    unsafe { raw::device_info(handle.0.into(), address_of_mut(&mut info)) }.map(|_| info)
}

/// A device that this domain has opened; it keeps it until it is reset or ends.
#[derive(Debug)]
pub struct PciDevice {
    handle: u64,
    info: DeviceInfo,
}

impl PciDevice {
    /// Opens the device behind `handle`: its registers answer, but it reaches no memory and sends no interrupts yet.
    pub fn open(handle: Handle) -> Result<PciDevice> {
        // SAFETY: the device reaches no memory.
        unsafe { raw::device_open(handle.0.into(), 0) }?;
        Ok(PciDevice { handle: handle.0.into(), info: info(handle)? })
    }

    /// Lets it read and write memory and send interrupts: call this after its reset.
    pub fn enable_dma(&self) -> Result<()> {
        // SAFETY: the addresses it is given are those of `DmaBuffer`s and of grants for devices, where no Rust objects lie. That
        // the device keeps to them is up to the driver, and confined by the IOMMU where there is one.
        unsafe { raw::device_open(self.handle, DMA) }.map(|_| ())
    }

    /// What is known about it since it was opened.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The handle by which the core knows it.
    pub(super) fn handle(&self) -> u64 {
        self.handle
    }

    fn config_read(&self, offset: u16, width: u64) -> Result<u64> {
        // SAFETY: no effect on memory.
        unsafe { raw::config_read(self.handle, offset.into(), width) }
    }

    /// Reads a byte of its configuration space.
    pub fn config_read8(&self, offset: u16) -> Result<u8> {
        self.config_read(offset, 1).map(|value| value as u8)
    }

    /// Reads an aligned 16-bit word of it.
    pub fn config_read16(&self, offset: u16) -> Result<u16> {
        self.config_read(offset, 2).map(|value| value as u16)
    }

    /// Reads an aligned 32-bit word of it.
    pub fn config_read32(&self, offset: u16) -> Result<u32> {
        self.config_read(offset, 4).map(|value| value as u32)
    }

    /// Writes `width` (1, 2 or 4) bytes of it, where the core lets a driver do that.
    pub fn config_write(&self, offset: u16, width: u8, value: u32) -> Result<()> {
        // SAFETY: the core refuses what would let the device reach other memory.
        unsafe { raw::config_write(self.handle, offset.into(), width.into(), value.into()) }.map(|_| ())
    }

    /// Maps the memory of a BAR, except for the pages that the core keeps.
    pub fn map_bar(&self, bar: u8) -> Result<Mmio> {
        let about = *self.info.bars.get(usize::from(bar)).ok_or(Error::Invalid)?;
        let pages = about.size.div_ceil(PAGE_SIZE);
        let length = pages * PAGE_SIZE;
        let place = |next: u64| next.checked_add(length).filter(|end| *end <= MMIO_END);
        let base = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).map_err(|_| Error::NoMemory)?;
        let hidden = u64::from(about.hidden)..u64::from(about.hidden) + u64::from(about.hidden_pages);
        for range in [0..hidden.start, hidden.end..pages] {
            for first in range.clone().step_by(PAGES_PER_CALL as usize) {
                let count = PAGES_PER_CALL.min(range.end - first);
                let address = base + first * PAGE_SIZE;
                // SAFETY: nothing else is ever put at these addresses.
                to_the_end(|| unsafe { raw::device_map(self.handle, bar.into(), first, address, count) })?;
            }
        }
        // SAFETY: mapped just now, for as long as the domain runs, but for the hidden pages.
        Ok(unsafe { Mmio::new(base, about.size, hidden.start * PAGE_SIZE..hidden.end * PAGE_SIZE) })
    }

    /// Binds message-signalled interrupt `index` to a port, and unmasks it.
    pub fn interrupt(&self, index: u16) -> Result<Msi> {
        // SAFETY: no effect on memory but that of the event page.
        let port = unsafe { raw::device_interrupt(self.handle, index.into()) }?;
        Ok(Msi(Channel::new(Port(port as u32))))
    }
}

/// A message-signalled interrupt. It need not be unmasked after it fired.
#[derive(Debug)]
pub struct Msi(Channel);

impl Msi {
    /// Waits for it to fire; returns at once if it did since the last wait.
    pub async fn wait(&self) {
        self.0.wait().await;
    }

    /// Whether it fired since this, or a wait, was asked last.
    pub fn fired(&self) -> bool {
        self.0.fired()
    }

    /// Its port.
    pub fn port(&self) -> Port {
        self.0.port()
    }
}
