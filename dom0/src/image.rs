//! A native image: which pages it wants, with what access, and what is in them.
//!
//! Only plain static executables are taken, and only with every segment on pages of its own and never writable and executable
//! at once: what the core would refuse is refused here first, with the reason.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use protocol::hypercall::protection;
use protocol::layout::{IMAGE_BASE, IMAGE_END, PAGE_SIZE};

/// Most segments of an image; those of our linker script are three or four.
const SEGMENTS_MAX: usize = 16;

/// A run of pages with one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'b> {
    /// Address of the first page.
    pub address: u64,
    /// Pages.
    pub pages: u64,
    /// One of [`protection`].
    pub protection: u64,
    /// What is at the start of it; the rest is zero.
    pub bytes: &'b [u8],
}

impl Segment<'_> {
    fn end(&self) -> u64 {
        self.address + self.pages * PAGE_SIZE
    }
}

/// An image that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'b> {
    /// Address of the first instruction.
    pub entry: u64,
    /// Segments in the order of their addresses.
    pub segments: Vec<Segment<'b>>,
}

impl<'b> Image<'b> {
    /// Reads the headers of an ELF file; the error says what is wrong with it.
    pub fn parse(bytes: &'b [u8]) -> Result<Image<'b>, String> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|error| format!("is no ELF file: {error}"))?;
        if elf.ehdr.e_type != ET_EXEC || elf.ehdr.e_machine != EM_X86_64 {
            return Err("is no static executable for x86-64".to_string());
        }
        let mut segments = Vec::new();
        for header in elf.segments().into_iter().flatten() {
            match header.p_type {
                PT_INTERP | PT_DYNAMIC | PT_TLS => {
                    return Err("wants a dynamic linker or thread-local storage".to_string());
                }
                PT_LOAD if header.p_memsz > 0 => {}
                _ => continue,
            }
            let address = header.p_vaddr;
            let end = address.checked_add(header.p_memsz).filter(|&end| address >= IMAGE_BASE && end <= IMAGE_END);
            if end.is_none() || address % PAGE_SIZE != 0 || header.p_filesz > header.p_memsz {
                return Err(format!("has a segment at {address:#x} where none may be"));
            }
            let protection = match (header.p_flags & PF_W != 0, header.p_flags & PF_X != 0) {
                (true, true) => return Err(format!("has a segment at {address:#x} that is writable and executable")),
                (true, false) => protection::WRITE,
                (false, true) => protection::EXECUTE,
                (false, false) => protection::READ,
            };
            let bytes = elf.segment_data(&header).map_err(|_| format!("is cut short: segment at {address:#x}"))?;
            segments.push(Segment { address, pages: header.p_memsz.div_ceil(PAGE_SIZE), protection, bytes });
            if segments.len() > SEGMENTS_MAX {
                return Err(format!("has more than {SEGMENTS_MAX} segments"));
            }
        }
        segments.sort_unstable_by_key(|segment| segment.address);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
            return Err(format!("has two segments on the page at {:#x}", pair[1].address));
        }
        let entry = elf.ehdr.e_entry;
        let is_code = |segment: &Segment<'_>| {
            segment.protection == protection::EXECUTE && (segment.address..segment.end()).contains(&entry)
        };
        if !segments.iter().any(is_code) {
            return Err(format!("starts at {entry:#x}, which is no code of its own"));
        }
        Ok(Image { entry, segments })
    }

    /// Pages of all segments.
    pub fn pages(&self) -> u64 {
        self.segments.iter().map(|segment| segment.pages).sum()
    }
}
