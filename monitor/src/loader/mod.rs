//! From the file of a kernel to a kernel that can run.
//!
//! The file lies in guest memory, where the guest's builder put it. It is expanded and placed a piece at a time, so that the
//! monitor never holds a copy of it. Nothing in it is believed: it is the guest's own business, but only as long as it stays
//! inside the guest's memory.

mod bzimage;
mod elf;
mod expand;
mod file;
mod lz4;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use protocol::arguments::{GuestBoot, GuestFile};
use unikernel::vm::GuestMemory;

use crate::layout::{BASE_RAM_END, KERNEL_START, Ram, TOLD_SIZE};

/// Why a kernel cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The files lie outside the guest's RAM, or over each other.
    Files,
    /// There is no memory where the file should be.
    Missing,
    /// It is neither a bzImage nor an ELF file.
    NoKernel,
    /// A bzImage of a version that does not say where its kernel is.
    BootProtocol(u16),
    /// It ends too early.
    Truncated,
    /// What it says contradicts itself.
    Damaged,
    /// The monitor lacks the memory to expand it.
    Memory {
        /// Bytes that are needed at once, at least.
        needed: u64,
    },
    /// It is compressed in a way that is not known here.
    Compression(&'static str),
    /// There is no PVH entry point.
    NoEntry,
    /// A segment does not fit in.
    NoRoom {
        /// Where it begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Where it could be.
        room: (u64, u64),
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Files => write!(f, "kernel and RAM disk do not lie in the guest's RAM; give it more memory"),
            LoadError::Missing => write!(f, "the kernel's file is not in the guest's memory"),
            LoadError::NoKernel => write!(f, "the file is neither a bzImage nor an ELF file for x86"),
            LoadError::BootProtocol(version) => {
                write!(f, "the bzImage has boot protocol {version:#x}; 0x208 is the first that can be loaded")
            }
            LoadError::Truncated => write!(f, "the kernel's file ends too early"),
            LoadError::Damaged => write!(f, "the kernel's file is damaged"),
            LoadError::Memory { needed } => write!(
                f,
                "expanding the kernel takes {} KiB at once, which are not there; give the guest more memory",
                needed.div_ceil(1024)
            ),
            LoadError::Compression(name) => write!(
                f,
                "the kernel is compressed with {name}; LZ4, GZIP, XZ and ZSTD can be loaded, or the plain vmlinux"
            ),
            LoadError::NoEntry => {
                write!(f, "the kernel has no PVH entry point; build it with CONFIG_XEN_PVH or CONFIG_PVH")
            }
            LoadError::NoRoom { start, end, room } => write!(
                f,
                "the kernel needs guest memory {start:#x} to {end:#x}, but only {:#x} to {:#x} is free; give the guest more memory",
                room.0, room.1
            ),
        }
    }
}

/// The guest's memory, of which the file is read while its content is placed.
type SharedMemory<'m> = RefCell<&'m mut GuestMemory>;

/// A kernel that is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its PVH entry point.
    pub entry: u32,
    /// It is a 32-bit kernel.
    pub narrow: bool,
    /// What it is told finds room here.
    pub told: u64,
}

/// Places the kernel in memory, which it populates for that, and turns its file into plain memory.
pub fn load(memory: &mut GuestMemory, boot: &GuestBoot) -> Result<Kernel, LoadError> {
    let (kernel, ramdisk) = (boot.kernel, boot.ramdisk);
    let low_end = Ram::new(boot).low_end;
    let files = if ramdisk.length > 0 { [kernel, ramdisk] } else { [kernel, kernel] };
    let inside = |file: &GuestFile| {
        let end = file.address.checked_add(file.length);
        file.length > 0 && file.address >= KERNEL_START && end.is_some_and(|end| end <= low_end)
    };
    let apart = files[0] == files[1] || kernel.address + kernel.length.min(low_end) <= ramdisk.address;
    if !files.iter().all(inside) || !apart {
        return Err(LoadError::Files);
    }
    let shared = RefCell::new(memory);
    let mut placer = elf::Placer::new(&shared, [(0, BASE_RAM_END - TOLD_SIZE), (KERNEL_START, kernel.address)]);
    let part = |offset: u64, length: usize| {
        let mut bytes = Vec::new();
        offset.checked_add(length as u64).filter(|&end| end <= kernel.length)?;
        bytes.try_reserve_exact(length).ok()?;
        bytes.resize(length, 0);
        shared.borrow().read(kernel.address + offset, &mut bytes).ok()?;
        Some(bytes)
    };
    let mut header = [0; bzimage::HEADER];
    if kernel.length < header.len() as u64 {
        return Err(LoadError::NoKernel);
    }
    shared.borrow().read(kernel.address, &mut header).map_err(|_| LoadError::Missing)?;
    if header.starts_with(&::elf::abi::ELFMAGIC) {
        placer = placer.or_enter(elf::entry_in_sections(part));
        let mut reader = file::Reader::new(&shared, kernel);
        loop {
            let bytes = reader.peek()?;
            let count = bytes.len();
            if count == 0 {
                break;
            }
            placer.feed(bytes)?;
            reader.skip(count);
        }
    } else {
        let (offset, length) = bzimage::payload(&header, kernel.length)?.ok_or(LoadError::NoKernel)?;
        let payload = GuestFile { address: kernel.address + offset, length };
        expand::expand(&mut file::Reader::new(&shared, payload), &mut |bytes| placer.feed(bytes))?;
    }
    let kernel_in_place = placer.finish()?;
    let length = usize::try_from(kernel.length).map_err(|_| LoadError::Files)?;
    shared.into_inner().clear(kernel.address, length).map_err(|_| LoadError::Missing)?;
    Ok(kernel_in_place)
}
