//! Tables that are right, tables that are damaged, and tables that lie.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const SECTORS: u64 = 10_000;

/// A disk's start with a GPT of these (first, last, name) in sectors of `size`.
fn gpt_disk(size: usize, partitions: &[(u64, u64, &str)]) -> Vec<u8> {
    let mut start = vec![0; TABLE_BYTES];
    let table = 2 * size;
    for (index, (first, last, name)) in partitions.iter().enumerate() {
        let at = table + index * 128;
        start[at] = 7;
        start[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        start[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        for (unit, place) in name.encode_utf16().zip(start[at + 56..at + 128].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let sum = gpt::crc32(&[&start[table..table + 128 * 128]]);
    let header = &mut start[size..size + 92];
    header[..8].copy_from_slice(b"EFI PART");
    for (at, value) in [(12, 92u32), (80, 128), (84, 128), (88, sum)] {
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    header[24..32].copy_from_slice(&1u64.to_le_bytes());
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    let sum = gpt::crc32(&[header]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    start
}

fn mbr_disk(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut start = vec![0; TABLE_BYTES];
    for (index, (kind, first, count)) in entries.iter().enumerate() {
        let at = 446 + index * 16;
        start[at + 4] = *kind;
        start[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        start[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    }
    start[510..512].copy_from_slice(&[0x55, 0xaa]);
    start
}

#[test]
fn crc32_is_that_of_the_standard() {
    assert_eq!(gpt::crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
}

#[test]
fn a_gpt_gives_numbers_places_and_labels() {
    for (size, factor) in [(512, 1), (4096, 8)] {
        let start = gpt_disk(size, &[(40, 99, "web"), (5, 1, "ends before it begins"), (100, 199, "däta")]);
        let found = parse(&start, SECTORS, size as u32);
        let brief: Vec<_> = found.iter().map(|p| (p.number, p.first, p.sectors, p.label.as_str())).collect();
        assert_eq!(brief, [(1, 40 * factor, 60 * factor, "web"), (3, 100 * factor, 100 * factor, "däta")]);
    }
}

#[test]
fn a_damaged_gpt_is_none_and_no_mbr_either() {
    let whole = gpt_disk(512, &[(40, 99, "web")]);
    for at in [512, 512 + 30, 512 + 80, 1024, 1024 + 60] {
        let mut start = whole.clone();
        start[at] ^= 1;
        assert!(parse(&start, SECTORS, 512).is_empty(), "byte {at}");
    }
    let mut start = mbr_disk(&[(0xee, 1, 9999)]);
    start[512..].copy_from_slice(&whole[512..]);
    assert_eq!(parse(&start, SECTORS, 512).len(), 1);
    start[700] ^= 1;
    assert_eq!(parse(&start, SECTORS, 512).len(), 1, "beyond the header");
    start[520] ^= 1;
    assert!(parse(&start, SECTORS, 512).is_empty());
}

#[test]
fn partitions_that_do_not_lie_on_the_disk_are_not_offered() {
    let start = gpt_disk(512, &[(0, 10, "x"), (40, SECTORS, "x"), (40, u64::MAX, "x"), (40, SECTORS - 1, "ok")]);
    assert_eq!(parse(&start, SECTORS, 512).iter().map(|p| p.number).collect::<Vec<_>>(), [4]);
    let start = mbr_disk(&[(0x83, 63, 100), (0x05, 200, 100), (0x83, 9990, 11), (0x0c, 300, 1)]);
    assert_eq!(parse(&start, SECTORS, 512).iter().map(|p| p.number).collect::<Vec<_>>(), [1, 4]);
}

proptest! {
    #[test]
    fn whatever_is_found_lies_on_the_disk(mut start in prop::collection::vec(any::<u8>(), 0..3000), valid: bool, size in 0u32..14) {
        if valid && start.len() > 600 {
            start[510..512].copy_from_slice(&[0x55, 0xaa]);
        }
        for found in parse(&start, SECTORS, 1 << size) {
            prop_assert!(found.sectors > 0 && found.first + found.sectors <= SECTORS);
        }
    }
}
