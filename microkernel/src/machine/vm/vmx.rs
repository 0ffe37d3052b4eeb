//! What of VMX needs instructions: switching it on, keeping each VMCS active where its guest runs, and the exits that are the
//! core's own.
//!
//! A VMCS is active on one CPU at a time, which may hold a part of it. It becomes inactive under the core's lock as soon as
//! the CPU turns to another vCPU, so that whoever runs its guest next, or frees it, finds all of it in memory.
//!
//! The run itself is in `vmx.s`; what a guest may and may not is in [`microkernel::vm::vmx`].

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::platform::{Frame, PORT_RANGES, Phys, Registers};
use microkernel::vm::vmx::{self, Controls, LISTED, Places, Vmcs};
use microkernel::vm::{GUEST, Guest};
use x86_64::instructions::tables::{load_tss, sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::gdt::SegmentSelector;

use super::{OWN, Ready, detect, field, ready};
use crate::machine::descriptors::{CORE_CODE, TASK};
use crate::machine::hardware::Hardware;
use crate::machine::paging::{CORE_BASE, FRAME, Tables};
use crate::machine::percpu::Cpu;
use crate::machine::{panic, window};

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const ENABLED: u64 = 1 << 2;
const BASIC: u32 = 0x480;
const PAT: u32 = 0x277;
/// A guest that changes the size of a page cannot stop the machine: needed where its own memory is in large pages (CVE-2018-12207).
const ARCH_CAPABILITIES: u32 = 0x10a;
const SIZES_MAY_CHANGE: u64 = 1 << 6;
/// How nested tables can be walked: with pages of 2 MiB.
const WALKS: u32 = 0x48c;
const LARGE_WALKS: u64 = 1 << 16;
const EFER: u32 = 0xc000_0080;

/// The core's stack pointer in the VMCS: the assembly sets it.
pub const CORE_RSP: u64 = 0x6c14;
// The rest of the core's state there.
const CORE_CS: u64 = 0xc02;
const CORE_TR: u64 = 0xc0c;
const CORE_PAT: u64 = 0x2c00;
const CORE_EFER: u64 = 0x2c02;
const CORE_CR0: u64 = 0x6c00;
const CORE_CR3: u64 = 0x6c02;
const CORE_CR4: u64 = 0x6c04;
const CORE_GS: u64 = 0x6c08;
const CORE_TASK: u64 = 0x6c0a;
const CORE_GDT: u64 = 0x6c0c;
const CORE_IDT: u64 = 0x6c0e;
const CORE_RIP: u64 = 0x6c16;
/// Those that are 0: the segments ES, SS, DS, FS and GS; SYSENTER; the base of FS.
const ZERO: [u64; 9] = [0xc00, 0xc04, 0xc06, 0xc08, 0xc0a, 0x4c00, 0x6c06, 0x6c10, 0x6c12];

#[repr(C, align(4096))]
struct Map([u8; FRAME as usize]);

/// Which MSRs exit, a bit each: reading the first 8192, reading those from 0xc0000000 on; writing likewise.
static MSRS: Map = Map(msrs());

const fn msrs() -> [u8; FRAME as usize] {
    let mut map = [0xff; FRAME as usize];
    let mut index = 0;
    while index < OWN.len() {
        let byte = (OWN[index] & 0x1fff) as usize / 8 + if OWN[index] >> 30 == 3 { 0x400 } else { 0 };
        map[byte] &= !(1 << (OWN[index] % 8));
        map[byte + 0x800] &= !(1 << (OWN[index] % 8));
        index += 1;
    }
    map
}

#[repr(C, align(16))]
struct List([AtomicU64; 2 * LISTED.len()]);

/// The core's values of the MSRs that are switched by lists, with their numbers; the same on all CPUs.
static CORE_LIST: List = List([const { AtomicU64::new(0) }; _]);

unsafe extern "C" {
    /// Where an exit leads to.
    fn vmx_exit();
}

/// What a CPU has for it.
pub struct Host {
    /// Physical address of a frame for the CPU itself; 0 without VMX.
    pub region: u64,
    controls: Controls,
    /// The context of the guest whose VMCS is active here; null for none.
    active: Cell<*mut Registers>,
    /// That guest has run since it became active.
    launched: Cell<bool>,
    /// Set by the assembly: it did not get into the guest.
    pub failed: Cell<bool>,
    /// An exit has shortened the task state segment, so that it allows no I/O ports.
    shortened: Cell<bool>,
}

impl Host {
    /// For a CPU like this one.
    pub fn new(tables: &mut Tables) -> Result<Host, &'static str> {
        let controls =
            Some(detect()).filter(|found| found.contains(protocol::system::Features::VMX)).and_then(|_| choose());
        Ok(Host {
            region: if controls.is_some() { tables.take(FRAME)? } else { 0 },
            controls: controls.unwrap_or_default(),
            active: Cell::new(core::ptr::null_mut()),
            launched: Cell::new(false),
            failed: Cell::new(false),
            shortened: Cell::new(false),
        })
    }

    /// Readies this CPU to run guests, if it can.
    pub fn install(&self) {
        if self.region == 0 {
            return;
        }
        for (index, number) in LISTED.iter().enumerate() {
            // SAFETY: every 64-bit CPU has them.
            let value = unsafe { Msr::new(*number).read() };
            CORE_LIST.0[2 * index].store((*number).into(), Relaxed);
            CORE_LIST.0[2 * index + 1].store(value, Relaxed);
        }
        // SAFETY: the CPU has VMX, whose firmware allows it or did not decide; the frame is nobody else's. CR0 is as VMX wants
        // it from the first instructions on.
        unsafe {
            let mut control = Msr::new(FEATURE_CONTROL);
            let decided = control.read();
            if decided & LOCKED == 0 {
                control.write(decided | ENABLED | LOCKED);
            }
            Cr4::update(|cr4| cr4.insert(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS));
            name_revision(self.region);
            let failed: u8;
            asm!("vmxon [{}]", "setbe {}", in(reg) &self.region, out(reg_byte) failed, options(nostack));
            assert!(failed == 0, "VMX cannot be switched on");
        }
    }

    /// Makes the VMCS that is active here inactive, all of it in memory.
    fn clear(&self) {
        let active = self.active.replace(core::ptr::null_mut());
        if !active.is_null() {
            clear(guest_of(active).vmcs);
        }
    }
}

