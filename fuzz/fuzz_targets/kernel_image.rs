//! The file of a guest's kernel: ELF files and bzImages in every compression, damaged or made up. Whatever it says, only the
//! place for kernels changes.
#![no_main]

use std::sync::OnceLock;

use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use monitor::loader::load;
use protocol::arguments::{GuestBoot, GuestFile};
use unikernel::vm::GuestMemory;

/// Where the file lies, and pages that it has.
const FILE: (u64, u64) = (0x40_0000, 32);
/// Pages of the guest.
const PAGES: u64 = 0x800;
/// Where kernels can be placed: the first of these pages, and how many there are.
const PLACE: (u64, u64) = (0x200, 32);
/// Memory before that, which nobody may touch.
const BEFORE: u64 = 0x100;

/// First bytes of each compression.
const MAGIC: [&[u8]; 8] = [
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x1f, 0x8b, 8, 0],
    &[0x28, 0xb5, 0x2f, 0xfd],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    b"BZh9",
    &[0x5d, 0, 0],
    &[0x89, b'L', b'Z', b'O'],
    b"\x7fELF",
];

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let how = script.byte();
    let mut file = match how & 0x3f {
        0 => script.rest().to_vec(),
        1..=8 => bzimage(&[MAGIC[usize::from(how & 7)], script.rest()].concat()),
        kind @ 9..=15 => {
            let plain = elf(&mut script, kind & 1 == 0);
            match kind {
                9 | 10 => plain,
                _ => bzimage(&compress(usize::from(kind - 11), &plain)),
            }
        }
        kind => whole()[usize::from(kind) % whole().len()].clone(),
    };
    if how & 0x40 != 0 {
        file.truncate(usize::from(script.short()));
    }
    while !script.is_empty() && !file.is_empty() {
        let at = usize::from(script.short()) % file.len();
        file[at] = script.byte();
    }
    if how & 0x80 != 0 {
        mend_xz(&mut file);
    }
    file.truncate((FILE.1 << 12) as usize);
    try_load(&file);
});

fn try_load(file: &[u8]) {
    let mut memory = GuestMemory::take(&[(0, PAGES)]).expect("on the host it can be had any number of times");
    for (first, count) in [(BEFORE - 1, 1), PLACE, (FILE.0 >> 12, FILE.1)] {
        memory.populate(first, count).expect("it is empty");
    }
    memory.write(FILE.0, file).expect("it fits");
    let mark = 0x5a5a_a5a5_1234_4321u64;
    memory.write((BEFORE << 12) - 8, &mark.to_le_bytes()).expect("it is there");
    let kernel = GuestFile { address: FILE.0, length: file.len() as u64 };
    let loaded = load(
        &mut memory,
        &GuestBoot { memory_pages: PAGES, max_pages: PAGES, kernel, ramdisk: GuestFile::default(), start_utc: 0 },
    );
    assert_eq!(memory.load_u64((BEFORE << 12) - 8), Ok(mark));
    let mut now = vec![0; file.len()];
    memory.read(FILE.0, &mut now).expect("it is there");
    match loaded {
        Ok(_) => assert!(now.iter().all(|&byte| byte == 0), "what is left of the file is the guest's"),
        Err(_) => assert!(now == file, "a file that cannot be loaded stays as it is"),
    }
}

/// A kernel in every form, as it should be.
fn whole() -> &'static [Vec<u8>] {
    static WHOLE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let seed: Vec<u8> = (0..6000u32).map(|at| (at / 7 * (at % 13)) as u8).collect();
        let plain = elf(&mut Script::new(&seed), true);
        let mut all: Vec<Vec<u8>> = (0..4).map(|kind| bzimage(&compress(kind, &plain))).collect();
        all.extend([plain, elf(&mut Script::new(&seed), false)]);
        all
    })
}

/// An ELF file whose headers are where they belong, with the contents that the script says.
fn elf(script: &mut Script<'_>, class64: bool) -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(class64), 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let word = |out: &mut Vec<u8>, value: u64| match class64 {
        true => out.extend(value.to_le_bytes()),
        false => out.extend((value as u32).to_le_bytes()),
    };
    out.extend([2, 0, if class64 { 62 } else { 3 }, 0, 1, 0, 0, 0]);
    let (head, entry) = if class64 { (64, 56) } else { (52, 32) };
    let count = script.byte() % 5;
    [0, head, 0].into_iter().for_each(|value| word(&mut out, value));
    out.extend([0, 0, 0, 0, head as u8, 0, entry, 0, count, 0, 0, 0, 0, 0, 0, 0]);
    for _ in 0..count {
        let how = script.byte();
        out.extend([if how & 3 == 0 { 4 } else { 1 }, 0, 0, 0]);
        let offset = u64::from(script.short());
        let address =
            if how & 0x80 != 0 { script.long() } else { (PLACE.0 << 12) + u64::from(script.word() & 0x2_ffff) };
        let bytes = if how & 0x40 != 0 { script.long() } else { script.short().into() };
        let memory = if how & 0x20 != 0 { script.long() } else { bytes.wrapping_add(script.byte().into()) };
        let align = u64::from(script.byte());
        if class64 {
            out.extend([7, 0, 0, 0]);
            [offset, address, address, bytes, memory, align].into_iter().for_each(|value| word(&mut out, value));
        } else {
            [offset, address, address, bytes, memory, 7, align].into_iter().for_each(|value| word(&mut out, value));
        }
    }
    if script.byte() & 1 == 0 {
        out.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        out.extend(b"Xen\0");
    }
    let body = usize::from(script.short() & 0x3fff);
    out.extend(script.part(body));
    out
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1024];
    out[0x1f1] = 1;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out
}

fn compress(kind: usize, data: &[u8]) -> Vec<u8> {
    let size = (data.len() as u32).to_le_bytes();
    match kind % 4 {
        0 => {
            let block = lz4_flex::block::compress(data);
            [MAGIC[0], &(block.len() as u32).to_le_bytes(), &block, &size].concat()
        }
        1 => {
            let body = miniz_oxide::deflate::compress_to_vec(data, 6);
            [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], body.as_slice(), &[0; 4], &size].concat()
        }
        2 => {
            let body = ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest);
            [body.as_slice(), &size].concat()
        }
        _ => {
            use lzma_rust2::Write;
            let writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1));
            let mut writer = writer.expect("the preset is a valid one");
            writer.write_all(data).expect("a vector takes everything");
            [writer.finish().expect("a vector takes everything").as_slice(), &size].concat()
        }
    }
}

/// Makes the checksum of an XZ block's header right again, so that what it says is looked at.
fn mend_xz(file: &mut [u8]) {
    const STREAM: usize = 1024;
    let Some(block) = file.get_mut(STREAM + 12..) else { return };
    let length = (usize::from(*block.first().unwrap_or(&0)) + 1) * 4;
    let Some(header) = block.get_mut(..length) else { return };
    let (body, sum) = header.split_at_mut(length - 4);
    sum.copy_from_slice(&crc32(body).to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |sum: u32, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), bit))
}
