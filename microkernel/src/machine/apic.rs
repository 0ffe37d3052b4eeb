//! The local interrupt controller of each CPU, in xAPIC (memory) or x2APIC (MSR) mode, and interrupts between CPUs.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use microkernel::platform::Phys;
use protocol::system::MAX_CPUS;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

use super::cpu::outb;
use super::{timer, window};

/// Vector of the timer.
pub const TIMER: u64 = 0x40;
/// Vector by which one CPU makes another enter the core.
pub const KICK: u64 = 0x41;
/// Vector of an interrupt that vanished before it was taken; it has no end.
pub const SPURIOUS: u64 = 0xff;
/// Vectors of the PICs, which are masked; a spurious one may still come.
const PIC_VECTORS: u8 = 0x20;

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
/// The local vectors that every controller has: timer, LINT0, LINT1, error.
const LOCAL_VECTORS: [u32; 4] = [LVT_TIMER, 0x350, 0x360, 0x370];
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
const ALL_OTHERS: u32 = 3 << 18;
/// Polls before an earlier command that was not delivered is overwritten; delivery takes microseconds.
const PATIENCE: u32 = 100_000;

/// Address of the registers in xAPIC mode; 0 in x2APIC mode.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// APIC ids by CPU number.
static IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// The register in x2APIC mode.
fn msr(register: u32) -> Msr {
    Msr::new(0x800 + (register >> 4))
}

fn read(register: u32) -> u32 {
    match REGISTERS.load(Relaxed) {
        // SAFETY: the CPU is in x2APIC mode, where these registers exist.
        0 => unsafe { msr(register).read() as u32 },
        // SAFETY: mapped, uncached registers of this CPU.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match REGISTERS.load(Relaxed) {
        // SAFETY: as in `read`; the values written in this module are defined ones.
        0 => unsafe { msr(register).write(value.into()) },
        // SAFETY: as in `read`.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Decides on the mode; `registers` is where the firmware says that the memory of xAPIC mode is.
pub fn choose_mode(x2apic: bool, registers: u64) {
    REGISTERS.store(if x2apic { 0 } else { window::pointer::<u8>(Phys(registers)) as u64 }, Relaxed);
}

/// Switches this CPU's controller on, with everything masked but what the core sends itself, and enters its id.
pub fn initialize(cpu: usize) {
    let mode = if REGISTERS.load(Relaxed) == 0 { ApicBaseFlags::X2APIC_ENABLE } else { ApicBaseFlags::empty() };
    let (frame, flags) = ApicBase::read();
    let enabled = flags | ApicBaseFlags::LAPIC_ENABLE;
    // In two steps, because there is none from off to x2APIC mode.
    // SAFETY: the register exists on every CPU with an APIC, and CPUID offers x2APIC mode if it was chosen. Firmware that
    // left x2APIC mode on only does so where CPUID offers it, so the mode never goes back.
    unsafe {
        ApicBase::write(frame, enabled);
        ApicBase::write(frame, enabled | mode);
    }
    LOCAL_VECTORS.into_iter().for_each(|register| write(register, MASKED));
    write(TASK_PRIORITY, 0);
    write(DIVIDE, 0b1011);
    write(SPURIOUS_VECTOR, 1 << 8 | SPURIOUS as u32);
    IDS[cpu].store(id(), Relaxed);
}

/// Masks both PICs for good, with vectors that are no exception's.
pub fn disable_pics() {
    for (base, vectors, wiring) in [(0x20, PIC_VECTORS, 4), (0xa0, PIC_VECTORS + 8, 2)] {
        outb(base, 0x11);
        [vectors, wiring, 1, 0xff].into_iter().for_each(|value| outb(base + 1, value));
    }
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let id = read(ID);
    if REGISTERS.load(Relaxed) == 0 { id } else { id >> 24 }
}

/// The id by which messages reach a CPU; those that a message cannot name are represented by the first.
pub fn message_id(cpu: usize) -> u32 {
    let id = |cpu: usize| IDS.get(cpu).map(|id| id.load(Relaxed));
    id(cpu).filter(|id| *id < 0xff).or(id(0)).unwrap_or(0)
}

/// Tells the controller that the interrupt was taken care of.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

fn command(target: u32, command: u32) {
    if REGISTERS.load(Relaxed) == 0 {
        // SAFETY: as in `write`. Writing the MSR orders nothing, so what was stored before is made visible first.
        unsafe {
            asm!("mfence", "lfence", options(nostack, preserves_flags));
            msr(COMMAND).write(u64::from(target) << 32 | u64::from(command));
        }
        return;
    }
    let _ = (0..PATIENCE).find(|_| read(COMMAND) & PENDING == 0);
    write(COMMAND_HIGH, target << 24);
    write(COMMAND, command);
}

/// Makes another CPU enter the core.
pub fn kick(cpu: usize) {
    if let Some(id) = IDS.get(cpu) {
        command(id.load(Relaxed), ASSERT | KICK as u32);
    }
}

/// Resets a CPU and starts it at a physical page below 1 MiB, with the pauses that Intel's SDM asks for (vol. 3, 9.4.4.1).
pub fn start(id: u32, page: u64) {
    command(id, ASSERT | DELIVER_INIT);
    timer::pause(10_000);
    for _ in 0..2 {
        command(id, ASSERT | DELIVER_STARTUP | (page >> 12) as u32);
        timer::pause(200);
    }
}

/// Sends an NMI to all other CPUs.
pub fn stop_others() {
    command(0, ASSERT | DELIVER_NMI | ALL_OTHERS);
}

/// What the timer does at the end of its count, as its local vector says it.
#[repr(u32)]
pub enum AtEnd {
    /// Nothing.
    Stop = MASKED,
    /// It interrupts.
    Interrupt = TIMER as u32,
    /// It interrupts, and counts again.
    Repeat = TIMER as u32 | PERIODIC,
}

/// Lets the timer run from `count`; 0 stops it.
pub fn count_down(count: u32, at_end: AtEnd) {
    write(LVT_TIMER, at_end as u32);
    write(INITIAL_COUNT, count);
}

/// What is left of the count.
pub fn count_left() -> u32 {
    read(CURRENT_COUNT)
}
