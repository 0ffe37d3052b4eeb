//! Hardware that the domain was given: I/O ports and interrupt lines here, PCI devices in the modules below.

mod dma;
mod mmio;
pub mod pci;

pub use dma::DmaBuffer;
pub use mmio::Mmio;
pub use pci::{Msi, PciDevice};

use protocol::error::Result;
use protocol::event::Port;
use protocol::handle::Handle;

use crate::cpu;
use crate::event::Channel;
use crate::hypercall::raw;

/// A range of I/O ports. Offsets beyond it panic.
#[derive(Debug)]
pub struct IoPorts {
    first: u16,
    count: u16,
}

impl IoPorts {
    /// Makes the ports behind `handle` usable.
    pub fn enable(handle: Handle) -> Result<IoPorts> {
        // SAFETY: no effect on memory.
        let range = unsafe { raw::ioports_enable(handle.0.into()) }?;
        Ok(IoPorts { first: range as u16, count: (range >> 16) as u16 })
    }

    /// Number of ports.
    pub fn count(&self) -> u16 {
        self.count
    }

    fn port(&self, offset: u16, width: u16) -> u16 {
        assert!(offset < self.count && self.count - offset >= width, "I/O port outside the range");
        self.first + offset
    }

    /// Reads a byte.
    pub fn read8(&self, offset: u16) -> u8 {
        // SAFETY: the domain was given the port. Who gave it decided that the device reaches no memory by it.
        unsafe { cpu::in8(self.port(offset, 1)) }
    }

    /// Writes a byte.
    pub fn write8(&self, offset: u16, value: u8) {
        // SAFETY: as in `read8`.
        unsafe { cpu::out8(self.port(offset, 1), value) }
    }

    /// Reads a 16-bit word.
    pub fn read16(&self, offset: u16) -> u16 {
        // SAFETY: as in `read8`.
        unsafe { cpu::in16(self.port(offset, 2)) }
    }

    /// Writes a 16-bit word.
    pub fn write16(&self, offset: u16, value: u16) {
        // SAFETY: as in `read8`.
        unsafe { cpu::out16(self.port(offset, 2), value) }
    }

    /// Reads a 32-bit word.
    pub fn read32(&self, offset: u16) -> u32 {
        // SAFETY: as in `read8`.
        unsafe { cpu::in32(self.port(offset, 4)) }
    }

    /// Writes a 32-bit word.
    pub fn write32(&self, offset: u16, value: u32) {
        // SAFETY: as in `read8`.
        unsafe { cpu::out32(self.port(offset, 4), value) }
    }
}

/// An interrupt line.
#[derive(Debug)]
pub struct Interrupt(Channel);

impl Interrupt {
    /// Binds the line behind `handle` and unmasks it.
    pub fn bind(handle: Handle) -> Result<Interrupt> {
        // SAFETY: no effect on memory.
        let port = unsafe { raw::interrupt_bind(handle.0.into()) }?;
        Ok(Interrupt(Channel::new(Port(port as u32))))
    }

    /// Waits for it to fire. The line stays masked from then until [`Interrupt::unmask`].
    pub async fn wait(&self) {
        self.0.wait().await;
    }

    /// Whether it fired since this, or a wait, was asked last; then the line is masked.
    pub fn fired(&self) -> bool {
        self.0.fired()
    }

    /// Lets the line fire again, once the device was served.
    pub fn unmask(&self) -> Result<()> {
        self.0.unmask()
    }
}
