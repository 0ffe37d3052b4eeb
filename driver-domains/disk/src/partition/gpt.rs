//! The GUID partition table (UEFI 2.10, section 5.3). Only the primary table is read.

use heapless::String;
use protocol::connection::TARGET_MAX;

use super::{PARTITIONS_MAX, Partition, Partitions, field, on_disk};

/// Smallest header, in bytes.
const HEADER: usize = 92;
/// Smallest entry, in bytes.
const ENTRY: usize = 128;
/// Where the name is in an entry, in UTF-16, and how many units it has.
const NAME: usize = 56;
const NAME_UNITS: usize = 36;

/// `None` if there is no valid table.
pub fn parse(start: &[u8], sectors: u64, sector_size: u32) -> Option<Partitions> {
    let size = sector_size as usize;
    let header = start.get(size..size.checked_mul(2)?)?;
    let word = |at| u32::from_le_bytes(field(header, at));
    let length = word(12) as usize;
    if field::<8>(header, 0) != *b"EFI PART" || !(HEADER..=size).contains(&length) {
        return None;
    }
    let mut copy = [0; HEADER];
    copy.copy_from_slice(header.get(..HEADER)?);
    copy[16..20].fill(0);
    if !crc32(&[&copy, header.get(HEADER..length)?]).eq(&word(16)) || u64::from_le_bytes(field(header, 24)) != 1 {
        return None;
    }
    let (count, entry) = (word(80) as usize, word(84) as usize);
    let at = usize::try_from(u64::from_le_bytes(field(header, 72))).ok()?.checked_mul(size)?;
    if entry < ENTRY || !entry.is_power_of_two() {
        return None;
    }
    let table = start.get(at..at.checked_add(count.checked_mul(entry)?)?)?;
    if crc32(&[table]) != word(88) {
        return None;
    }
    let mut found = Partitions::new();
    for (index, raw) in table.chunks_exact(entry).enumerate() {
        let number = |at| u64::from_le_bytes(field(raw, at));
        let (first, last) = (number(32), number(40));
        let Some(sectors_of_it) = last.checked_sub(first).and_then(|count| count.checked_add(1)) else { continue };
        let used = raw[..16].iter().any(|&byte| byte != 0);
        if let Some((first, count)) = on_disk(first, sectors_of_it, sectors, sector_size)
            && used
            && let Ok(number) = u16::try_from(index + 1)
        {
            let partition = Partition { number, first, sectors: count, label: label(raw) };
            found.push(partition);
            if found.len() == PARTITIONS_MAX {
                break;
            }
        }
    }
    Some(found)
}

/// The name of an entry; characters that do not fit are cut, control characters are left out.
fn label(entry: &[u8]) -> String<TARGET_MAX> {
    let units = (0..NAME_UNITS).map(|index| u16::from_le_bytes(field(entry, NAME + index * 2)));
    let mut out = String::new();
    for character in char::decode_utf16(units.take_while(|&unit| unit != 0)).flatten() {
        if !character.is_control() && out.push(character).is_err() {
            break;
        }
    }
    out
}

/// CRC-32 (ISO 3309) of the parts together.
pub(super) fn crc32(parts: &[&[u8]]) -> u32 {
    !parts.iter().flat_map(|part| part.iter()).fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}
