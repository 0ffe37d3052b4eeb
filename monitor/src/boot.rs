//! What the guest finds when it starts: its memory, its kernel, and what it is told of its machine.

use alloc::vec::Vec;

use protocol::arguments::GuestBoot;
use protocol::error::Error;
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};
use unikernel::vm::GuestMemory;

use crate::layout::{
    ACPI, COMMAND_LINE, CONSOLE_FRAME, KERNEL_START, MEMORY_MAP, MODULES, Ram, SPECIAL, STORE_FRAME, TOLD_SIZE,
};
use crate::loader::{self, Kernel, LoadError};
use crate::{acpi, state};

/// First word of the start info (Xen `public/arch-x86/hvm/start_info.h`).
const MAGIC: u32 = 0x336e_c578;
/// Version with the memory map.
const VERSION: u32 = 1;
/// Longest command line.
const COMMAND_LINE_MAX: usize = 2047;

/// Why a guest cannot start.
#[derive(Debug)]
pub enum BootError {
    /// Its memory is not to be had.
    Memory(Error),
    /// It is too small.
    TooSmall,
    /// Its kernel cannot be loaded.
    Kernel(LoadError),
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BootError::Memory(error) => write!(f, "cannot populate the guest's memory: {error}"),
            BootError::TooSmall => write!(f, "a guest needs at least 16 MiB of memory"),
            BootError::Kernel(error) => write!(f, "{error}"),
        }
    }
}

/// Least RAM that a guest can have, in bytes.
const RAM_MIN: u64 = 16 << 20;

/// The ranges of frames that a guest's memory is made of.
pub fn frames(boot: &GuestBoot) -> Vec<(u64, u64)> {
    let mut frames = Ram::new(boot).frames();
    frames.extend([(ACPI >> PAGE_SHIFT, 1), (SPECIAL >> PAGE_SHIFT, 8)]);
    frames
}

/// Loads the kernel. Only what it fills is populated for that: what the monitor expands it with is taken from the same pool of
/// frames.
pub fn load(memory: &mut GuestMemory, boot: &GuestBoot) -> Result<Kernel, BootError> {
    if Ram::new(boot).low_end < RAM_MIN {
        return Err(BootError::TooSmall);
    }
    for file in [boot.kernel, boot.ramdisk] {
        let first = file.address >> PAGE_SHIFT;
        let count = file.length.div_ceil(PAGE_SIZE);
        memory.complete(first, count).map_err(BootError::Memory)?;
    }
    loader::load(memory, boot).map_err(BootError::Kernel)
}

/// Populates the rest of the memory, and writes what the guest is told to `told` and behind. A guest that is told of more than it has
/// gets what lies below [`KERNEL_START`], and what its kernel's file filled; the rest as it touches it, until its balloon has given
/// back the difference.
pub fn complete(
    memory: &mut GuestMemory,
    boot: &GuestBoot,
    told: u64,
    command_line: &str,
    vcpus: u32,
) -> Result<(), BootError> {
    let ram = Ram::new(boot);
    let special = [(ACPI >> PAGE_SHIFT, 1), (STORE_FRAME, 1), (CONSOLE_FRAME, 1)];
    let at_once =
        if boot.max_pages > boot.memory_pages { Vec::from([(0, KERNEL_START >> PAGE_SHIFT)]) } else { ram.frames() };
    for (first, count) in at_once.into_iter().chain(special) {
        memory.complete(first, count).map_err(BootError::Memory)?;
    }
    describe(memory, boot, told, command_line, vcpus).map_err(BootError::Memory)
}

