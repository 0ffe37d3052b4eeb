//! Segments, the task state segment and the interrupt table: what the CPU looks up by itself.
//!
//! Flat segments in the order that SYSCALL and SYSRET want. The interrupt table is one for all CPUs; the segment table is
//! not, because it holds the CPU's own task state with its stacks and the I/O permissions of the domain that runs.

use core::cell::UnsafeCell;

use microkernel::platform::PORT_RANGES;
use spin::Once;
use x86_64::instructions::segmentation::{CS, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::{Entry, HandlerFunc};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::paging::FRAME;
use super::percpu::SPECIAL_STACKS;
use super::{cpu, entry};

/// Selector of the core's code.
pub const CORE_CODE: u16 = 0x08;
/// Selector of a domain's stack and data.
pub const USER_DATA: u16 = 0x18 | 3;
/// Selector of a domain's code.
pub const USER_CODE: u16 = 0x20 | 3;
/// Selector of the task state.
pub const TASK: u16 = 0x28;

/// Exceptions that run on a stack of their own, with its index: NMI and machine check can come while the stack pointer is a
/// domain's, a debug exception can be provoked there, and a double fault mostly means that the stack is unusable.
const OWN_STACK: [(usize, u16); 4] = [(2, 0), (18, 1), (8, 2), (1, 2)];
/// Breakpoint: the only vector that a domain may raise by instruction.
const BREAKPOINT: usize = 3;

/// I/O permission bits: a byte for eight ports, and one behind the last for accesses across it.
const BITMAP: usize = 65536 / 8 + 1;

type InterruptTable = [Entry<HandlerFunc>; 256];

static INTERRUPTS: Once<InterruptTable> = Once::new();

/// Segment table and task state of one CPU, with its I/O permissions behind that.
#[repr(C)]
pub struct Segments {
    /// Segment table.
    pub table: GlobalDescriptorTable,
    /// Task state.
    pub task: TaskStateSegment,
    bitmap: UnsafeCell<[u8; BITMAP]>,
}

impl Segments {
    /// Tables for a CPU with this top of its stack, behind which the special ones lie; no I/O port is allowed.
    pub fn new(stack: u64) -> Segments {
        let mut task = TaskStateSegment::new();
        task.privilege_stack_table[0] = VirtAddr::new(stack);
        for index in 0..SPECIAL_STACKS {
            task.interrupt_stack_table[index] = VirtAddr::new(stack + (index as u64 + 1) * FRAME);
        }
        Segments { table: GlobalDescriptorTable::new(), task, bitmap: UnsafeCell::new([0xff; BITMAP]) }
    }

    /// Loads the tables on the CPU they are for, with the interrupt table.
    pub fn load(&'static mut self) {
        // SAFETY: nobody changes the bitmap yet.
        let bitmap = unsafe { &*self.bitmap.get() };
        let task =
            Descriptor::tss_segment_with_iomap(&self.task, bitmap).expect("the bitmap lies behind the task state");
        self.table.append(Descriptor::kernel_code_segment());
        self.table.append(Descriptor::kernel_data_segment());
        self.table.append(Descriptor::user_data_segment());
        self.table.append(Descriptor::user_code_segment());
        self.table.append(task);
        let interrupts = INTERRUPTS.call_once(interrupt_table);
        let interrupts = DescriptorTablePointer {
            limit: size_of::<InterruptTable>() as u16 - 1,
            base: VirtAddr::from_ptr(interrupts),
        };
        // SAFETY: both tables live for ever and describe the memory model the core already runs in. The other segment
        // registers become null, which ring 0 never uses; this clears the base of GS, so that is set after this.
        unsafe {
            self.table.load_unsafe();
            CS::set_reg(SegmentSelector(CORE_CODE));
            SS::set_reg(SegmentSelector::NULL);
            cpu::set_user_segments(0);
            lidt(&interrupts);
            load_tss(SegmentSelector(TASK));
        }
    }

    /// Allows the ports of `new` instead of those of `old`.
    #[cold]
    pub fn change_ports(&self, old: [u32; PORT_RANGES], new: [u32; PORT_RANGES]) {
        // SAFETY: only this CPU uses its task state, and no other reference to it exists while the core runs here.
        let bitmap = unsafe { &mut *self.bitmap.get() };
        for (ranges, denied) in [(old, true), (new, false)] {
            for range in ranges {
                for port in (range as usize & 0xffff..65536).take(range as usize >> 16) {
                    let bit = 1 << (port % 8);
                    bitmap[port / 8] = if denied { bitmap[port / 8] | bit } else { bitmap[port / 8] & !bit };
                }
            }
        }
    }
}

/// Every vector leads to its stub, with interrupts off.
fn interrupt_table() -> InterruptTable {
    let mut table = [Entry::missing(); 256];
    for (vector, gate) in table.iter_mut().enumerate() {
        // SAFETY: the stubs are made for this, and the stacks are those of `Segments::new`.
        unsafe {
            let options = gate.set_handler_addr(VirtAddr::new(entry::stub(vector)));
            if let Some((_, stack)) = OWN_STACK.iter().find(|(number, _)| *number == vector) {
                options.set_stack_index(*stack);
            }
            if vector == BREAKPOINT {
                options.set_privilege_level(PrivilegeLevel::Ring3);
            }
        }
    }
    table
}
