//! A kernel as an ELF file, placed in guest memory while its bytes come, and its PVH entry point.
//!
//! Only what the file fills is populated: the decoder takes its own memory from the same pool of frames.

use alloc::vec::Vec;

use elf::abi::{EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::section::SectionHeaderTable;
use elf::segment::SegmentTable;
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

use super::{Kernel, LoadError, SharedMemory};
use crate::layout::TOLD;

/// Bytes in which file header and program headers must lie.
const HEAD_MAX: usize = 16 << 10;
/// Most program headers that a kernel may have.
const SEGMENTS_MAX: usize = 32;
/// Most sections of a file whose notes are looked for there.
const SECTIONS_MAX: usize = 256;
/// Bytes of the longer file header.
const HEADER: usize = 64;
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
    /// Where segments may lie, start and end: in base memory, and behind.
    rooms: [(u64, u64); 2],
    /// Where those in base memory end, 0 if there is none.
    base_end: u64,
    /// The entry point, if no note among the segments says otherwise.
    entry: Option<u32>,
    /// What came before the headers were known.
    head: Vec<u8>,
    class: Option<Class>,
    parts: Vec<Part>,
    position: u64,
}

impl<'a, 'm> Placer<'a, 'm> {
    /// For segments in base memory, and behind: between these addresses.
    pub fn new(memory: &'a SharedMemory<'m>, rooms: [(u64, u64); 2]) -> Placer<'a, 'm> {
        Placer {
            memory,
            rooms,
            base_end: 0,
            entry: None,
            head: Vec::new(),
            class: None,
            parts: Vec::new(),
            position: 0,
        }
    }

    /// With an entry point for a file whose segments hold no note of it.
    pub fn or_enter(mut self, entry: Option<u32>) -> Self {
        self.entry = entry;
        self
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
        let told = if self.base_end == 0 { TOLD } else { self.base_end.next_multiple_of(PAGE_SIZE) };
        if self.parts.iter().any(|part| part.offset + part.bytes > self.position) {
            return Err(LoadError::Truncated);
        }
        for part in &self.parts {
            if let Goal::Notes(bytes, align) = &part.goal
                && let Some(entry) = entry(class, bytes, *align)
            {
                return Ok(Kernel { entry, narrow: class == Class::ELF32, told });
            }
        }
        let entry = self.entry.ok_or(LoadError::NoEntry)?;
        Ok(Kernel { entry, narrow: class == Class::ELF32, told })
    }

    /// Reads the headers, if all of them have come.
    fn parse(&mut self) -> Result<bool, LoadError> {
        let Some(header) = header(&self.head)? else { return Ok(false) };
        let class = header.class;
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
                    let [base, room] = self.rooms;
                    if segment.p_paddr < room.0 && end <= base.1 {
                        self.base_end = self.base_end.max(end);
                    } else if segment.p_paddr < room.0 || end > room.1 {
                        return Err(LoadError::NoRoom { start: segment.p_paddr, end, room });
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

/// The header of a file that begins like that, if all of it has come.
fn header(head: &[u8]) -> Result<Option<FileHeader<LittleEndian>>, LoadError> {
    let Some((ident, rest)) = head.split_first_chunk::<{ elf::abi::EI_NIDENT }>() else { return Ok(None) };
    let ident = parse_ident::<LittleEndian>(ident).map_err(|_| LoadError::NoKernel)?;
    let Some(tail) = rest.get(..if ident.1 == Class::ELF64 { 48 } else { 36 }) else { return Ok(None) };
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| LoadError::NoKernel)?;
    if header.e_type != ET_EXEC || ![EM_X86_64, EM_386].contains(&header.e_machine) {
        return Err(LoadError::NoKernel);
    }
    Ok(Some(header))
}

/// The entry point that the notes in a file's sections name, where its program headers name none (as Xen, for the sake of Mini-OS).
/// `read` gives bytes of the file.
pub fn entry_in_sections(read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<u32> {
    let header = header(&read(0, HEADER)?).ok()??;
    let count = usize::from(header.e_shnum);
    let size = if header.class == Class::ELF64 { 64 } else { 40 };
    if count > SECTIONS_MAX || usize::from(header.e_shentsize) != size {
        return None;
    }
    let table = read(header.e_shoff, count * size)?;
    SectionHeaderTable::new(LittleEndian, header.class, &table).into_iter().find_map(|section| {
        if section.sh_type != SHT_NOTE || section.sh_size > NOTES_MAX {
            return None;
        }
        let align = usize::try_from(section.sh_addralign).unwrap_or(4).clamp(4, 8);
        entry(header.class, &read(section.sh_offset, section.sh_size as usize)?, align)
    })
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
