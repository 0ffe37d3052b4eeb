//! The boot bundle: any bytes, and archives whose headers are damaged but add up.
#![no_main]

use dom0::bundle::Bundle;
use fuzz::Script;
use libfuzzer_sys::fuzz_target;

/// Bytes of a block of the archive.
const BLOCK: usize = 512;
/// Where the checksum lies in a header, and its length.
const CHECKSUM: (usize, usize) = (148, 8);

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&archive(data));
});

fn read(bytes: &[u8]) {
    let Ok(bundle) = Bundle::new(bytes) else { return };
    for folder in ["auto", "config", "images"] {
        for name in bundle.names(folder, "") {
            assert!(bundle.file(&format!("{folder}/{name}")).is_some());
        }
    }
}

/// An archive of which the input decides names, sizes and damage.
fn archive(data: &[u8]) -> Vec<u8> {
    let mut script = Script::new(data);
    let mut archive = Vec::new();
    while !script.is_empty() {
        let mut header = [0; BLOCK];
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[100..108].copy_from_slice(b"0000444\0");
        let mut name = [b"auto/".as_slice(), b"config/", b"images/", b""][usize::from(script.byte() % 4)].to_vec();
        let length = script.byte();
        name.extend_from_slice(script.part(usize::from(length)));
        name.truncate(100);
        header[..name.len()].copy_from_slice(&name);
        let size = script.short() % 2048;
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[156] = b'0';
        for _ in 0..script.byte() % 8 {
            let at = usize::from(script.short()) % BLOCK;
            header[at] = script.byte();
        }
        let (at, length) = CHECKSUM;
        header[at..at + length].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[at..at + length].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        let blocks = usize::from(script.byte() % 6);
        archive.resize(archive.len() + blocks * BLOCK, b'x');
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}
