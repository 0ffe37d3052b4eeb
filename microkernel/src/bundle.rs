//! The boot bundle and the ELF file of the first domain in it: a tar reader and an ELF reader for just that.
//!
//! The files come from the boot medium and are read through the memory window; nothing in them is believed unchecked.

use protocol::layout::PAGE_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::platform::{Memory, Phys};
use crate::space::Access;

/// Unit of a tar file, in bytes.
const BLOCK: u64 = 512;
/// Most program headers looked at.
const SEGMENTS_MAX: u16 = 16;
/// Type of a program header: load.
const LOAD: u32 = 1;
/// Flag of a program header: may be executed.
const EXECUTE: u32 = 1;
/// Flag of a program header: may be written.
const WRITE: u32 = 2;

/// A file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    start: Phys,
    /// Its size in bytes.
    pub size: u64,
}

impl File {
    /// The file of `size` bytes at `start`.
    pub const fn new(start: Phys, size: u64) -> File {
        File { start, size }
    }

    /// The part of `size` bytes at `offset`, if there is such a part.
    pub fn part(self, offset: u64, size: u64) -> Option<File> {
        let inside = offset.checked_add(size)? <= self.size;
        inside.then_some(File { start: Phys(self.start.0 + offset), size })
    }

    /// Copies the bytes at `offset` out; false if they are not all there.
    pub fn read(self, m: &impl Memory, offset: u64, out: &mut [u8]) -> bool {
        let part = self.part(offset, out.len() as u64);
        part.inspect(|part| m.read(part.start, out)).is_some()
    }

    fn get<T: FromBytes + IntoBytes>(self, m: &impl Memory, offset: u64) -> Option<T> {
        let mut value = T::new_zeroed();
        self.read(m, offset, value.as_mut_bytes()).then_some(value)
    }

    /// The entry `name` of this tar file (POSIX ustar).
    pub fn entry(self, m: &impl Memory, name: &str) -> Option<File> {
        let mut at = 0;
        loop {
            let header: [u8; BLOCK as usize] = self.get(m, at)?;
            if header[0] == 0 {
                return None;
            }
            let digits = header[124..136].iter().map_while(|&c| (c as char).to_digit(8));
            let size = digits.fold(0, |size, digit| size << 3 | digit as u64);
            let title = header[..100].split(|&c| c == 0).next().unwrap_or(&[]);
            if title == name.as_bytes() && matches!(header[156], 0 | b'0') {
                return self.part(at + BLOCK, size);
            }
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
    }
}

/// Header of an ELF file (System V ABI, 64 bits).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    segments: u64,
    sections: u64,
    flags: u32,
    size: u16,
    segment_size: u16,
    segment_count: u16,
    section: [u16; 3],
}

/// Program header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// What of an ELF file belongs into memory at `address`: `pages` pages that begin with the bytes of `file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes; the start of a page.
    pub address: u64,
    /// How much memory it takes.
    pub pages: u64,
    /// How it may be used.
    pub access: Access,
    /// What it begins with.
    pub file: File,
}

/// Reads a static x86-64 executable: calls `load` for each segment and gives the entry point.
pub fn read_elf(
    m: &impl Memory,
    file: File,
    mut load: impl FnMut(Segment) -> Result<(), &'static str>,
) -> Result<u64, &'static str> {
    const DAMAGED: &str = "the ELF file of dom0 is damaged";
    let header: Header = file.get(m, 0).ok_or(DAMAGED)?;
    let known = header.magic.starts_with(b"\x7fELF\x02\x01") && header.kind == 2 && header.machine == 62;
    if !known || header.segment_size as usize != size_of::<ProgramHeader>() || header.segment_count > SEGMENTS_MAX {
        return Err("dom0 is no static x86-64 ELF file");
    }
    for index in 0..header.segment_count as u64 {
        let at = header.segments.checked_add(index * header.segment_size as u64).ok_or(DAMAGED)?;
        let segment: ProgramHeader = file.get(m, at).ok_or(DAMAGED)?;
        if segment.kind != LOAD || segment.memory_size == 0 {
            continue;
        }
        let access = match (segment.flags & WRITE != 0, segment.flags & EXECUTE != 0) {
            (false, false) => Access::Read,
            (true, false) => Access::Write,
            (false, true) => Access::Execute,
            (true, true) => return Err("dom0 has a segment that is writable and executable"),
        };
        let part = file.part(segment.offset, segment.file_size).ok_or(DAMAGED)?;
        if segment.file_size > segment.memory_size || segment.address % PAGE_SIZE != 0 {
            return Err(DAMAGED);
        }
        load(Segment { address: segment.address, pages: segment.memory_size.div_ceil(PAGE_SIZE), access, file: part })?;
    }
    Ok(header.entry)
}
