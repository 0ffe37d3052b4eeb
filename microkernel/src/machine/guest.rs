//! The last steps before a guest runs and the first after it, as far as they are the same for SVM and VMX.
//!
//! The runs themselves are in `guest.s`, `svm.s` and `vmx.s`; what a guest may and may not is in [`microkernel::vm`].

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::{Phys, Registers, XSTATE};
use microkernel::vm::svm::{self as block, CHANGED, EXIT_CODE, EXIT_INTERRUPT, INJECT, XCR0};
use microkernel::vm::{GUEST, Guest, RUN, Run};
use protocol::vm::word;

use super::dispatch::enter;
use super::entry::Leave;
use super::features::CORE_XCR0;
use super::percpu::Cpu;
use super::{apic, svm, timer, vmx, window};

/// MSRs that both twins switch, so that they are the guest's own: SYSENTER_CS, _ESP, _EIP; STAR, LSTAR, CSTAR, SFMASK; FS_BASE,
/// GS_BASE, KERNEL_GS_BASE.
pub const OWN: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];

/// A word of a guest's control block.
pub fn field(guest: &Guest, offset: usize) -> *mut u64 {
    window::pointer(Phys(guest.vmcb + offset as u64))
}

/// A guest that is about to run.
pub struct Ready {
    /// Where what it has lies.
    pub guest: Guest,
    /// Its translations that this CPU has cached must be forgotten.
    pub flush: bool,
    /// It never ran.
    pub fresh: bool,
}

/// Arms the timer, bounds XCR0, and says what has to be done before the guest of a context runs on this CPU.
pub fn ready(this: &Cpu, context: *mut Registers) -> Ready {
    // SAFETY: the safe core gave the context of a guest to this CPU alone, and its frame is mapped; of the fields only `stale`
    // is written by others.
    let (guest, run, stale) = unsafe {
        let run = context.byte_add(RUN).cast::<Run>();
        (context.byte_add(GUEST).cast::<Guest>().read(), run, AtomicU64::from_ptr(&raw mut (*run).stale))
    };
    if guest.deadline < this.armed.get() {
        timer::arm(this, guest.deadline);
    }
    let here = this.index as u64 + 1;
    // SAFETY: as above; the control block goes with the context.
    let (fresh, moved, changed) = unsafe {
        let before = core::mem::replace(&mut (*run).cpu, here);
        // x87 is always on, and nothing beyond SSE without SSE: else XSETBV would fault.
        let parts = field(&guest, XCR0).read() & u64::from(CORE_XCR0.load(Relaxed)) | 1;
        field(&guest, XCR0).write(if parts & 2 != 0 { parts } else { 1 });
        (before == 0, before != here || this.guest.get() != context, field(&guest, CHANGED).read() != 0)
    };
    this.guest.set(context);
    Ready { guest, flush: stale.swap(0, Relaxed) != 0 || moved || changed, fresh }
}

/// The guest that ran on this CPU exited, for something else than an interrupt.
extern "C" fn on_guest_exit() -> Leave {
    let this = Cpu::current();
    enter(this, false, |core| core.guest_exit(this.index))
}

global_asm!(
    include_str!("guest.s"),
    include_str!("svm.s"),
    include_str!("vmx.s"),
    xstate = const XSTATE,
    prepare_svm = sym svm::prepare_guest,
    prepare_vmx = sym vmx::prepare_guest,
    on_vmx_exit = sym vmx::on_exit,
    on_guest_exit = sym on_guest_exit,
    window = const window::BASE,
    xcr0 = const XCR0,
    core_xcr0 = sym CORE_XCR0,
    debug = const RUN + offset_of!(Run, debug),
    exit_code = const EXIT_CODE,
    exit_interrupt = const EXIT_INTERRUPT,
    inject = const INJECT,
    rax = const block::RAX,
    cr2 = const block::place(word::CR2),
    dr6 = const block::place(word::DR6),
    host_rsp = const vmx::CORE_RSP,
    vmx_region = const offset_of!(Cpu, vmx) + offset_of!(vmx::Host, region),
    vmx_failed = const offset_of!(Cpu, vmx) + offset_of!(vmx::Host, failed),
    stack = const offset_of!(Cpu, stack),
    spurious = const apic::SPURIOUS,
);
