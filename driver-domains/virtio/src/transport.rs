//! The modern PCI transport (Virtio 1.2, section 4.1): where the registers are, and the initialisation sequence.

/// Access to the registers of a device, by BAR and offset. Reads and writes have the width of their name and happen once.
pub trait Registers {
    /// Reads a byte.
    fn read8(&self, place: Place) -> u8;
    /// Reads 2 bytes.
    fn read16(&self, place: Place) -> u16;
    /// Reads 4 bytes.
    fn read32(&self, place: Place) -> u32;
    /// Writes a byte.
    fn write8(&self, place: Place, value: u8);
    /// Writes 2 bytes.
    fn write16(&self, place: Place, value: u16);
    /// Writes 4 bytes.
    fn write32(&self, place: Place, value: u32);
}

/// A register: BAR and offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the BAR, 0 to 5.
    pub bar: u8,
    /// Offset, in bytes.
    pub offset: u32,
}

impl Place {
    const fn plus(self, bytes: u32) -> Place {
        Place { bar: self.bar, offset: self.offset.saturating_add(bytes) }
    }
}

/// Where the structures of a device lie (Virtio 1.2, section 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structures {
    /// Common configuration.
    pub common: Place,
    /// Notifications.
    pub notify: Place,
    /// Bytes between the notification registers of two queues, as a factor of the queue's notification offset.
    pub notify_multiplier: u32,
    /// Interrupt status.
    pub status: Place,
    /// Configuration of the device type.
    pub device: Place,
}

/// Vendor-specific capability (PCI 3.0, appendix H).
const CAPABILITY_VENDOR: u8 = 0x09;

/// Finds the structures by walking the capability list; `read` reads a byte of configuration space.
pub fn structures(read: impl Fn(u8) -> u8) -> Option<Structures> {
    let word = |at: u8| u32::from_le_bytes(core::array::from_fn(|i| read(at.wrapping_add(i as u8))));
    let [mut common, mut notify, mut status, mut device] = [None; 4];
    let mut multiplier = 0;
    let mut at = read(0x34) & !3;
    // A list cannot be longer than the space has words: a loop in it ends here.
    for _ in 0..48 {
        if at < 0x40 {
            break;
        }
        let (kind, bar) = (read(at.wrapping_add(3)), read(at.wrapping_add(4)));
        if read(at) == CAPABILITY_VENDOR && bar < 6 && read(at.wrapping_add(2)) >= 16 {
            let place = Some(Place { bar, offset: word(at.wrapping_add(8)) });
            match kind {
                1 => common = common.or(place),
                2 if notify.is_none() => {
                    notify = place;
                    multiplier = word(at.wrapping_add(16));
                }
                3 => status = status.or(place),
                4 => device = device.or(place),
                _ => {}
            }
        }
        at = read(at.wrapping_add(1)) & !3;
    }
    Some(Structures {
        common: common?,
        notify: notify?,
        notify_multiplier: multiplier,
        status: status?,
        device: device?,
    })
}

/// Bits of the device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// Feature bits that every device has (section 6).
pub mod feature {
    /// The device follows version 1.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device goes through the IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// In a vector register: none.
const NO_VECTOR: u16 = 0xffff;

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// It did not come out of reset in time.
    Reset,
    /// It does not offer what the driver needs.
    Features {
        /// What is missing.
        missing: u64,
    },
    /// It took its word back about the features.
    FeaturesRefused,
    /// It has no such queue, or a smaller one.
    Queue {
        /// Its number.
        number: u16,
        /// Descriptors it offers.
        offered: u16,
    },
    /// It would not take the interrupt vector.
    Vector {
        /// The vector.
        vector: u16,
    },
}

/// A device behind the modern transport.
#[derive(Debug)]
pub struct Device<R> {
    registers: R,
    structures: Structures,
}

/// Device addresses of the parts of a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueAddresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

impl<R: Registers> Device<R> {
    /// A device with its structures.
    pub const fn new(registers: R, structures: Structures) -> Device<R> {
        Device { registers, structures }
    }

    const fn common(&self, offset: u32) -> Place {
        self.structures.common.plus(offset)
    }

    fn status(&self) -> u8 {
        self.registers.read8(self.common(20))
    }

    fn add_status(&self, bits: u8) {
        self.registers.write8(self.common(20), self.status() | bits);
    }

    /// Asks for a reset; done when [`Device::is_reset`] says so.
    pub fn start_reset(&self) {
        self.registers.write8(self.common(20), 0);
    }

    /// Whether the reset is done: from then on the device touches no memory.
    pub fn is_reset(&self) -> bool {
        self.status() == 0
    }

