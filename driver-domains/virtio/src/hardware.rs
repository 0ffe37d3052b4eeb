//! A virtio device that the domain was given: from its handle to the moment after its reset.
//!
//! The order is that of recovery: a device may still hold addresses that a former driver gave it, so it may reach memory only
//! once its reset is confirmed.

use core::fmt;
use core::time::Duration;

use protocol::error::Error;
use protocol::handle::Handle;
use unikernel::device::{DmaBuffer, Mmio, Msi, PciDevice};
use unikernel::time;

use crate::queue::Dma;
use crate::transport::{Device, Place, Registers, structures};

/// Longest time that a reset may take; what the specification gives no bound for takes microseconds in emulators and some
/// milliseconds in hardware.
const RESET_TIME: Duration = Duration::from_secs(1);
/// Time between two looks at a device that is being reset.
const RESET_STEP: Duration = Duration::from_micros(100);

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The core refused something.
    Refused(&'static str, Error),
    /// It is no modern virtio device.
    NotVirtio,
    /// It does not come out of its reset.
    Reset,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Refused(what, error) => write!(f, "{what}: {error}"),
            Problem::NotVirtio => f.write_str("it has none of the structures of a modern virtio device"),
            Problem::Reset => write!(f, "its reset takes longer than {} ms", RESET_TIME.as_millis()),
        }
    }
}

/// The memory of the device's BARs. Registers outside them, which only the device itself can have named, read as ones.
#[derive(Debug, Default)]
pub struct Bars([Option<Mmio>; 6]);

impl Bars {
    fn at(&self, place: Place, width: usize) -> Option<(&Mmio, u64)> {
        let bar = self.0.get(usize::from(place.bar))?.as_ref()?;
        bar.contains(place.offset.into(), width).then_some((bar, place.offset.into()))
    }
}

macro_rules! accesses {
    ($($read:ident $write:ident $type:ty;)*) => {$(
        fn $read(&self, place: Place) -> $type {
            self.at(place, size_of::<$type>()).map_or(<$type>::MAX, |(bar, offset)| bar.$read(offset))
        }

        fn $write(&self, place: Place, value: $type) {
            if let Some((bar, offset)) = self.at(place, size_of::<$type>()) {
                bar.$write(offset, value);
            }
        }
    )*};
}

impl Registers for Bars {
    accesses! {
        read8 write8 u8;
        read16 write16 u16;
        read32 write32 u32;
    }
}

impl Dma for DmaBuffer {
    fn load_u16(&self, offset: usize) -> u16 {
        DmaBuffer::load_u16(self, offset)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        DmaBuffer::store_u16(self, offset, value);
    }

    fn device_address(&self, offset: usize) -> u64 {
        DmaBuffer::device_address(self, offset)
    }
}

/// A device that was reset and may reach memory.
#[derive(Debug)]
pub struct Opened {
    /// Its registers.
    pub device: Device<Bars>,
    /// Memory for it.
    pub memory: DmaBuffer,
    /// The interrupt that its vector 0 raises.
    pub interrupt: Msi,
}

/// Opens the device behind `handle`, resets it, and gets `pages` pages of memory for it.
pub async fn open(handle: Handle, pages: usize) -> Result<Opened, Problem> {
    let refused = |what| move |error| Problem::Refused(what, error);
    let pci = PciDevice::open(handle).map_err(refused("it cannot be opened"))?;
    let read = |at: u8| pci.config_read8(at.into()).unwrap_or(u8::MAX);
    let structures = structures(read).ok_or(Problem::NotVirtio)?;
    let mut bars = Bars::default();
    for place in [structures.common, structures.notify, structures.status, structures.device] {
        let bar = bars.0.get_mut(usize::from(place.bar)).ok_or(Problem::NotVirtio)?;
        if bar.is_none() {
            *bar = Some(pci.map_bar(place.bar).map_err(refused("its registers cannot be mapped"))?);
        }
    }
    let device = Device::new(bars, structures);
    device.start_reset();
    let deadline = time::after(RESET_TIME);
    while !device.is_reset() {
        if time::now() > deadline {
            return Err(Problem::Reset);
        }
        time::sleep(RESET_STEP).await;
    }
    pci.enable_dma().map_err(refused("it may not reach memory"))?;
    let memory = DmaBuffer::new(&pci, pages).map_err(refused("there is no memory for it"))?;
    let interrupt = pci.interrupt(0).map_err(refused("its interrupt cannot be had"))?;
    Ok(Opened { device, memory, interrupt })
}
