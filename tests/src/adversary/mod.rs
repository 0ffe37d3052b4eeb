//! Kernels that attack what runs them: guests for the system tests, made of machine code on the spot.
//!
//! Such a kernel enters by the PVH entry like any other. What it does then is an [`Act`]; each ends the guest, or goes on until
//! it is destroyed, so that an act that was carried out to its end is told from one that was not.

mod acts;
mod machine;
mod rings;
mod start;

use iced_x86::IcedError;

pub use acts::ACTS;
use machine::Code;

/// Machine code, or the assembler's objection.
type Assembled = Result<(), IcedError>;

/// How an act ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// By a crash for this reason, part of what is reported.
    Crash(&'static str),
    /// By itself.
    PowerOff,
    /// With a connection that is closed. The guest goes on.
    Closed,
    /// Not at all: the guest has to be destroyed.
    Never,
}

/// What a kernel does.
#[derive(Clone, Copy)]
pub struct Act {
    /// Its name.
    pub name: &'static str,
    /// vCPUs that can do it at once, each for itself.
    pub vcpus: u32,
    /// How it ends.
    pub end: End,
    /// What it prints last, once it has done everything.
    pub last_words: &'static str,
    code: fn(&mut Code) -> Assembled,
}

impl Act {
    /// Whether it keeps the machine busy for long enough to see what is left for others.
    pub fn is_long(&self) -> bool {
        matches!(self.end, End::Closed | End::Never) || self.name == "hypercalls"
    }

    /// The kernel, as an ELF file.
    pub fn kernel(&self) -> Vec<u8> {
        let image = start::image(self.code).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        elf(&image)
    }
}

/// An ELF file with these segments, a PVH entry at the first one's beginning, and room behind each.
fn elf(segments: &[(u64, Vec<u8>)]) -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const ROOM: u64 = 0x10_0000;
    let entry = segments[0].0;
    let note: Vec<u8> =
        [[4, 8, 18].map(u32::to_le_bytes).concat(), b"Xen\0".to_vec(), entry.to_le_bytes().to_vec()].concat();
    let mut offset = HEADER + PROGRAM_HEADER * (segments.len() + 1);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    [entry, HEADER as u64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend([0, 0, 0, 0, HEADER as u8, 0, PROGRAM_HEADER as u8, 0, segments.len() as u8 + 1, 0, 0, 0, 0, 0, 0, 0]);
    let mut body = Vec::new();
    let parts = segments.iter().map(|(address, bytes)| (1u32, *address, bytes, ROOM)).chain([(4, 0, &note, 0)]);
    for (kind, address, bytes, room) in parts {
        file.extend([kind, 7].map(u32::to_le_bytes).concat());
        let length = bytes.len() as u64;
        let words = [offset as u64, address, address, length, length.max(room), 4];
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
        offset += bytes.len();
        body.extend(bytes);
    }
    [file, body].concat()
}