    /// After the reset: settles the features, `required` and whatever of `wanted` is offered. Gives what both agreed on.
    pub fn negotiate(&self, required: u64, wanted: u64) -> Result<u64, TransportError> {
        if !self.is_reset() {
            return Err(TransportError::Reset);
        }
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let offered = (0..2).fold(0, |bits, half| {
            self.registers.write32(self.common(0), half);
            bits | (self.registers.read32(self.common(4)) as u64) << (32 * half)
        });
        let required = required | feature::VERSION_1;
        if offered & required != required {
            return Err(TransportError::Features { missing: required & !offered });
        }
        let agreed = offered & (required | wanted | feature::ACCESS_PLATFORM);
        for half in 0..2 {
            self.registers.write32(self.common(8), half);
            self.registers.write32(self.common(12), (agreed >> (32 * half)) as u32);
        }
        self.add_status(status::FEATURES_OK);
        if self.status() & status::FEATURES_OK == 0 {
            return Err(TransportError::FeaturesRefused);
        }
        Ok(agreed)
    }

    /// Gives a queue its memory, size and interrupt vector. Gives the place to be written with the queue's number to notify.
    pub fn set_queue(
        &self,
        number: u16,
        size: u16,
        vector: Option<u16>,
        addresses: QueueAddresses,
    ) -> Result<Place, TransportError> {
        let r = &self.registers;
        r.write16(self.common(22), number);
        let offered = r.read16(self.common(24));
        if offered < size {
            return Err(TransportError::Queue { number, offered });
        }
        r.write16(self.common(24), size);
        let vector = vector.unwrap_or(NO_VECTOR);
        r.write16(self.common(26), vector);
        if r.read16(self.common(26)) != vector {
            return Err(TransportError::Vector { vector });
        }
        for (offset, address) in [(32, addresses.descriptors), (40, addresses.available), (48, addresses.used)] {
            r.write32(self.common(offset), address as u32);
            r.write32(self.common(offset + 4), (address >> 32) as u32);
        }
        let notify_offset = r.read16(self.common(30)) as u32;
        r.write16(self.common(28), 1);
        Ok(self.structures.notify.plus(notify_offset.saturating_mul(self.structures.notify_multiplier)))
    }

    /// Starts the device.
    pub fn start(&self) {
        self.add_status(status::DRIVER_OK);
    }

    /// Whether the device asks for a reset.
    pub fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Notifies the device of work in a queue.
    pub fn notify(&self, place: Place, number: u16) {
        self.registers.write16(place, number);
    }

    /// Reads 8 bytes of the device's configuration, again until two readings agree on its generation.
    pub fn config64(&self, offset: u32) -> u64 {
        let place = self.structures.device.plus(offset);
        let mut value = 0;
        for _ in 0..4 {
            let before = self.registers.read8(self.common(21));
            value = self.registers.read32(place) as u64 | (self.registers.read32(place.plus(4)) as u64) << 32;
            if self.registers.read8(self.common(21)) == before {
                break;
            }
        }
        value
    }

    /// Reads 4 bytes of the device's configuration.
    pub fn config32(&self, offset: u32) -> u32 {
        self.registers.read32(self.structures.device.plus(offset))
    }

    /// Reads a byte of the device's configuration.
    pub fn config8(&self, offset: u32) -> u8 {
        self.registers.read8(self.structures.device.plus(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(capabilities: &[(u8, u8, u8, u32)]) -> [u8; 256] {
        let mut space = [0; 256];
        let mut link = 0x34;
        for (index, &(kind, bar, length, offset)) in capabilities.iter().enumerate() {
            let at = 0x40 + index * 20;
            space[link] = at as u8;
            link = at + 1;
            space[at] = CAPABILITY_VENDOR;
            (space[at + 2], space[at + 3], space[at + 4]) = (length, kind, bar);
            space[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            space[at + 16] = 4;
        }
        space
    }

    const WHOLE: [(u8, u8, u8, u32); 4] = [(1, 4, 16, 0), (2, 4, 20, 0x3000), (3, 4, 16, 0x1000), (4, 4, 16, 0x2000)];

    #[test]
    fn structures_are_found_in_the_capability_list() {
        let space = space(&WHOLE);
        let found = structures(|at| space[at as usize]).unwrap();
        assert_eq!((found.common.offset, found.notify.offset, found.notify_multiplier), (0, 0x3000, 4));
        assert_eq!((found.device.bar, found.device.offset), (4, 0x2000));
    }

    #[test]
    fn a_list_that_loops_or_lacks_a_structure_ends() {
        let mut looped = space(&WHOLE[..2]);
        looped[0x41] = 0x40;
        assert_eq!(structures(|at| looped[at as usize]), None);
        assert_eq!(structures(|_| 0xff), None);
        assert_eq!(structures(|_| 0), None);
    }
}
