//! What the CPU offers, and switching on what the core uses of it.
//!
//! CR4 bits are set only where CPUID knows them. Vector state is switched by XSAVEOPT; a CPU without it is refused. AVX-512
//! stays off: no single instruction could zero all its registers on the way out of a hypercall.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use protocol::system::Features;

use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::descriptors::USER_DATA;
use super::vm;

/// The core's XCR0, the same on all CPUs.
pub static CORE_XCR0: AtomicU32 = AtomicU32::new(0);
/// Whether AVX registers exist, for the entry code.
pub static HAS_AVX: AtomicBool = AtomicBool::new(false);

/// What one domain must not learn from another by timing takes: bit 0, forgetting branch predictions; bit 1, clearing
/// buffers.
static BARRIERS: AtomicU32 = AtomicU32::new(0);

const PREDICTION_COMMAND: u32 = 0x49;

/// The leaf, or zeros if the CPU has none of that number.
pub fn leaf(number: u32, sub: u32) -> CpuidResult {
    let none = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    if __cpuid(number & 0x8000_0000).eax < number { none } else { __cpuid_count(number, sub) }
}

/// Whether a bit is set.
pub fn bit(word: u32, number: u32) -> bool {
    word >> number & 1 != 0
}

/// What of the machine the core uses.
pub fn detect() -> Features {
    let (basic, structured) = (leaf(1, 0), leaf(7, 0));
    let mut found = vm::detect();
    found.set(Features::NX, bit(leaf(0x8000_0001, 0).edx, 20));
    found.set(Features::SMEP, bit(structured.ebx, 7));
    found.set(Features::SMAP, bit(structured.ebx, 20));
    found.set(Features::UMIP, bit(structured.ecx, 2));
    found.set(Features::X2APIC, bit(basic.ecx, 21));
    found.set(Features::XSAVE, bit(basic.ecx, 26) && bit(leaf(13, 1).eax, 0));
    found
}

/// Switches on, on this CPU, what [`detect`] found.
pub fn enable(features: Features) {
    // SAFETY: EFER exists on every 64-bit CPU; SCE and NXE (whose absence was refused) break nothing.
    unsafe { Efer::update(|efer| efer.insert(EferFlags::SYSTEM_CALL_EXTENSIONS | EferFlags::NO_EXECUTE_ENABLE)) };
    let mut cr4 = Cr4::read();
    cr4.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, bit(leaf(1, 0).edx, 7));
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.contains(Features::UMIP));
    cr4.insert(Cr4Flags::OSXSAVE);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.contains(Features::SMEP));
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.contains(Features::SMAP));
    // SAFETY: CPUID names every bit that is set; one that does not exist is undefined behaviour in some emulators.
    unsafe { Cr4::write(cr4) };
    let (intel, amd) = (leaf(7, 0).edx, leaf(0x8000_0008, 0).ebx);
    BARRIERS.store(u32::from(bit(intel, 26) || bit(amd, 12)) | u32::from(bit(intel, 10)) << 1, Relaxed);
    // x87 and SSE, AVX.
    let parts = 0b11 | leaf(13, 0).eax & 0b100;
    // SAFETY: CR4.OSXSAVE was just set, and CPUID offers every bit of the value.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") parts, in("edx") 0, options(nomem, nostack)) };
    CORE_XCR0.store(parts, Relaxed);
    HAS_AVX.store(bit(parts, 2), Relaxed);
}

/// Keeps the domain that comes next from measuring what the one before did.
pub fn separate_domains() {
    let barriers = BARRIERS.load(Relaxed);
    if barriers == 0 {
        return;
    }
    if barriers & 1 != 0 {
        // SAFETY: CPUID offers the command register; bit 0 forgets indirect branch predictions.
        unsafe { Msr::new(PREDICTION_COMMAND).write(1) };
    }
    if barriers & 2 != 0 {
        // SAFETY: checks a segment for writing, and changes the flags only; the buffers are cleared as a side effect.
        unsafe { asm!("verw [{}]", in(reg) &USER_DATA, options(nostack, readonly)) };
    }
}
