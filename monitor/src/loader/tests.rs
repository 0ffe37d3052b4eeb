//! Kernels made up on the spot.

use std::vec::Vec;

use proptest::prelude::*;
use protocol::arguments::{GuestBoot, GuestFile};
use unikernel::vm::GuestMemory;
use unikernel::vm::memory::LARGE_PAGE;

use super::*;
use crate::layout::TOLD;

const PAGES: u64 = 2048;
const FILE: u64 = 0x40_0000;

/// An ELF file with a segment of `body` and 0x3000 bytes more at `address`, and a note.
fn elf(class64: bool, address: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let word = |out: &mut Vec<u8>, value: u64| match class64 {
        true => out.extend(value.to_le_bytes()),
        false => out.extend((value as u32).to_le_bytes()),
    };
    out.extend([0x7f, b'E', b'L', b'F', 1 + u8::from(class64), 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([2, 0, if class64 { 62 } else { 3 }, 0, 1, 0, 0, 0]);
    let (head, entry) = if class64 { (64, 56) } else { (52, 32) };
    word(&mut out, 0);
    word(&mut out, head);
    word(&mut out, 0);
    out.extend([0, 0, 0, 0, head as u8, 0, entry, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut note = Vec::new();
    // Another owner's note of the same number comes first.
    for (owner, value) in [(*b"GNU\0", 7u32), (*b"Xen\0", 0x20_0040)] {
        note.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        note.extend(owner);
        note.extend(value.to_le_bytes());
    }
    let start = head + 2 * u64::from(entry);
    let ends = [
        (1, start, address, body.len() as u64, body.len() as u64 + 0x3000),
        (4, start + body.len() as u64, 0, note.len() as u64, 0),
    ];
    for (kind, offset, address, bytes, memory) in ends {
        out.extend(u32::to_le_bytes(kind));
        match class64 {
            true => {
                out.extend([0; 4]);
                [offset, address, address, bytes, memory, 4].iter().for_each(|&value| word(&mut out, value));
            }
            false => {
                [offset, address, address, bytes, memory, 0, 4].iter().for_each(|&value| word(&mut out, value));
            }
        }
    }
    assert_eq!(out.len() as u64, start);
    out.extend(body);
    out.extend(note);
    out
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = std::vec![0; 1024];
    out[0x1f1] = 1;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::from([2, 0x21, 0x4c, 0x18]);
    for block in data.chunks(8 << 20) {
        let bytes = lz4_flex::block::compress(block);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }
    out.extend((data.len() as u32).to_le_bytes());
    out
}

fn gzip(data: &[u8]) -> Vec<u8> {
    // With a file name, which the loader has to skip.
    let mut out = Vec::from([0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3, b'v', 0]);
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend([0; 8]);
    out
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn xz(data: &[u8]) -> Vec<u8> {
    use lzma_rust2::Write;
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    writer.write_all(data).unwrap();
    [writer.finish().unwrap().as_slice(), &(data.len() as u32).to_le_bytes()].concat()
}

fn try_load(file: &[u8]) -> (GuestMemory, Result<Kernel, LoadError>) {
    let mut memory = GuestMemory::take(&[(0, PAGES)]).unwrap();
    memory.populate(FILE >> 12, (file.len() as u64).div_ceil(4096)).unwrap();
    memory.write(FILE, file).unwrap();
    let kernel = GuestFile { address: FILE, length: file.len() as u64 };
    let ramdisk = GuestFile { address: (PAGES << 12) - 4096, length: 100 };
    let entry = load(&mut memory, &GuestBoot { memory_pages: PAGES, max_pages: PAGES, kernel, ramdisk, start_utc: 0 });
    (memory, entry)
}

fn body(length: usize) -> Vec<u8> {
    // Repetitive, but not only.
    (0..length).map(|at| (at / 7 % 251 * (at % 13) + at / 4093) as u8).collect()
}

fn assert_loads(file: &[u8], body: &[u8]) {
    let (memory, entry) = try_load(file);
    assert_eq!(entry.map(|kernel| kernel.entry), Ok(0x20_0040));
    let mut out = std::vec![0; body.len()];
    memory.read(0x20_0000, &mut out).unwrap();
    assert!(out == body);
    let pages = |bytes: usize| bytes.div_ceil(4096) as u64;
    let large = pages(body.len()).next_multiple_of(LARGE_PAGE);
    assert_eq!(memory.count(), pages(file.len()) + large, "the rest is left for the decoder");
    let mut old = std::vec![1; file.len()];
    memory.read(FILE, &mut old).unwrap();
    assert!(old.iter().all(|&byte| byte == 0), "the file's memory is the guest's now");
}

#[test]
fn kernels_load_in_every_form() {
    let body = body(500_000);
    for class64 in [true, false] {
        let file = elf(class64, 0x20_0000, &body);
        assert_loads(&file, &body);
        assert_eq!(try_load(&file).1.map(|kernel| kernel.narrow), Ok(!class64));
    }
    let plain = elf(true, 0x20_0000, &body);
    for compress in [lz4, gzip, zstd, xz] {
        assert_loads(&bzimage(&compress(&plain)), &body);
    }
}

#[test]
fn an_entry_point_is_found_in_sections_where_no_segment_has_it() {
    let body = body(10_000);
    for class64 in [true, false] {
        let mut file = elf(class64, 0x20_0000, &body);
        // The second segment is something else now, and a table of sections follows: none, and that of the notes.
        let (at, size) = if class64 { (64 + 56, 64) } else { (52 + 32, 40) };
        let word = |file: &[u8], at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
        let notes = word(&file, at + if class64 { 8 } else { 4 });
        file[at] = 0;
        assert_eq!(try_load(&file).1, Err(LoadError::NoEntry));
        let (table, length) = (file.len() as u32, file.len() as u32 - notes);
        let mut section = std::vec![0u8; 2 * size];
        let mut put = |at: usize, value: u32| section[size + at..][..4].copy_from_slice(&value.to_le_bytes());
        put(4, 7);
        let [offset, bytes, align] = if class64 { [24, 32, 48] } else { [16, 20, 32] };
        [(offset, notes), (bytes, length), (align, 4)].into_iter().for_each(|(at, value)| put(at, value));
        file.extend(section);
        let [start, count] = if class64 { [40, 58] } else { [32, 46] };
        file[start..start + 4].copy_from_slice(&table.to_le_bytes());
        file[count..count + 4].copy_from_slice(&[size as u8, 0, 2, 0]);
        assert_eq!(try_load(&file).1.map(|kernel| kernel.entry), Ok(0x20_0040));
        file[start..start + 4].copy_from_slice(&(table + 1).to_le_bytes());
        assert_eq!(try_load(&file).1, Err(LoadError::NoEntry), "the table ends behind the file");
    }
}

#[test]
fn what_a_kernel_is_told_lies_behind_it_if_it_lies_in_base_memory() {
    let body = body(10_000);
    let told = |address| try_load(&elf(false, address, &body)).1.map(|kernel| kernel.told);
    assert_eq!(told(0x20_0000), Ok(TOLD));
    assert_eq!((told(0), told(0x8_0000)), (Ok(0x6000), Ok(0x8_6000)), "behind the zeros that it ends with");
    let (memory, _) = try_load(&elf(false, 0, &body));
    let mut placed = std::vec![0; body.len()];
    memory.read(0, &mut placed).unwrap();
    assert!(placed == body);
}

#[test]
fn what_cannot_be_loaded_is_said() {
    let body = body(10_000);
    let error = |file: &[u8]| try_load(file).1.unwrap_err();
    assert_eq!(error(&[0; 100]), LoadError::NoKernel);
    assert_eq!(error(&[0; 1000]), LoadError::NoKernel);
    assert_eq!(error(&bzimage(&[0xfd, b'7', b'z', b'X', b'Z', 0])), LoadError::Damaged);
    assert_eq!(error(&bzimage(b"BZh91")), LoadError::Compression("BZIP2"));
    assert_eq!(error(&bzimage(b"nothing known")), LoadError::NoKernel);
    assert!(matches!(error(&elf(true, 0x3f_e000, &body)), LoadError::NoRoom { .. }), "over its own file");
    for start in [0x9_8000, 0x9_f000, 0xb_0000, 0xf_f000] {
        assert!(matches!(error(&elf(true, start, &body)), LoadError::NoRoom { .. }), "{start:#x}");
    }
    assert!(matches!(error(&elf(true, u64::MAX - 5, &body)), LoadError::Damaged));
    let mut file = elf(true, 0x20_0000, &body);
    file.truncate(file.len() - 1);
    assert_eq!(error(&file), LoadError::Truncated);
    let whole = lz4(&elf(true, 0x20_0000, &body));
    assert!(try_load(&bzimage(&whole[..whole.len() / 2])).1.is_err());
    let mut memory = GuestMemory::take(&[(0, PAGES)]).unwrap();
    memory.populate(0, PAGES).unwrap();
    let kernel = GuestFile { address: FILE, length: 1 << 40 };
    let boot = GuestBoot { memory_pages: PAGES, max_pages: PAGES, kernel, ramdisk: GuestFile::default(), start_utc: 0 };
    assert_eq!(load(&mut memory, &boot), Err(LoadError::Files));
}

#[test]
fn a_kernel_that_takes_too_much_memory_is_refused_before_it_is_taken() {
    let mut xz = xz(&elf(true, 0x20_0000, &[]));
    let header = 12..12 + usize::from(xz[12]) * 4;
    // The only filter is LZMA2 with one byte of properties: 40 is a dictionary of 4 GiB.
    assert_eq!(xz[14..16], [0x21, 1]);
    xz[16] = 40;
    let bit = |sum: u32, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    let sum = !xz[header.clone()].iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), bit));
    xz[header.end..header.end + 4].copy_from_slice(&sum.to_le_bytes());
    // It is used no further than the kernel is long.
    assert!(try_load(&bzimage(&xz)).1.is_ok());
    let end = xz.len();
    xz[end - 4..].fill(0xff);
    let error = |payload: &[u8]| try_load(&bzimage(payload)).1.unwrap_err();
    assert!(matches!(error(&xz), LoadError::Memory { needed } if needed > 128 << 20), "{:?}", error(&xz));
    // A window of 2^(10 + 20) bytes.
    assert_eq!(error(&[0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 1, 0, 0]), LoadError::Memory { needed: 1 << 30 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever is damaged, the loader ends and stays inside the guest.
    #[test]
    fn damage_is_an_error_or_harmless(kind in 0usize..5, at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..8)) {
        let plain = elf(true, 0x20_0000, &body(20_000));
        let mut file = match kind {
            0 => plain,
            1 => bzimage(&lz4(&plain)),
            2 => bzimage(&gzip(&plain)),
            3 => bzimage(&xz(&plain)),
            _ => bzimage(&zstd(&plain)),
        };
        let at = at.index(file.len() - 8);
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = try_load(&file);
    }

    /// The decoder agrees with the crate that is usually taken.
    #[test]
    fn lz4_expands_what_was_compressed(data in prop::collection::vec(0u8..4, 0..40_000)) {
        let mut memory = GuestMemory::take(&[(0, PAGES)]).unwrap();
        memory.populate(0, PAGES).unwrap();
        let file = lz4(&data);
        memory.write(0, &file).unwrap();
        let memory = RefCell::new(&mut memory);
        let mut reader = file::Reader::new(&memory, GuestFile { address: 4, length: file.len() as u64 - 4 });
        let mut out = Vec::new();
        lz4::expand(&mut reader, &mut |bytes| { out.extend_from_slice(bytes); Ok(()) }).unwrap();
        prop_assert!(out == data);
    }
}