/// Where what a guest has lies.
fn guest_of(context: *mut Registers) -> Guest {
    // SAFETY: the context is that of a guest whose vCPU this CPU has, so it is mapped; only the safe core changes what is read,
    // while no CPU has it.
    unsafe { context.byte_add(GUEST).cast::<Guest>().read() }
}

fn choose() -> Option<Controls> {
    // SAFETY: CPUID offers VMX, and a register that others have to announce is read only if they do.
    Controls::choose(|number| unsafe { Msr::new(number).read() })
}

/// Whether a CPU that has it can do what the core needs, and its firmware leaves it to us.
pub fn is_usable() -> bool {
    // SAFETY: every CPU with VMX has the register.
    let decided = unsafe { Msr::new(FEATURE_CONTROL).read() };
    decided & (LOCKED | ENABLED) != LOCKED && choose().is_some()
}

/// Whether guests can have large pages, on a CPU that has VMX and that says that it has [`ARCH_CAPABILITIES`].
pub fn has_large_pages() -> bool {
    // SAFETY: CPUID says that there is the first register, and every CPU with VMX and nested paging has the second.
    unsafe { Msr::new(ARCH_CAPABILITIES).read() & SIZES_MAY_CHANGE != 0 && Msr::new(WALKS).read() & LARGE_WALKS != 0 }
}

/// Writes what the processor wants to find at the start of its regions.
///
/// # Safety
/// The frame is the caller's, and no VMCS that is active.
unsafe fn name_revision(region: u64) {
    // SAFETY: every CPU with VMX has the register; the caller vouches for the frame, which is mapped.
    unsafe { window::pointer::<u32>(Phys(region)).write(Msr::new(BASIC).read() as u32 & 0x7fff_ffff) };
}

fn clear(vmcs: u64) {
    // SAFETY: a frame that a guest has for its VMCS; what the processor still holds of it is written there.
    unsafe { asm!("vmclear [{}]", in(reg) &vmcs, options(nostack)) };
}

/// The VMCS that is active on this CPU.
struct Active;

impl Vmcs for Active {
    fn read(&self, field: u64) -> u64 {
        let value;
        // SAFETY: reading a field has no effect; without one the register is as it was.
        unsafe { asm!("vmread {}, {}", inout(reg) 0_u64 => value, in(reg) field, options(nostack)) };
        value
    }

    fn write(&self, field: u64, value: u64) {
        // SAFETY: it decides about what a guest does and not about the core, but for the fields that this module writes.
        unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) value, options(nostack)) };
    }
}

/// Enters the core's state on this CPU into the VMCS that has become active on it.
fn describe_core(this: &Cpu) {
    // SAFETY: every 64-bit CPU has both.
    let [pat, efer] = [PAT, EFER].map(|number| unsafe { Msr::new(number).read() });
    for (field, value) in [
        (CORE_CS, CORE_CODE.into()),
        (CORE_TR, TASK.into()),
        (CORE_PAT, pat),
        (CORE_EFER, efer),
        (CORE_CR0, Cr0::read_raw()),
        (CORE_CR3, Cr3::read_raw().0.start_address().as_u64()),
        (CORE_CR4, Cr4::read_raw()),
        (CORE_GS, &raw const *this as u64),
        (CORE_TASK, &raw const this.segments.task as u64),
        (CORE_GDT, sgdt().base.as_u64()),
        (CORE_IDT, sidt().base.as_u64()),
        (CORE_RIP, vmx_exit as *const () as u64),
    ] {
        Active.write(field, value);
    }
    ZERO.into_iter().for_each(|field| Active.write(field, 0));
}

