//! What a disk is divided into.
//!
//! The table comes from the disk, which is written by guests: nothing in it is believed that does not lie on the disk. A disk
//! without a table, or with a damaged one, has no partitions.

mod gpt;
mod mbr;

use alloc::vec::Vec;

use heapless::String;
use protocol::connection::TARGET_MAX;

/// Most partitions of one disk; what is beyond is not offered. The number that GPT tables usually have room for.
pub const PARTITIONS_MAX: usize = 128;
/// Bytes at the start of a disk that hold a table: headers and 16 KiB of entries, with sectors of up to 4096 bytes.
pub const TABLE_BYTES: usize = 32 * 1024;

/// A partition, in sectors of [`protocol::ring::block::SECTOR`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u16,
    /// First sector.
    pub first: u64,
    /// How many.
    pub sectors: u64,
    /// Its label; empty if it has none.
    pub label: String<TARGET_MAX>,
}

/// The partitions of a disk, at most [`PARTITIONS_MAX`].
pub type Partitions = Vec<Partition>;

/// Reads the table in `start`, the first bytes of a disk of `sectors` sectors whose own sectors have `sector_size` bytes.
pub fn parse(start: &[u8], sectors: u64, sector_size: u32) -> Partitions {
    gpt::parse(start, sectors, sector_size).or_else(|| mbr::parse(start, sectors, sector_size)).unwrap_or_default()
}

/// A field of a table; zeros beyond the end of what was read.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(found);
    }
    out
}

/// First sector and number of sectors in units of 512 bytes, if the partition is not empty and lies on the disk.
fn on_disk(first: u64, count: u64, sectors: u64, sector_size: u32) -> Option<(u64, u64)> {
    let factor = u64::from(sector_size) / protocol::ring::block::SECTOR;
    let (first, count) = (first.checked_mul(factor)?, count.checked_mul(factor)?);
    (first > 0 && count > 0 && first.checked_add(count)? <= sectors).then_some((first, count))
}

#[cfg(test)]
mod tests;
