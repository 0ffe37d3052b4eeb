//! What of SVM needs instructions: switching it on, and what is particular to it before a guest runs.
//!
//! The run itself is in `svm.s`; what a guest may and may not is in [`microkernel::vm::svm`].

use core::arch::asm;

use microkernel::platform::Registers;
use microkernel::vm::svm::{
    ASID, CHANGED, EXIT_EVENT, INJECT, INTERCEPTS, MSR_MAP, PORT_MAP, VIRTUAL_INTERRUPT, offer,
};
use protocol::system::Features;
use protocol::vm::event::VALID;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::{OWN, Ready, detect, field, ready};
use crate::machine::paging::{CORE_BASE, FRAME, Tables};
use crate::machine::percpu::Cpu;

/// The MSR VM_CR, and the bit in it by which the firmware says no.
const VM_CONTROL: u32 = 0xc001_0114;
const DISABLED: u64 = 1 << 4;
/// The MSR VM_HSAVE_PA.
const HOST_SAVE_AREA: u32 = 0xc001_0117;
/// The only address space number in use, and with it (bits 32..) the order to flush all translations of guests.
const SPACE: u64 = 1;
const FLUSH: u64 = 1 << 32;

#[repr(C, align(4096))]
struct Map<const BYTES: usize>([u8; BYTES]);

/// Which I/O ports exit, a bit each, and what lies behind the last.
static PORTS: Map<{ 3 * FRAME as usize }> = Map([0xff; _]);
/// Which MSRs exit, two bits each: reading and writing.
static MSRS: Map<{ 2 * FRAME as usize }> = Map(msrs());

const fn msrs() -> [u8; 2 * FRAME as usize] {
    let mut map = [0xff; 2 * FRAME as usize];
    let mut index = 0;
    while index < OWN.len() {
        // The first 8192 MSRs lie in the first 2 KiB, those from 0xc0000000 on in the second.
        let number = (OWN[index] & 0x1fff) as usize + if OWN[index] >> 30 == 3 { 0x2000 } else { 0 };
        map[number / 4] &= !(3 << (number % 4 * 2));
        index += 1;
    }
    map
}

/// What a CPU has for it.
pub struct Host {
    /// Physical address of two frames for what the CPU saves of its own state; 0 without SVM.
    pub area: u64,
}

impl Host {
    /// For a CPU like this one.
    pub fn new(tables: &mut Tables) -> Result<Host, &'static str> {
        Ok(Host { area: if detect().contains(Features::SVM) { tables.take(2 * FRAME)? } else { 0 } })
    }

    /// Readies this CPU to run guests, if it can.
    pub fn install(&self) {
        if self.area == 0 {
            return;
        }
        // SAFETY: the CPU has SVM, and the frames are nobody else's. The second gets what VMRUN does not keep of the core's
        // state, which from here on never changes, but for the FS base that is loaded whenever another context is.
        unsafe {
            Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
            Msr::new(HOST_SAVE_AREA).write(self.area);
            asm!("vmsave rax", in("rax") self.area + FRAME, options(nostack, preserves_flags));
        }
    }
}

/// Whether the firmware of a CPU that has it leaves it to us.
pub fn is_allowed() -> bool {
    // SAFETY: every CPU with SVM has the register.
    unsafe { Msr::new(VM_CONTROL).read() & DISABLED == 0 }
}

/// What the assembly needs: physical addresses of the guest's control block and of what it has to load afterwards.
#[repr(C)]
pub struct Prepared {
    vmcb: u64,
    host: u64,
}

/// The last steps in Rust before the guest of a context runs: where the maps are, and what has to be forgotten.
pub extern "C" fn prepare_guest(context: *mut Registers) -> Prepared {
    let this = Cpu::current();
    let Ready { guest, flush, .. } = ready(this, context);
    let set = |offset, value| {
        // SAFETY: the control block goes with the context, which is this CPU's alone.
        unsafe { field(&guest, offset).write(value) }
    };
    set(PORT_MAP, (&raw const PORTS) as u64 - CORE_BASE);
    set(MSR_MAP, (&raw const MSRS) as u64 - CORE_BASE);
    set(ASID, if flush { SPACE | FLUSH } else { SPACE });
    set(CHANGED, 0);
    // SAFETY: as above.
    let get = |offset| unsafe { field(&guest, offset).read() };
    // What an interrupt of the core's kept from being delivered.
    let cut_short = get(EXIT_EVENT);
    let inject = if cut_short & VALID != 0 { cut_short } else { get(INJECT) };
    set(EXIT_EVENT, 0);
    let (inject, interrupt) = offer(inject, get(INTERCEPTS), get(VIRTUAL_INTERRUPT));
    set(INJECT, inject);
    set(VIRTUAL_INTERRUPT, interrupt);
    Prepared { vmcb: guest.vmcb, host: this.vm.svm.area + FRAME }
}