/// What the assembly needs: where the guest's block is, and whether it has run since its VMCS became active.
#[repr(C)]
pub struct Prepared {
    block: *mut u64,
    launched: u64,
}

/// The last steps in Rust before the guest of a context runs: its VMCS, and what has to be forgotten.
pub extern "C" fn prepare_guest(context: *mut Registers) -> Prepared {
    let this = Cpu::current();
    let (Ready { guest, flush, fresh }, host) = (ready(this, context), &this.vm.vmx);
    if host.active.get() != context {
        host.clear();
        if fresh {
            // SAFETY: the frame is the guest's, which never ran.
            unsafe { name_revision(guest.vmcs) };
            clear(guest.vmcs);
        }
        // SAFETY: the frame holds a VMCS that no CPU has active.
        unsafe { asm!("vmptrld [{}]", in(reg) &guest.vmcs, options(nostack)) };
        host.active.set(context);
        host.launched.set(false);
        describe_core(this);
        if fresh {
            let places = Places {
                msr_map: (&raw const MSRS) as u64 - CORE_BASE,
                core_list: (&raw const CORE_LIST) as u64 - CORE_BASE,
            };
            let frame = Phys(context as u64 - window::BASE).frame();
            vmx::prepare(&Hardware, &Active, &host.controls, &guest, frame, places);
        }
    }
    vmx::enter(&Hardware, &Active, &host.controls, &guest);
    if flush {
        let descriptor = [Active.read(vmx::NESTED_TABLES), 0];
        // SAFETY: forgets translations of guests only: those by the tables of this one.
        unsafe { asm!("invept {}, [{}]", in(reg) 1_u64, in(reg) &descriptor, options(nostack, readonly)) };
    }
    Prepared { block: field(&guest, 0), launched: host.launched.get().into() }
}

/// The guest of a context exited, or could not be entered. Gives whether an interrupt is to be taken.
pub extern "C" fn on_exit(context: *mut Registers) -> u32 {
    let (this, guest) = (Cpu::current(), guest_of(context));
    let host = &this.vm.vmx;
    let mut refused = None;
    if host.failed.take() {
        refused = Some(vmx::NOT_TRIED | Active.read(vmx::INSTRUCTION_ERROR));
    } else {
        // An exit leaves the limit of the table at its maximum, and that of the task state segment at its minimum.
        this.segments.table.load();
        host.shortened.set(true);
    }
    let reason = Active.read(vmx::REASON);
    if let Some(reason) = refused.or_else(|| Some(reason).filter(|reason| reason & vmx::REFUSED != 0)) {
        vmx::refuse(&Hardware, &guest, reason);
        host.clear();
        return 0;
    }
    host.launched.set(true);
    vmx::leave(&Hardware, &Active, &guest);
    match (reason, Active.read(vmx::EXCEPTION) & 0xff) {
        (vmx::EXIT_INTERRUPT, _) => 1,
        // The exit took the NMI; its handler is still to be run, whose return lets the next one in.
        // SAFETY: the handler keeps all registers, or stops this CPU.
        (vmx::EXIT_EXCEPTION_OR_NMI, vmx::NMI) => unsafe {
            asm!("int 2");
            1
        },
        (vmx::EXIT_EXCEPTION_OR_NMI, vmx::MACHINE_CHECK) => {
            panic::report(format_args!("machine check while a guest ran"), None)
        }
        _ => 0,
    }
}

/// This CPU turns to another context, which is null for none: a VMCS stays active only as long as its vCPU is here.
pub fn turn_to(this: &Cpu, context: *mut Registers) {
    let active = this.vm.vmx.active.get();
    if active.is_null() || active == context {
        return;
    }
    let native = window::pointer::<Registers>(Frame(guest_of(active).native as u32).at(0));
    if context != native {
        this.vm.vmx.clear();
    }
}

/// A domain that may use these I/O ports runs next.
#[inline]
pub fn allow_ports(this: &Cpu, ports: [u32; PORT_RANGES]) {
    if ports != [0; PORT_RANGES] && this.vm.vmx.shortened.take() {
        reload_task();
    }
}

/// Sets the limit of this CPU's task state again.
#[cold]
fn reload_task() {
    let entry = (sgdt().base.as_u64() + u64::from(TASK)) as *mut u64;
    // SAFETY: only this CPU uses its tables, and no other reference to this one exists while the core runs here. The task state
    // is marked as in use, and could not be loaded then.
    unsafe {
        entry.write_volatile(entry.read_volatile() & !(1 << 41));
        load_tss(SegmentSelector(TASK));
    }
}
