//! What of SVM needs instructions: switching it on, and the last steps before a guest runs.
//!
//! The run itself is in `entry.s`; what a guest may and may not is in [`microkernel::vm::svm`].

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use microkernel::platform::{Phys, Registers, XSTATE};
use microkernel::vm::svm::{ASID, EXIT_CODE, EXIT_EVENT, EXIT_INTERRUPT, INJECT, MSR_MAP, PORT_MAP, XCR0};
use microkernel::vm::{GUEST, Guest, RUN, Run};
use protocol::system::Features;
use protocol::vm::event::VALID;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::dispatch::enter;
use super::entry::Leave;
use super::features::detect;
use super::paging::{CORE_BASE, FRAME, Tables};
use super::percpu::Cpu;
use super::{apic, timer, window};

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

/// The core's XCR0, the same on all CPUs.
static CORE_XCR0: AtomicU32 = AtomicU32::new(0);

/// What a CPU has for it.
pub struct Host {
    /// Physical address of two frames for what the CPU saves of its own state; 0 without SVM.
    pub area: u64,
    /// The context of the guest that ran last; null for none.
    guest: Cell<*mut Registers>,
}

impl Host {
    /// For a CPU like this one.
    pub fn new(tables: &mut Tables) -> Result<Host, &'static str> {
        let area = if detect().contains(Features::SVM) { tables.take(2 * FRAME)? } else { 0 };
        Ok(Host { area, guest: Cell::new(core::ptr::null_mut()) })
    }
}

/// Whether the firmware of a CPU that has it leaves it to us.
pub fn is_allowed() -> bool {
    // SAFETY: every CPU with SVM has the register.
    unsafe { Msr::new(VM_CONTROL).read() & DISABLED == 0 }
}

/// Readies this CPU to run guests, if it can. `host` are two frames of its own.
pub fn install(host: u64) {
    if host != 0 {
        let parts: u32;
        // SAFETY: the CPU has SVM, and the frames are nobody else's. The second gets what VMRUN does not keep of the core's
        // state, which from here on never changes, but for the FS base that is loaded whenever another context is.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") parts, out("edx") _, options(nomem, nostack, preserves_flags));
            Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
            Msr::new(HOST_SAVE_AREA).write(host);
            asm!("vmsave rax", in("rax") host + FRAME, options(nostack, preserves_flags));
        }
        CORE_XCR0.store(parts, Relaxed);
    }
}

/// What the assembly needs: physical addresses of the guest's control block and of what it has to load afterwards.
#[repr(C)]
struct Prepared {
    vmcb: u64,
    host: u64,
}

/// The last steps in Rust before the guest of a context runs: the timer, and what has to be forgotten.
extern "C" fn prepare_guest(context: *mut Registers) -> Prepared {
    let this = Cpu::current();
    // SAFETY: the safe core gave the context of a guest to this CPU alone, and its frame is mapped; of the fields only `stale`
    // is written by others.
    let (Guest { vmcb, deadline, .. }, run, stale) = unsafe {
        let run = context.byte_add(RUN).cast::<Run>();
        (context.byte_add(GUEST).cast::<Guest>().read(), run, AtomicU64::from_ptr(&raw mut (*run).stale))
    };
    if deadline < this.armed.get() {
        timer::arm(this, deadline);
    }
    let here = this.index as u64 + 1;
    // SAFETY: as above.
    let moved = unsafe { (*run).cpu } != here || this.svm.guest.get() != context;
    let flush = stale.swap(0, Relaxed) != 0 || moved;
    this.svm.guest.set(context);
    let field = |offset: usize| window::pointer::<u64>(Phys(vmcb + offset as u64));
    // SAFETY: as above; the control block goes with the context.
    unsafe {
        (*run).cpu = here;
        field(PORT_MAP).write((&raw const PORTS) as u64 - CORE_BASE);
        field(MSR_MAP).write((&raw const MSRS) as u64 - CORE_BASE);
        field(ASID).write(if flush { SPACE | FLUSH } else { SPACE });
        // x87 is always on, and nothing beyond SSE without SSE: else XSETBV would fault.
        let parts = field(XCR0).read() & u64::from(CORE_XCR0.load(Relaxed)) | 1;
        field(XCR0).write(if parts & 2 != 0 { parts } else { 1 });
        // What an interrupt of the core's kept from being delivered.
        let cut_short = field(EXIT_EVENT).read();
        if cut_short & VALID != 0 {
            field(INJECT).write(cut_short);
            field(EXIT_EVENT).write(0);
        }
    }
    Prepared { vmcb, host: this.svm.area + FRAME }
}

/// The guest that ran on this CPU exited, for something else than an interrupt.
extern "C" fn on_guest_exit() -> Leave {
    let this = Cpu::current();
    enter(this, false, |core| core.guest_exit(this.index))
}

global_asm!(
    include_str!("svm.s"),
    xstate = const XSTATE,
    prepare_guest = sym prepare_guest,
    on_guest_exit = sym on_guest_exit,
    window = const window::BASE,
    xcr0 = const XCR0,
    core_xcr0 = sym CORE_XCR0,
    debug = const RUN + offset_of!(Run, debug),
    exit_code = const EXIT_CODE,
    exit_interrupt = const EXIT_INTERRUPT,
    inject = const INJECT,
    stack = const offset_of!(Cpu, stack),
    spurious = const apic::SPURIOUS,
);
