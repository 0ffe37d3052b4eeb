//! What the boot loader says about the machine, whichever protocol it speaks.
//!
//! Everything is copied before anything is allocated, because loaders leave their structures anywhere in free memory.
//! Nothing here is believed: lengths are checked against what can be reached, overlaps in the memory map are settled in
//! favour of "not RAM", and what does not fit is left out or refused with one line.

pub mod entry;
pub mod multiboot2;
pub mod pvh;
pub mod ranges;

use core::ops::Range;

use heapless::String;

use super::paging::FRAME;
use super::window;
use ranges::Ranges;

/// Addresses that the early page tables reach.
pub const EARLY_END: u64 = 1 << 32;
/// RAM from here on is left alone: frames have 32-bit numbers.
const RAM_END: u64 = 1 << 44;
/// Longest boot line, in bytes, as dom0 gets it.
pub const BOOT_LINE_MAX: usize = 1024;

/// Type of usable memory in both protocols' memory maps (E820).
const RAM: u32 = 1;

/// The result of either protocol.
#[derive(Default)]
pub struct BootInfo {
    /// RAM, in whole frames.
    pub ram: Ranges,
    /// The boot bundle.
    pub bundle: Range<u64>,
    /// The boot line.
    pub line: String<BOOT_LINE_MAX>,
    /// Physical address of the list of ACPI tables (XSDT or RSDT), if the loader knows it.
    pub acpi: Option<u64>,
}

impl BootInfo {
    /// Reads what the loader left at `address`.
    pub fn read(protocol: u32, address: u32) -> Result<BootInfo, &'static str> {
        match protocol {
            entry::PROTOCOL_PVH => pvh::read(address),
            entry::PROTOCOL_MULTIBOOT2 => multiboot2::read(address),
            _ => Err("started by a boot loader that speaks neither PVH nor multiboot2"),
        }
    }

    /// Takes a memory map with entries of `size` bytes, which begin with address, length and type: first all RAM, then
    /// everything that is not.
    fn set_memory(&mut self, map: &[u8], size: usize) -> Result<(), &'static str> {
        let ends = map.chunks_exact(size).filter_map(|entry| {
            let (start, length, kind) = (u64_at(entry, 0)?, u64_at(entry, 8)?, u32_at(entry, 16)?);
            Some((start.min(RAM_END), start.saturating_add(length).min(RAM_END), kind))
        });
        for (start, end, _) in ends.clone().filter(|(_, _, kind)| *kind == RAM) {
            self.ram.add(start.next_multiple_of(FRAME)..end & !(FRAME - 1))?;
        }
        for (start, end, _) in ends.filter(|(_, _, kind)| *kind != RAM) {
            self.ram.remove(start & !(FRAME - 1)..end.next_multiple_of(FRAME))?;
        }
        Ok(())
    }

    fn set_line(&mut self, text: &[u8]) -> Result<(), &'static str> {
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let text = core::str::from_utf8(&text[..end]).map_err(|_| "the boot line is no UTF-8")?;
        self.line = String::try_from(text).map_err(|_| "the boot line is longer than 1024 bytes")?;
        Ok(())
    }

    /// Takes the root pointer (ACPI specification, section 5.2.5.3) if its checksum is right.
    fn set_acpi(&mut self, pointer: &[u8]) {
        let valid = |length| {
            let bytes: Option<&[u8]> = pointer.get(..length);
            bytes.is_some_and(|bytes| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0)
        };
        if pointer.starts_with(b"RSD PTR ") && valid(20) {
            let xsdt = u64_at(pointer, 24).filter(|at| *at != 0 && pointer[15] >= 2 && valid(36));
            let rsdt = u32_at(pointer, 16).filter(|at| *at != 0).map(u64::from);
            self.acpi = xsdt.or(rsdt).or(self.acpi);
        }
    }
}

/// The value of a `key=value` word of the boot line.
pub fn word<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Bytes of low memory, before the core has page tables of its own; cut off at the end of what is mapped.
pub fn early_bytes(address: u64, length: u64) -> &'static [u8] {
    let start = address.min(EARLY_END);
    let length = length.min(EARLY_END - start);
    // SAFETY: the early tables map the low 4 GiB; no domain and no device of the core writes to memory yet, and what the
    // core itself writes (its image, later its tables) is never read through here while it changes.
    unsafe { core::slice::from_raw_parts(window::pointer(microkernel::platform::Phys(start)), length as usize) }
}

/// A little-endian number in `bytes`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// A little-endian number in `bytes`.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
