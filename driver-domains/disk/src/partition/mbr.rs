//! The table of a master boot record: primary partitions only.

use super::{Partition, Partitions, field, on_disk};

const TABLE: usize = 446;
const ENTRY: usize = 16;
const SIGNATURE: usize = 510;
/// Type of the one entry that a disk with a GPT has: such a disk is no MBR disk, even if its GPT is damaged.
const PROTECTIVE: u8 = 0xee;
/// Types of a partition that holds others. These are not offered: their tables are spread over the disk.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// The four primary partitions.
pub fn parse(start: &[u8], sectors: u64, sector_size: u32) -> Option<Partitions> {
    if field::<2>(start, SIGNATURE) != [0x55, 0xaa] {
        return None;
    }
    let mut found = Partitions::new();
    for index in 0..4 {
        let at = TABLE + index * ENTRY;
        let [kind] = field(start, at + 4);
        if kind == PROTECTIVE {
            return None;
        }
        let number = |at| u64::from(u32::from_le_bytes(field(start, at)));
        let Some((first, count)) = on_disk(number(at + 8), number(at + 12), sectors, sector_size) else { continue };
        if kind != 0 && !EXTENDED.contains(&kind) {
            let partition = Partition { number: index as u16 + 1, first, sectors: count, label: Default::default() };
            found.push(partition);
        }
    }
    Some(found)
}
