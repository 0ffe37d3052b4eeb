//! Segments, the task state segment and the interrupt table: what the CPU looks up by itself.
//!
//! Flat segments in the order that SYSCALL and SYSRET want. The interrupt table is one for all CPUs; the segment table is
//! not, because it holds the CPU's own task state with its stacks and the I/O permissions of the domain that runs.

use core::arch::asm;
use core::cell::UnsafeCell;

use microkernel::platform::PORT_RANGES;

use super::entry;

/// Selector of the core's code.
pub const CORE_CODE: u16 = 0x08;
/// Selector of a domain's stack and data.
pub const USER_DATA: u16 = 0x18 | 3;
/// Selector of a domain's code.
pub const USER_CODE: u16 = 0x20 | 3;
/// STAR: SYSCALL loads CS from bits 32.. and SS after it, SYSRET SS from bits 48.. plus 8 and CS from there plus 16.
pub const STAR: u64 = (CORE_CODE as u64) << 32 | 0x13 << 48;
const TASK: u16 = 0x28;

const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Descriptor privilege level 3.
const USER: u64 = 3 << 45;

/// Exceptions that run on a stack of their own, with its number: NMI and machine check can come while the stack pointer is a
/// domain's, a debug exception can be provoked there, and a double fault mostly means that the stack is unusable.
const OWN_STACK: [(usize, u64); 4] = [(2, 1), (18, 2), (8, 3), (1, 3)];
/// Breakpoint: the only vector that a domain may raise by instruction.
const BREAKPOINT: usize = 3;

/// I/O permission bits: a byte for eight ports, and one behind the last for accesses across it.
const BITMAP: usize = 65536 / 8 + 1;

#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    stacks: [u64; 3],
    reserved1: u64,
    special_stacks: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    bitmap_offset: u16,
    bitmap: [u8; BITMAP],
}

/// Segment table and task state of one CPU.
pub struct Segments {
    table: [u64; 7],
    task: UnsafeCell<TaskState>,
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

impl Segments {
    /// Tables for a CPU with these stack tops; no I/O port is allowed.
    pub fn new(stack: u64, special: [u64; super::percpu::SPECIAL_STACKS as usize]) -> Segments {
        let mut special_stacks = [0; 7];
        special_stacks[..special.len()].copy_from_slice(&special);
        let task = TaskState {
            reserved0: 0,
            stacks: [stack, 0, 0],
            reserved1: 0,
            special_stacks,
            reserved2: 0,
            reserved3: 0,
            bitmap_offset: core::mem::offset_of!(TaskState, bitmap) as u16,
            bitmap: [0xff; BITMAP],
        };
        Segments { table: [0, CODE, DATA, DATA | USER, CODE | USER, 0, 0], task: UnsafeCell::new(task) }
    }

    /// Loads the tables on the CPU they are for, with the interrupt table.
    pub fn load(&mut self) {
        let base = self.task.get() as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        // An available 64-bit task state segment (Intel SDM vol. 3, section 8.2.3).
        self.table[5] = limit & 0xffff | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.table[6] = base >> 32;
        let segments = TablePointer { limit: size_of_val(&self.table) as u16 - 1, base: self.table.as_ptr() as u64 };
        let interrupts =
            TablePointer { limit: size_of::<InterruptTable>() as u16 - 1, base: INTERRUPTS.0.get() as u64 };
        // SAFETY: both tables live for ever and describe the memory model the core already runs in. The data segment
        // registers become null, which ring 0 never uses; loading GS clears its base, so that is set after this.
        unsafe {
            asm!(
                "lgdt [{segments}]; lidt [{interrupts}]",
                "lea {scratch}, [rip + 2f]; push {code}; push {scratch}; retfq",
                "2: mov ds, {zero:e}; mov es, {zero:e}; mov fs, {zero:e}; mov gs, {zero:e}; mov ss, {zero:e}",
                "ltr {task:x}",
                segments = in(reg) &segments,
                interrupts = in(reg) &interrupts,
                code = const CORE_CODE,
                zero = in(reg) 0,
                task = in(reg) TASK,
                scratch = out(reg) _,
            );
        }
    }

    /// Allows the ports of `new` instead of those of `old`.
    #[cold]
    pub fn change_ports(&self, old: &[(u16, u16); PORT_RANGES], new: &[(u16, u16); PORT_RANGES]) {
        // SAFETY: only this CPU uses its task state, and no other reference to it exists while the core runs here.
        let bitmap = unsafe { &mut (*self.task.get()).bitmap };
        for (ranges, denied) in [(old, true), (new, false)] {
            for (first, count) in ranges {
                for port in (usize::from(*first)..65536).take((*count).into()) {
                    let bit = 1 << (port % 8);
                    bitmap[port / 8] = if denied { bitmap[port / 8] | bit } else { bitmap[port / 8] & !bit };
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate(u64, u64);

struct InterruptTable(UnsafeCell<[Gate; 256]>);

// SAFETY: written by the first CPU before it starts any other, and only read by hardware after that.
unsafe impl Sync for InterruptTable {}

static INTERRUPTS: InterruptTable = InterruptTable(UnsafeCell::new([Gate(0, 0); 256]));

/// Fills the interrupt table: every vector leads to its stub, with interrupts off.
pub fn fill_interrupt_table() {
    // SAFETY: only the first CPU runs, and it has not loaded the table yet.
    let table = unsafe { &mut *INTERRUPTS.0.get() };
    for (vector, gate) in table.iter_mut().enumerate() {
        let target = entry::stub(vector);
        let stack = OWN_STACK.iter().find(|(number, _)| *number == vector).map_or(0, |(_, stack)| *stack);
        let level: u64 = if vector == BREAKPOINT { 3 } else { 0 };
        let low = target & 0xffff | u64::from(CORE_CODE) << 16 | stack << 32 | (0x8e | level << 5) << 40;
        *gate = Gate(low | (target >> 16 & 0xffff) << 48, target >> 32);
    }
}
