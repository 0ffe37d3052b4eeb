//! What the safe core needs from the machine.
//!
//! Physical memory is reached by address and by copy only, through [`Memory`]: no reference to memory that a domain can reach
//! exists anywhere, and the direct map behind it can be replaced by a smaller window without touching a caller.

use core::fmt;
use core::ops::Range;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Phys(pub u64);

/// A frame of physical memory, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Frame(pub u32);

impl Frame {
    /// Address of the byte at `offset` (below 4096) in the frame.
    pub const fn at(self, offset: usize) -> Phys {
        Phys((self.0 as u64) << protocol::layout::PAGE_SHIFT | offset as u64)
    }
}

impl Phys {
    /// The frame that holds this address.
    pub const fn frame(self) -> Frame {
        Frame((self.0 >> protocol::layout::PAGE_SHIFT) as u32)
    }
}

/// The window to physical memory. Callers pass only addresses of RAM that the frame table knows, naturally aligned for the
/// atomic operations, or, to load and store, registers that the shell said are reachable. Contents may change at any time; two reads may differ.
pub trait Memory {
    /// Reads 8 bytes, acquire.
    fn load(&self, at: Phys) -> u64;
    /// Writes 8 bytes, release.
    fn store(&self, at: Phys, value: u64);
    /// Sets bits and gives the value before; a full barrier.
    fn fetch_or(&self, at: Phys, bits: u64) -> u64;
    /// Keeps only `bits` and gives the value before; a full barrier.
    fn fetch_and(&self, at: Phys, bits: u64) -> u64;
    /// Replaces `old` by `new`; gives whether that was found; a full barrier.
    fn compare_exchange(&self, at: Phys, old: u64, new: u64) -> bool;
    /// Copies bytes out.
    fn read(&self, at: Phys, out: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, at: Phys, bytes: &[u8]);
    /// Copies `length` bytes between two ranges that do not overlap.
    fn copy(&self, from: Phys, to: Phys, length: usize);
    /// Fills a frame with zeros.
    fn zero(&self, frame: Frame);

    /// Reads a record whose size is a multiple of 8.
    #[inline]
    fn get<T: FromBytes + IntoBytes>(&self, at: Phys) -> T {
        let mut value = T::new_zeroed();
        for (index, word) in value.as_mut_bytes().as_chunks_mut().0.iter_mut().enumerate() {
            *word = self.load(Phys(at.0 + 8 * index as u64)).to_ne_bytes();
        }
        value
    }

    /// Writes a record whose size is a multiple of 8.
    #[inline]
    fn put<T: IntoBytes + Immutable>(&self, at: Phys, value: &T) {
        for (index, word) in value.as_bytes().as_chunks().0.iter().enumerate() {
            self.store(Phys(at.0 + 8 * index as u64), u64::from_ne_bytes(*word));
        }
    }
}

/// The rest of the machine.
pub trait Machine: Memory {
    /// Reads the time stamp counter.
    fn tsc(&self) -> u64;
    /// Forgets cached translations of the address space loaded on this CPU.
    fn flush_local(&self);
    /// Masks or unmasks an ISA interrupt line at its controller.
    fn mask_line(&self, line: u8, masked: bool);
    /// Reads 1, 2 or 4 bytes of a PCI function's configuration space.
    fn config_read(&self, function: u16, offset: u16, width: u64) -> u32;
    /// Writes there.
    fn config_write(&self, function: u16, offset: u16, width: u64, value: u32);
    /// Id of a CPU's interrupt controller, as messages name it.
    fn apic_id(&self, cpu: usize) -> u32;
    /// A firmware table, which nobody changes.
    fn acpi_table(&self, signature: [u8; 4], instance: u32) -> Option<&'static [u8]>;
    /// Gives the core's serial port away (`true`), or takes it back.
    fn release_serial(&self, released: bool);
    /// Shows a line of the log at once: on the emulator's debug console and, `aloud`, on the serial port while the core owns it.
    fn show(&self, line: fmt::Arguments<'_>, aloud: bool);
}

/// Registers of a vCPU, at the start of its context frame. The shell's assembly knows the offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Registers {
    /// rax rbx rcx rdx rsi rdi rbp rsp r8..r15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// FS base.
    pub fs_base: u64,
    /// How the vCPU entered the core last: [`ENTERED_BY_CALL`] or one of its siblings.
    pub entered: u64,
}

/// It made a hypercall: only rbx rbp rsp r12..r15 rip rflags are valid, and it gets rax back; everything else is zeroed.
pub const ENTERED_BY_CALL: u64 = 0;
/// It was interrupted or starts afresh: all registers are valid, and its vector state is in the context frame.
pub const ENTERED_BY_TRAP: u64 = 1;
/// The context is that of a guest; see [`crate::vm::Guest`].
pub const ENTERED_BY_GUEST: u64 = 2;

/// Index in [`Registers::general`].
pub mod reg {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RDX: usize = 3;
    pub const RDI: usize = 5;
    pub const RBP: usize = 6;
    pub const RSP: usize = 7;
}

/// Offset of the vector state (XSAVE standard format) in the context frame. Zeros are the initial state but for MXCSR.
pub const XSTATE: usize = 1024;
/// Offset of MXCSR in it, and its initial value: all exceptions masked.
pub const MXCSR: (usize, u64) = (XSTATE + 24, 0x1f80);

/// What a CPU does after the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run this vCPU until `deadline` (absolute TSC) at the latest.
    Run {
        /// Its context frame.
        context: Frame,
        /// Root of its address space (CR3).
        root: Frame,
        /// Its I/O ports: first (bits 0..16) and count (bits 16..); 0 is an empty slot.
        ports: [u32; PORT_RANGES],
        /// TSC at which the core wants to be entered.
        deadline: u64,
    },
    /// Load the core's own address space and halt until an interrupt; wake at `deadline`.
    Idle {
        /// TSC at which the core wants to be entered; `u64::MAX` is never.
        deadline: u64,
    },
}

/// What the shell has to wait for, without the lock: that [`crate::flush::MAILBOXES`] has `reached` this. It serves its own
/// mailbox meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Number of the request.
    pub epoch: u64,
    /// CPUs that were asked, a bit each.
    pub cpus: u64,
}

/// I/O port ranges a domain can have enabled at once.
pub const PORT_RANGES: usize = 4;
/// I/O ports of the operator's serial port (COM1), which the core drives until a domain enables them.
pub const SERIAL: Range<u64> = 0x3f8..0x400;
