//! Images of domains: any bytes, and files whose headers are right but for what the input says.
#![no_main]

use dom0::image::Image;
use dom0::symbols::Symbols;
use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use protocol::hypercall::protection;
use protocol::layout::{IMAGE_BASE, IMAGE_END, PAGE_SIZE};

/// Bytes of the file's header, and of each segment's.
const HEADERS: (usize, usize) = (64, 56);

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&file(data));
});

fn read(bytes: &[u8]) {
    let symbols = Symbols::parse(bytes);
    for address in [0, IMAGE_BASE, IMAGE_END, u64::MAX] {
        assert!(symbols.describe(address).starts_with("0x"));
    }
    let Ok(image) = Image::parse(bytes) else { return };
    let mut end = IMAGE_BASE;
    for segment in &image.segments {
        assert!(segment.address >= end && segment.address.is_multiple_of(PAGE_SIZE));
        assert!(segment.bytes.len() as u64 <= segment.pages * PAGE_SIZE);
        end = segment.address + segment.pages * PAGE_SIZE;
    }
    assert!(end <= IMAGE_END && image.pages() <= (IMAGE_END - IMAGE_BASE) / PAGE_SIZE);
    let code = image.segments.iter().filter(|segment| segment.protection == protection::EXECUTE);
    assert!(code.clone().any(|code| (code.address..code.address + code.pages * PAGE_SIZE).contains(&image.entry)));
}

/// A static executable of which the input decides the segments.
fn file(data: &[u8]) -> Vec<u8> {
    let mut script = Script::new(data);
    let count = u16::from(script.byte() % 20);
    let (header_size, segment_size) = HEADERS;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let address = |script: &mut Script<'_>| match script.byte() % 4 {
        0 => script.long(),
        _ => IMAGE_BASE + u64::from(script.byte()) * PAGE_SIZE,
    };
    file.extend_from_slice(&address(&mut script).to_le_bytes());
    file.extend_from_slice(&(header_size as u64).to_le_bytes());
    file.extend_from_slice(&[0; 12]);
    for field in [header_size as u16, segment_size as u16, count, 64, 0, 0] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    for _ in 0..count {
        let kind = if script.byte().is_multiple_of(8) { script.word() } else { 1 };
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&u32::from(script.byte() % 8).to_le_bytes());
        file.extend_from_slice(&u64::from(script.short() % 1024).to_le_bytes());
        let at = address(&mut script);
        file.extend_from_slice(&at.to_le_bytes());
        file.extend_from_slice(&at.to_le_bytes());
        let bytes = u64::from(script.byte());
        file.extend_from_slice(&bytes.to_le_bytes());
        let memory = if script.byte().is_multiple_of(4) { script.long() } else { bytes + u64::from(script.short()) };
        file.extend_from_slice(&memory.to_le_bytes());
        file.extend_from_slice(&PAGE_SIZE.to_le_bytes());
    }
    file.extend_from_slice(script.rest());
    file
}
