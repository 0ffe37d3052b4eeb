//! Where things lie in the guest's physical memory.
//!
//! RAM starts at 0 and goes on at 4 GiB what does not fit below the hole. What the guest is told of its machine lies in low RAM,
//! where its early page tables reach; tables that stay and ring pages lie in the hole, outside RAM (as with Xen).

use alloc::vec::Vec;

use protocol::arguments::{GuestBoot, LOW_MEMORY_END};
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

/// What the guest is told lies from here on, if its kernel leaves the RAM below [`BASE_RAM_END`] alone; else behind the kernel.
pub const TOLD: u64 = 0x6000;
/// Bytes of what it is told.
pub const TOLD_SIZE: u64 = 0x3000;
/// The list with the RAM disk, behind the structure that the kernel's entry code gets; an offset, like the next two.
pub const MODULES: u64 = 0x40;
/// The map of the memory.
pub const MEMORY_MAP: u64 = 0x1000;
/// The command line.
pub const COMMAND_LINE: u64 = 0x2000;
/// End of the RAM below the place where a PC has its video memory and firmware. The guest finds zeros there.
pub const BASE_RAM_END: u64 = 0xa_0000;
/// First address where a kernel can be loaded that does not lie below [`BASE_RAM_END`].
pub const KERNEL_START: u64 = 0x10_0000;
/// RAM from here on.
pub const HIGH_RAM: u64 = 1 << 32;
/// The ACPI tables, next to the special pages: one page table leads to both.
pub const ACPI: u64 = SPECIAL - ACPI_SIZE;
/// Bytes set aside for them.
pub const ACPI_SIZE: u64 = 0x1_0000;
/// Pages that guest and monitor share: Xen's "special pages".
pub const SPECIAL: u64 = 0xfeff_8000;
/// Bytes of them.
pub const SPECIAL_SIZE: u64 = 8 * PAGE_SIZE;
/// Frame of the ring to the store.
pub const STORE_FRAME: u64 = (SPECIAL >> PAGE_SHIFT) + 4;
/// Frame of the console ring.
pub const CONSOLE_FRAME: u64 = (SPECIAL >> PAGE_SHIFT) + 7;

/// The guest's RAM: ranges of bytes, start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// End of what lies below the hole.
    pub low_end: u64,
    /// End of what lies above it; [`HIGH_RAM`] if there is none.
    pub high_end: u64,
}

impl Ram {
    /// For a guest of this size.
    pub fn new(boot: &GuestBoot) -> Ram {
        let bytes = boot.max_pages.max(boot.memory_pages).saturating_mul(PAGE_SIZE);
        Ram {
            low_end: bytes.min(LOW_MEMORY_END),
            high_end: HIGH_RAM.saturating_add(bytes.saturating_sub(LOW_MEMORY_END)),
        }
    }

    /// Whether a frame is RAM.
    pub fn holds_frame(&self, frame: u64) -> bool {
        frame < self.low_end >> PAGE_SHIFT || (HIGH_RAM >> PAGE_SHIFT..self.high_end >> PAGE_SHIFT).contains(&frame)
    }

    /// The ranges of frames, the first and their number.
    pub fn frames(&self) -> Vec<(u64, u64)> {
        let mut ranges = Vec::from([(0, self.low_end >> PAGE_SHIFT)]);
        if self.high_end > HIGH_RAM {
            ranges.push((HIGH_RAM >> PAGE_SHIFT, (self.high_end - HIGH_RAM) >> PAGE_SHIFT));
        }
        ranges
    }

    /// The map of the memory: address, bytes and type (1 RAM, 2 reserved, 4 ACPI NVS).
    pub fn map(&self) -> Vec<(u64, u64, u32)> {
        let mut map = Vec::from([
            (0, BASE_RAM_END, 1),
            (KERNEL_START, self.low_end.saturating_sub(KERNEL_START), 1),
            (ACPI, ACPI_SIZE, 4),
            (SPECIAL, SPECIAL_SIZE, 2),
        ]);
        if self.high_end > HIGH_RAM {
            map.push((HIGH_RAM, self.high_end - HIGH_RAM, 1));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_on_above_the_hole() {
        let ram = |pages| Ram::new(&GuestBoot { memory_pages: pages, ..GuestBoot::default() });
        assert_eq!(ram(0x1_0000), Ram { low_end: 0x1000_0000, high_end: HIGH_RAM });
        assert_eq!(ram(0x1_0000).frames(), [(0, 0x1_0000)]);
        let large = ram(0x10_0000);
        assert_eq!(large, Ram { low_end: LOW_MEMORY_END, high_end: HIGH_RAM + (1 << 30) });
        assert_eq!(large.frames(), [(0, 0xc_0000), (0x10_0000, 0x4_0000)]);
        assert!(large.holds_frame(0xb_ffff) && !large.holds_frame(0xc_0000));
        assert!(large.holds_frame(0x13_ffff) && !large.holds_frame(0x14_0000));
        let total: u64 = large.map().iter().filter(|entry| entry.2 == 1).map(|entry| entry.1).sum();
        assert_eq!(total, (1 << 32) - (KERNEL_START - BASE_RAM_END));
        ram(u64::MAX);
    }
}