/// Writes start info, memory map, RAM disk, command line and ACPI tables.
fn describe(memory: &GuestMemory, boot: &GuestBoot, told: u64, command_line: &str, vcpus: u32) -> Result<(), Error> {
    let map = Ram::new(boot).map();
    let has_disk = boot.ramdisk.length > 0;
    let mut info = Vec::new();
    for word in [MAGIC, VERSION, 0, has_disk.into()] {
        info.extend(word.to_le_bytes());
    }
    for address in [if has_disk { told + MODULES } else { 0 }, told + COMMAND_LINE, ACPI, told + MEMORY_MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u64).to_le_bytes());
    memory.write(told, &info)?;
    if has_disk {
        let module = [boot.ramdisk.address, boot.ramdisk.length, 0, 0];
        memory.write(told + MODULES, module.map(u64::to_le_bytes).as_flattened())?;
    }
    let mut table = Vec::new();
    for (address, size, kind) in map {
        table.extend([address, size, kind.into()].map(u64::to_le_bytes).as_flattened());
    }
    memory.write(told + MEMORY_MAP, &table)?;
    let end = command_line.floor_char_boundary(COMMAND_LINE_MAX);
    memory.write(told + COMMAND_LINE, &command_line.as_bytes()[..end])?;
    memory.write(ACPI, &acpi::tables(vcpus))
}

/// Makes a CPU enter the kernel.
pub fn enter(state: &impl state::State, kernel: &Kernel) {
    state::enter_pvh(state, kernel.entry, kernel.told);
}

const _: () = assert!(COMMAND_LINE + (COMMAND_LINE_MAX as u64) < TOLD_SIZE && SPECIAL.is_multiple_of(PAGE_SIZE));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{BASE_RAM_END, TOLD};

    #[test]
    fn the_start_info_names_what_is_there() {
        let boot = GuestBoot {
            memory_pages: 8192,
            ramdisk: protocol::arguments::GuestFile { address: 0x1ff_0000, length: 77 },
            ..GuestBoot::default()
        };
        let mut memory = GuestMemory::take(&frames(&boot)).unwrap();
        memory.complete(0, 256).unwrap();
        memory.complete(ACPI >> PAGE_SHIFT, 1).unwrap();
        for told in [TOLD, 0x5_3000] {
            describe(&memory, &boot, told, "console=hvc0 é", 1).unwrap();
            let word = |at| memory.load_u64(told + at).unwrap();
            assert_eq!((word(0), word(8)), (0x1_336e_c578, 1 << 32));
            assert_eq!((word(16), word(32)), (told + MODULES, ACPI));
            assert_eq!((word(40), word(48)), (told + MEMORY_MAP, 4));
            assert_eq!((word(MODULES), word(MODULES + 8)), (0x1ff_0000, 77));
            let ram = [24, 32, 40].map(|at| word(MEMORY_MAP + at));
            assert_eq!(ram, [0x10_0000, 0x1f0_0000, 1]);
            let mut line = [0; 16];
            memory.read(told + COMMAND_LINE, &mut line).unwrap();
            assert_eq!(&line, "console=hvc0 é\0".as_bytes());
        }
    }

    #[test]
    fn a_guest_with_more_memory_to_come_begins_with_what_lies_lowest() {
        let boot = GuestBoot { memory_pages: 8192, max_pages: 16384, ..GuestBoot::default() };
        let mut memory = GuestMemory::take(&frames(&boot)).unwrap();
        // A kernel that lies lower than all else, of which the file has the first page only.
        memory.complete(0, 1).unwrap();
        memory.write(0, b"kernel").unwrap();
        let told = BASE_RAM_END - TOLD_SIZE;
        complete(&mut memory, &boot, told, "quiet", 1).unwrap();
        assert!((0..KERNEL_START >> PAGE_SHIFT).all(|frame| memory.populated(frame)));
        assert!(!memory.populated(8191) && memory.count_in(&Ram::new(&boot).frames()) < 8192);
        assert_eq!(memory.load_u64(told).map(|word| word as u32), Ok(MAGIC));
        let mut kernel = [0; 7];
        memory.read(0, &mut kernel).unwrap();
        assert_eq!(&kernel, b"kernel\0");
    }

    #[test]
    fn a_guest_without_memory_or_kernel_does_not_start() {
        let boot = |pages| GuestBoot { memory_pages: pages, ..GuestBoot::default() };
        for pages in [0, 100, 8192] {
            let mut memory = GuestMemory::take(&frames(&boot(pages))).unwrap();
            assert!(load(&mut memory, &boot(pages)).is_err());
        }
    }
}
