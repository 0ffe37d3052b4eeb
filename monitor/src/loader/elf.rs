//! A kernel as an ELF file, placed in guest memory while its bytes come, and its PVH entry point.
//!
//! Only what the file fills is populated: the decoder takes its own memory from the same pool of frames.

use alloc::vec::Vec;

use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::segment::SegmentTable;
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

use super::{Kernel, LoadError, SharedMemory};

/// Bytes in which file header and program headers must lie.
const HEAD_MAX: usize = 16 << 10;
/// Most program headers that a kernel may have.
const SEGMENTS_MAX: usize = 32;
/// Most bytes of notes.
const NOTES_MAX: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where to enter in 32-bit mode without paging.
const PHYS32_ENTRY: u64 = 18;

/// A part of the file that has to go somewhere.
struct Part {
    offset: u64,
    bytes: u64,
    goal: Goal,
}

enum Goal {
    /// Guest-physical address.
    Memory(u64),
    /// Notes with this alignment.
    Notes(Vec<u8>, usize),
}

/// Places a file.
pub struct Placer<'a, 'm> {
    memory: &'a SharedMemory<'m>,
    /// Where segments may lie: start and end.
    room: (u64, u64),
    /// What came before the headers were known.
    head: Vec<u8>,
    class: Option<Class>,
    parts: Vec<Part>,
    position: u64,
}

impl<'a, 'm> Placer<'a, 'm> {
    /// For segments between these two addresses.
    pub fn new(memory: &'a SharedMemory<'m>, room: (u64, u64)) -> Placer<'a, 'm> {
        Placer { memory, room, head: Vec::new(), class: None, parts: Vec::new(), position: 0 }
    }

    /// Takes the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        if self.class.is_some() {
            return self.place(bytes);
        }
        self.head.extend_from_slice(bytes);
        if self.parse()? {
            let head = core::mem::take(&mut self.head);
            return self.place(&head);
        }
        Ok(())
    }

    /// The kernel, once the whole file was fed.
    pub fn finish(self) -> Result<Kernel, LoadError> {
        let class = self.class.ok_or(LoadError::Truncated)?;
        if self.parts.iter().any(|part| part.offset + part.bytes > self.position) {
            return Err(LoadError::Truncated);
        }
        for part in &self.parts {
            if let Goal::Notes(bytes, align) = &part.goal
                && let Some(entry) = entry(class, bytes, *align)
            {
                return Ok(Kernel { entry, narrow: class == Class::ELF32 });
            }
        }
        Err(LoadError::NoEntry)
    }

    /// Reads the headers, if all of them have come.
    fn parse(&mut self) -> Result<bool, LoadError> {
        let ident_bytes = elf::abi::EI_NIDENT;
        if self.head.len() < ident_bytes {
            return Ok(false);
        }
        let ident = parse_ident::<LittleEndian>(&self.head[..ident_bytes]).map_err(|_| LoadError::NoKernel)?;
        let class = ident.1;
        let tail_end = ident_bytes + if class == Class::ELF64 { 48 } else { 36 };
        let Some(tail) = self.head.get(ident_bytes..tail_end) else { return Ok(false) };
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| LoadError::NoKernel)?;
        if header.e_type != ET_EXEC || ![EM_X86_64, EM_386].contains(&header.e_machine) {
            return Err(LoadError::NoKernel);
        }
        let entry_size = if class == Class::ELF64 { 56 } else { 32 };
        let count = usize::from(header.e_phnum);
        let start = usize::try_from(header.e_phoff).map_err(|_| LoadError::Damaged)?;
        let end = start.checked_add(count * entry_size).ok_or(LoadError::Damaged)?;
        if usize::from(header.e_phentsize) != entry_size || count > SEGMENTS_MAX || end > HEAD_MAX {
            return Err(LoadError::Damaged);
        }
        let Some(table) = self.head.get(start..end) else { return Ok(false) };
        for segment in SegmentTable::new(LittleEndian, class, table) {
            let (offset, bytes) = (segment.p_offset, segment.p_filesz);
            offset.checked_add(bytes).ok_or(LoadError::Damaged)?;
            let goal = match segment.p_type {
                PT_LOAD if segment.p_memsz > 0 => {
                    let end = segment.p_paddr.checked_add(segment.p_memsz.max(bytes)).ok_or(LoadError::Damaged)?;
                    if segment.p_paddr < self.room.0 || end > self.room.1 {
                        return Err(LoadError::NoRoom { start: segment.p_paddr, end, room: self.room });
                    }
                    // Zeros that follow come with the rest of the memory: now it may take what the decoder needs.
                    let (first, end) = (segment.p_paddr >> PAGE_SHIFT, (segment.p_paddr + bytes).div_ceil(PAGE_SIZE));
                    let populated = self.memory.borrow_mut().complete(first, end - first);
                    populated.map_err(|_| LoadError::Memory { needed: (end - first) * PAGE_SIZE })?;
                    Goal::Memory(segment.p_paddr)
                }
                PT_NOTE if bytes <= NOTES_MAX => {
                    Goal::Notes(Vec::new(), usize::try_from(segment.p_align).unwrap_or(4).clamp(4, 8))
                }
                _ => continue,
            };
            self.parts.push(Part { offset, bytes, goal });
        }
        self.class = Some(class);
        Ok(true)
    }

    /// Puts the next bytes wherever they belong.
    fn place(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let (start, end) = (self.position, self.position + bytes.len() as u64);
        for part in &mut self.parts {
            let (from, to) = (part.offset.max(start), (part.offset + part.bytes).min(end));
            if from >= to {
                continue;
            }
            let piece = &bytes[(from - start) as usize..(to - start) as usize];
            match &mut part.goal {
                Goal::Memory(address) => {
                    let at = *address + (from - part.offset);
                    self.memory.borrow().write(at, piece).map_err(|_| LoadError::Missing)?;
                }
                Goal::Notes(notes, _) => notes.extend_from_slice(piece),
            }
        }
        self.position = end;
        Ok(())
    }
}

/// The entry point that one of these notes names.
fn entry(class: Class, notes: &[u8], align: usize) -> Option<u32> {
    NoteIterator::new(LittleEndian, class, align, notes).find_map(|note| match note {
        Note::Unknown(note) if note.n_type == PHYS32_ENTRY && note.name_str().is_ok_and(|name| name == "Xen") => {
            Some(u32::from_le_bytes(*note.desc.first_chunk()?))
        }
        _ => None,
    })
}
