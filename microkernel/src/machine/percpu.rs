//! What each CPU has for itself: its stacks, its segment tables, and what it is doing now.
//!
//! The area of CPU `n` lies at [`AREAS`]` + n * `[`AREA_SIZE`], with an unmapped page below the stacks, and the GS base points
//! to its [`Cpu`] while the core runs. Only the CPU itself touches it after it was started.

use core::arch::asm;
use core::cell::Cell;

use microkernel::platform::{PORT_RANGES, Registers};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase, LStar, Msr, SFMask, Star};

use super::descriptors::{CORE_CODE, Segments};
use super::entry::{SYSCALL_MASK, syscall_entry};
use super::paging::{FRAME, Tables, WRITE};
use super::start::{BOOT_STACK, BOOT_STACK_SIZE};
use super::vm;

const SYSENTER_CS: u32 = 0x174;

/// Where the areas start: entry 510 of the root table.
const AREAS: u64 = 0xffff_ff00_0000_0000;
/// Distance of two areas.
const AREA_SIZE: u64 = 32 * FRAME;
/// Pages of the stack on which the core runs, behind the unmapped first page.
const STACK_PAGES: u64 = 8;
/// Stacks of one page behind that, for NMI, machine check, and double fault with debug exceptions.
pub const SPECIAL_STACKS: usize = 3;
/// First page of [`Cpu`].
const CPU_PAGE: u64 = 1 + STACK_PAGES + SPECIAL_STACKS as u64;

const _: () = assert!(CPU_PAGE * FRAME + size_of::<Cpu>() as u64 <= AREA_SIZE);

/// State of one CPU. The assembly knows the offsets of the first fields.
#[repr(C)]
pub struct Cpu {
    /// Its own address, because GS-relative addressing reaches only memory.
    this: *const Cpu,
    /// Where the stack starts on each entry.
    pub stack: u64,
    /// The context that runs, or will run next; null while idle.
    pub context: Cell<*mut Registers>,
    /// The domain's stack pointer, for a few instructions.
    pub scratch: u64,
    /// Its number in the core.
    pub index: usize,
    /// The root loaded in CR3.
    pub root: Cell<u64>,
    /// TSC value at which the timer will fire; `u64::MAX` while it is stopped.
    pub armed: Cell<u64>,
    /// The I/O ports that the bitmap allows.
    pub ports: Cell<[u32; PORT_RANGES]>,
    /// What it has for guests.
    pub vm: vm::Host,
    /// Segment tables.
    pub segments: Segments,
}

impl Cpu {
    /// Makes the area of CPU `index`.
    pub fn new(tables: &mut Tables, index: usize) -> Result<&'static mut Cpu, &'static str> {
        let area = AREAS + index as u64 * AREA_SIZE;
        let length = (CPU_PAGE - 1) * FRAME + (size_of::<Cpu>() as u64).next_multiple_of(FRAME);
        let memory = tables.take(length)?;
        tables.map(area + FRAME, memory, length, WRITE)?;
        let stack = area + (1 + STACK_PAGES) * FRAME;
        let this = (area + CPU_PAGE * FRAME) as *mut Cpu;
        // SAFETY: freshly mapped memory, large enough and aligned, that nobody else knows.
        unsafe {
            this.write(Cpu {
                this,
                stack,
                context: Cell::new(core::ptr::null_mut()),
                scratch: 0,
                index,
                root: Cell::new(tables.root),
                armed: Cell::new(u64::MAX),
                ports: Cell::new([0; PORT_RANGES]),
                vm: vm::Host::new(tables)?,
                segments: Segments::new(stack),
            });
            Ok(&mut *this)
        }
    }

    /// Makes this the area of the CPU this runs on: segments, interrupt table, GS base, the entry of hypercalls.
    pub fn install(&'static mut self) {
        GsBase::write(VirtAddr::from_ptr(self));
        KernelGsBase::write(VirtAddr::zero());
        LStar::write(VirtAddr::new(syscall_entry as *const () as u64));
        SFMask::write(SYSCALL_MASK);
        // SAFETY: both exist on every 64-bit CPU. SYSCALL loads CS and the selector behind it for SS; SYSRET loads the second
        // behind 0x13 for CS and the first for SS. SYSENTER raises #GP, because it would bypass the entry code.
        unsafe {
            Star::write_raw(0x13, CORE_CODE);
            Msr::new(SYSENTER_CS).write(0);
        }
        self.segments.load();
        // Last: it keeps a copy of the registers set above.
        self.vm.install();
    }

    /// The CPU this runs on.
    pub fn current() -> &'static Cpu {
        let this: *const Cpu;
        // SAFETY: while the core runs the GS base points to this CPU's area, whose first field is its address.
        unsafe { asm!("mov {}, gs:[0]", out(reg) this, options(pure, nomem, nostack, preserves_flags)) }
        // SAFETY: areas live for ever; other references to it exist on no other CPU.
        unsafe { &*this }
    }
}

/// Number of this CPU, once [`Cpu::current`] works on it.
pub fn number() -> Option<usize> {
    (!GsBase::read().is_null()).then(|| Cpu::current().index)
}

/// Whether eight bytes at `address` lie on a stack of the core, so that reading them cannot fault.
pub fn on_stack(address: u64) -> bool {
    let boot = BOOT_STACK.as_ptr() as u64;
    let in_area = |page| (1..CPU_PAGE).contains(&page) && address % FRAME <= FRAME - 8;
    (boot..=boot + BOOT_STACK_SIZE as u64 - 8).contains(&address) || area_page(address).is_some_and(in_area)
}

/// Whether `address` lies in the unmapped page below a CPU's stack.
pub fn is_guard(address: u64) -> bool {
    area_page(address) == Some(0)
}

/// The page of an address within the area of a CPU that runs.
fn area_page(address: u64) -> Option<u64> {
    let offset = address.checked_sub(AREAS)?;
    (offset / AREA_SIZE < super::smp::cpus() as u64).then_some(offset % AREA_SIZE / FRAME)
}
