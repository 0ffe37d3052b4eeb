//! What of virtual machines needs instructions, as far as it is the same for SVM and VMX: whether there are any, what each CPU
//! has for them, the last steps before a guest runs and the first after it.
//!
//! The runs themselves are in `guest.s`, `svm.s` and `vmx.s`; what a guest may and may not is in [`microkernel::vm`].

mod svm;
mod vmx;

use core::arch::global_asm;
use core::arch::x86_64::{__cpuid, CpuidResult};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::{Phys, Registers, XSTATE};
use microkernel::vm::svm::{self as block, CHANGED, EXIT_CODE, EXIT_INTERRUPT, INJECT, XCR0};
use microkernel::vm::{GUEST, Guest, RUN, Run};
use protocol::system::Features;
use protocol::vm::word;
use x86_64::registers::model_specific::Msr;

use super::dispatch::enter;
use super::entry::Leave;
use super::features::{CORE_XCR0, bit, leaf};
use super::paging::Tables;
use super::percpu::Cpu;
use super::{apic, timer, window};

pub use vmx::{allow_ports, turn_to};

/// The memory types that page tables name by number, and the one of number 2, made write-back: guest memory has it.
const MEMORY_TYPES: u32 = 0x277;
const TYPE_2: u64 = 0xff << 16;
const WRITE_BACK_2: u64 = 6 << 16;

/// MSRs that both twins switch, so that they are the guest's own: SYSENTER_CS, _ESP, _EIP; STAR, LSTAR, CSTAR, SFMASK; FS_BASE,
/// GS_BASE, KERNEL_GS_BASE.
pub const OWN: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];

/// What a CPU has for the guests that it runs.
pub struct Host {
    /// The context of the guest that ran last; null for none.
    last: Cell<*mut Registers>,
    svm: svm::Host,
    vmx: vmx::Host,
}

impl Host {
    /// For a CPU like this one.
    pub fn new(tables: &mut Tables) -> Result<Host, &'static str> {
        Ok(Host { last: Cell::new(core::ptr::null_mut()), svm: svm::Host::new(tables)?, vmx: vmx::Host::new(tables)? })
    }

    /// Readies this CPU, whose other registers are as they stay, to run guests, if it can.
    pub fn install(&self) {
        let mut types = Msr::new(MEMORY_TYPES);
        // SAFETY: every 64-bit CPU has the register, and nothing is mapped yet with the type that changes.
        unsafe { types.write(types.read() & !TYPE_2 | WRITE_BACK_2) };
        self.svm.install();
        self.vmx.install();
    }
}

/// What this CPU offers for virtual machines, as far as the core uses it.
pub fn detect() -> Features {
    let (basic, extended) = (leaf(1, 0).ecx, leaf(0x8000_0001, 0).ecx);
    let mut found = Features::empty();
    found.set(Features::SVM, bit(extended, 2) && bit(leaf(0x8000_000a, 0).edx, 0) && svm::is_allowed());
    found.set(Features::VMX, bit(basic, 5) && vmx::is_usable());
    // The register that says whether guests can have large pages is there if CPUID says so.
    let vmx_large = found.contains(Features::VMX) && bit(leaf(7, 0).edx, 29) && vmx::has_large_pages();
    found.set(Features::VM_LARGE_PAGES, found.contains(Features::SVM) || vmx_large);
    found.set(Features::VM_SPARES_CPU_0, found.contains(Features::SVM) && bit(basic, 31) && is_tcg());
    found
}

/// Whether the hypervisor that there is below calls itself QEMU's software emulation.
fn is_tcg() -> bool {
    let CpuidResult { ebx, ecx, edx, .. } = __cpuid(0x4000_0000);
    [ebx, ecx, edx].map(u32::to_le_bytes) == [*b"TCGT", *b"CGTC", *b"GTCG"]
}

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
        (before == 0, before != here || this.vm.last.get() != context, field(&guest, CHANGED).read() != 0)
    };
    this.vm.last.set(context);
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
    vmx_region = const offset_of!(Cpu, vm.vmx.region),
    vmx_failed = const offset_of!(Cpu, vm.vmx.failed),
    stack = const offset_of!(Cpu, stack),
    spurious = const apic::SPURIOUS,
);
