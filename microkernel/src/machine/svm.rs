//! What of SVM needs instructions: switching it on, and the last steps before a guest runs.
//!
//! The run itself is in `entry.s`; what a guest may and may not is in [`microkernel::vm::svm`].

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::{Phys, Registers};
use microkernel::vm::svm::{ASID, EXIT_EVENT, INJECT, MSR_MAP, PORT_MAP, XCR0};
use microkernel::vm::{GUEST, Guest};
use protocol::vm::event::VALID;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::paging::{CORE_BASE, FRAME};
use super::percpu::Cpu;
use super::{features, timer, window};

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

/// MSRs that VMLOAD and VMRUN switch, so that they are the guest's own: SYSENTER_CS, _ESP, _EIP; STAR, LSTAR, CSTAR, SFMASK;
/// FS_BASE, GS_BASE, KERNEL_GS_BASE.
const OWN: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];

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

/// Whether this CPU has it switched on.
pub fn is_on() -> bool {
    Efer::read().contains(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE)
}

/// Readies this CPU to run guests, if it can. `host` are two frames of its own.
pub fn install(host: u64) {
    if host != 0 {
        // SAFETY: SVM is on, and the frames are nobody else's. The second gets what VMRUN does not keep of the core's state,
        // which from here on never changes, but for the FS base that is loaded whenever another context is.
        unsafe {
            Msr::new(HOST_SAVE_AREA).write(host);
            asm!("vmsave rax", in("rax") host + FRAME, options(nostack, preserves_flags));
        }
    }
}

/// What the assembly needs: physical addresses of the guest's control block and of what it has to load afterwards.
#[repr(C)]
pub struct Prepared {
    vmcb: u64,
    host: u64,
}

/// The last steps in Rust before the guest of a context runs: the timer, and what has to be forgotten.
pub extern "C" fn prepare_guest(context: *mut Registers) -> Prepared {
    let this = Cpu::current();
    // SAFETY: the safe core gave the context of a guest to this CPU alone, and its frame is mapped.
    let (guest, stale) = unsafe {
        let guest = context.byte_add(GUEST).cast::<Guest>();
        (&raw mut *guest, AtomicU64::from_ptr(&raw mut (*guest).stale))
    };
    // SAFETY: as above; of the fields only `stale` is written by others.
    let (vmcb, deadline, cpu) = unsafe { ((*guest).vmcb, (*guest).deadline, (*guest).cpu) };
    if deadline < this.armed.get() {
        timer::arm(this, deadline);
    }
    let here = this.index as u64 + 1;
    let moved = cpu != here || this.guest.get() != context;
    let flush = stale.swap(0, Relaxed) != 0 || moved;
    this.guest.set(context);
    let field = |offset: usize| window::pointer::<u64>(Phys(vmcb + offset as u64));
    // SAFETY: as above; the control block goes with the context.
    unsafe {
        (*guest).cpu = here;
        field(PORT_MAP).write((&raw const PORTS) as u64 - CORE_BASE);
        field(MSR_MAP).write((&raw const MSRS) as u64 - CORE_BASE);
        field(ASID).write(if flush { SPACE | FLUSH } else { SPACE });
        // x87 is always on, and nothing beyond SSE without SSE: else XSETBV would fault.
        let parts = field(XCR0).read() & u64::from(features::XCR0.load(Relaxed)) | 1;
        field(XCR0).write(if parts & 2 != 0 { parts } else { 1 });
        // What an interrupt of the core's kept from being delivered.
        let cut_short = field(EXIT_EVENT).read();
        if cut_short & VALID != 0 {
            field(INJECT).write(cut_short);
            field(EXIT_EVENT).write(0);
        }
    }
    Prepared { vmcb, host: this.host + FRAME }
}
