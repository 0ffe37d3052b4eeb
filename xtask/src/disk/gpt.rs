//! Partition tables: GPT with a protective MBR, as firmware, boot loader and disk domain read them.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gptman::{GPT, GPTPartitionEntry};

use super::{Contents, Fingerprint, MIB, SECTOR};

/// What a partition holds, to those who look at its type only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GRUB's second stage, for machines with a BIOS.
    BiosBoot,
    /// What UEFI boots from.
    EfiSystem,
    /// A file system that everybody reads.
    Data,
    /// Anything else.
    Linux,
}

impl Kind {
    /// The type's GUID, in the mixed byte order that GPT stores it in.
    fn guid(self) -> [u8; 16] {
        match self {
            // 21686148-6449-6e6f-744e-656564454649
            Kind::BiosBoot => *b"Hah!IdontNeedEFI",
            // c12a7328-f81f-11d2-ba4b-00a0c93ec93b
            Kind::EfiSystem => 0x28732ac1_1ff8_d211_ba4b_00a0c93ec93b_u128.to_be_bytes(),
            // ebd0a0a2-b9e5-4433-87c0-68b6b72699c7
            Kind::Data => 0xa2a0d0eb_e5b9_3344_87c0_68b6b72699c7_u128.to_be_bytes(),
            // 0fc63daf-8483-4772-8e79-3d69d8477de4
            Kind::Linux => 0xaf3dc60f_8384_7247_8e79_3d69d8477de4_u128.to_be_bytes(),
        }
    }
}

/// A partition to make.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its name in the table.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its size: whole MiB.
    pub size: u64,
    /// What it begins with; zeros follow.
    pub contents: Vec<u8>,
}

/// Offset of each partition: one after the other, from the first MiB on, which firmware and flash memory like best.
pub fn offsets(partitions: &[Partition]) -> Vec<u64> {
    let place = |end: &mut u64, partition: &Partition| {
        let start = *end;
        *end += partition.size;
        Some(start)
    };
    partitions.iter().scan(MIB, place).collect()
}

/// A disk with these partitions, and with `boot_code` in its first sector.
pub fn disk(print: Fingerprint, partitions: &[Partition], boot_code: Option<&[u8]>) -> Result<Contents> {
    let offsets = offsets(partitions);
    // The last MiB is for the second copy of the table.
    let size = MIB + partitions.iter().map(|partition| partition.size).sum::<u64>() + MIB;
    // The library writes both copies into something as large as the disk. Only the first and last MiB are of interest.
    let mut whole = Cursor::new(vec![0; usize::try_from(size)?]);
    let mut table = GPT::new_from(&mut whole, SECTOR, print).context("a partition table")?;
    for ((number, partition), &offset) in (1..).zip(partitions).zip(&offsets) {
        if !partition.size.is_multiple_of(MIB) || partition.contents.len() as u64 > partition.size {
            bail!("the partition {} does not hold its {} bytes", partition.name, partition.contents.len());
        }
        let mut unique = print;
        unique[15] ^= number as u8;
        table[number] = GPTPartitionEntry {
            partition_type_guid: partition.kind.guid(),
            unique_partition_guid: unique,
            starting_lba: offset / SECTOR,
            ending_lba: (offset + partition.size) / SECTOR - 1,
            attribute_bits: 0,
            partition_name: partition.name.into(),
        };
    }
    match boot_code {
        Some(_) => GPT::write_bootable_protective_mbr_into(&mut whole, SECTOR),
        None => GPT::write_protective_mbr_into(&mut whole, SECTOR),
    }
    .context("a partition table")?;
    table.write_into(&mut whole).context("a partition table")?;
    let mut whole = whole.into_inner();
    if let Some(code) = boot_code {
        // The rest of the sector is the disk's signature and the MBR's partition table.
        let length = code.len().min(BOOT_CODE_MAX);
        whole[..length].copy_from_slice(&code[..length]);
    }
    let last = whole.split_off(whole.len() - MIB as usize);
    whole.truncate(MIB as usize);
    let mut pieces = vec![(0, whole)];
    pieces.extend(partitions.iter().zip(offsets).map(|(partition, offset)| (offset, partition.contents.clone())));
    pieces.push((size - MIB, last));
    Ok(Contents { pieces, size })
}

/// Bytes of the first sector that are code.
const BOOT_CODE_MAX: usize = 440;

/// The fingerprint that a disk image carries; `None` if it has no intact table.
pub fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let mut file = File::open(path).ok()?;
    let table = GPT::read_from(&mut file, SECTOR).ok()?;
    Some(table.header.disk_guid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(name: &'static str, size: u64, contents: &[u8]) -> Partition {
        Partition { name, kind: Kind::Data, size, contents: contents.to_vec() }
    }

    fn bytes(contents: &Contents) -> Vec<u8> {
        let mut bytes = vec![0; contents.size as usize];
        for (offset, piece) in &contents.pieces {
            bytes[*offset as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    #[test]
    fn both_copies_of_the_table_name_every_partition() {
        let partitions = [partition("one", MIB, b"first"), partition("two", 2 * MIB, b"second")];
        let disk = bytes(&disk([9; 16], &partitions, Some(&[0xeb; 512])).unwrap());
        for broken in [false, true] {
            let mut disk = disk.clone();
            if broken {
                disk[SECTOR as usize..2 * SECTOR as usize].fill(0);
            }
            let table = GPT::read_from(&mut Cursor::new(&disk), SECTOR).unwrap();
            assert_eq!((table.header.disk_guid, table.is_backup()), ([9; 16], broken));
            let used: Vec<_> = table.iter().filter(|(_, entry)| entry.is_used()).collect();
            let found: Vec<_> =
                used.iter().map(|(_, entry)| (entry.partition_name.as_str(), entry.starting_lba)).collect();
            assert_eq!(found, [("one", 2048), ("two", 4096)]);
            assert_ne!(used[0].1.unique_partition_guid, used[1].1.unique_partition_guid);
        }
        assert_eq!(&disk[MIB as usize..][..5], b"first");
        assert_eq!(&disk[2 * MIB as usize..][..6], b"second");
        assert_eq!(
            (disk[439], disk[440], &disk[446..451], &disk[510..512]),
            (0xeb, 0, &[0x80, 0, 2, 0, 0xee][..], &[0x55, 0xaa][..])
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(disk([0; 16], &[partition("odd", MIB + 1, b"")], None).is_err());
        assert!(disk([0; 16], &[partition("full", MIB, &vec![1; MIB as usize + 1])], None).is_err());
    }

    #[test]
    fn types_are_stored_as_the_specification_says() {
        // UEFI specification 2.10, table 5.7, for the type that it defines itself.
        assert_eq!(Kind::EfiSystem.guid()[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(Kind::EfiSystem.guid()[8..], [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    }
}
