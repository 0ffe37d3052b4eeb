//! Stock kernels, compressed in other ways than their distribution does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// How a kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it comes: a bzImage, of Debian's kernels the one for virtual machines with LZ4, the other one with XZ.
    Stock,
    /// A bzImage with GZIP.
    Gzip,
    /// A bzImage with XZ, with the options that `make bzImage` uses.
    Xz,
    /// A bzImage with ZSTD.
    Zstd,
    /// The ELF file that is in all of them.
    Elf,
}

/// A bzImage: boot protocol 2.08 says where its payload is.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// Sectors of set-up code before the kernel proper, without the first.
const SECTORS: usize = 0x1f1;
const SECTOR: usize = 512;

fn number(image: &[u8], at: usize) -> usize {
    u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize
}

/// The kernel in this file, packed anew.
pub fn pack(file: &Path, packing: Packing) -> Vec<u8> {
    let image = fs::read(file).expect("the kernel");
    if packing == Packing::Stock {
        return image;
    }
    let start = (usize::from(image[SECTORS]) + 1) * SECTOR + number(&image, PAYLOAD_OFFSET);
    let payload = &image[start..start + number(&image, PAYLOAD_LENGTH)];
    // The last four bytes are the size.
    let payload = &payload[..payload.len() - 4];
    let expander = if payload.starts_with(b"\xfd7zXZ") { "xz" } else { "lz4" };
    let elf = pipe(expander, &["-dc"], payload);
    let packed = match packing {
        Packing::Gzip => pipe("gzip", &["-1nc"], &elf),
        Packing::Xz => pipe("xz", &["-0c", "--check=crc32", "--x86", "--lzma2=preset=0,dict=32MiB"], &elf),
        Packing::Zstd => pipe("zstd", &["-1c"], &elf),
        Packing::Stock | Packing::Elf => return elf,
    };
    let mut out = image[..start].to_vec();
    out.extend(&packed);
    out.extend((elf.len() as u32).to_le_bytes());
    let length = packed.len() as u32 + 4;
    out[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
    out
}

/// What a program makes of its input.
fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = thread::scope(|scope| {
        // It is closed at the end of the closure, which tells the program so.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap_or_else(|error| panic!("{program}: {error}"))
    });
    // A kernel's payload may have more behind its end than the program knows of.
    assert!(!output.stdout.is_empty(), "{program} gives nothing: {}", output.status);
    output.stdout
}
