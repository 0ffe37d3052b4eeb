//! Time: how fast the clocks run, and the timer that brings a CPU back into the core.
//!
//! The clock is the TSC. The timer is the local APIC's count, whose rate is measured here: every CPU has it. A timer that fires
//! early is harmless: the core looks at the time and asks again.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use microkernel::refuse_if;
use protocol::system::Features;

use super::apic::{AtEnd, count_down, count_left};
use super::cpu::{input, tsc};
use super::percpu::Cpu;
use super::{acpi, vm};

/// Rate of the ACPI timer, Hz; 24 bits of it always count.
const ACPI_HZ: u64 = 3_579_545;
/// Its ticks in one measurement: 25 ms.
const ACPI_TICKS: u32 = ACPI_HZ as u32 / 40;
/// Measurements. A host or firmware that takes the CPU away makes one too long, never too short, so the shortest counts.
const ROUNDS: usize = 4;
/// Times the ACPI timer is read without a change until it is taken for dead: about a second. Not a time, because a host that takes
/// the CPU away would use that up.
const PATIENCE: u32 = 1 << 20;

/// The shortest time after which a timer that fires until it is heard fires again: 1/100000 s, so that its CPU gets to hear it.
const REPEAT_HZ: u64 = 100_000;

/// Whether the timer fires until it is heard. QEMU's software emulation now and then loses an interrupt that comes while a CPU begins
/// or ends to run a guest: `helper_vmrun` and `do_vmexit` (`target/i386/tcg/sysemu/svm_helper.c`) change `interrupt_request`
/// without the lock under which the timer sets its bit there. A guest that then computes without an exit would keep its CPU.
static REPEATS: AtomicBool = AtomicBool::new(false);
/// TSC rate, Hz.
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Rate of the local APIC timer, Hz.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

/// TSC rate, Hz.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Relaxed)
}

/// Waits by the ACPI timer; gives the ticks. Nothing if it does not count.
fn wait(port: u16) -> Option<u64> {
    let first: u32 = input(port);
    let (mut last, mut left) = (first, PATIENCE);
    while left > 0 {
        let now: u32 = input(port);
        let ticks = now.wrapping_sub(first) & 0xff_ffff;
        if ticks >= ACPI_TICKS {
            return Some(ticks.into());
        }
        (last, left) = (now, if now == last { left - 1 } else { PATIENCE });
    }
    None
}

/// Waits about `microseconds`; for hardware that wants a pause.
pub fn pause(microseconds: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < tsc_hz() / 1_000_000 * microseconds {
        core::hint::spin_loop();
    }
}

/// Measures the TSC and the local APIC timer.
pub fn calibrate() -> Result<(), &'static str> {
    let port = acpi::timer_port().ok_or("no ACPI timer to measure the TSC with")?;
    let (mut tsc_hz, mut apic_hz) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        count_down(u32::MAX, AtEnd::Stop);
        let start = tsc();
        let time = wait(port).ok_or("the ACPI timer does not count")?;
        let ticks = tsc().wrapping_sub(start);
        let count = u64::from(u32::MAX - count_left());
        tsc_hz = tsc_hz.min(ticks.saturating_mul(ACPI_HZ) / time);
        apic_hz = apic_hz.min(count * ACPI_HZ / time);
    }
    refuse_if(tsc_hz == 0 || apic_hz == 0, "the TSC or the local APIC timer does not count")?;
    TSC_HZ.store(tsc_hz, Relaxed);
    APIC_HZ.store(apic_hz, Relaxed);
    REPEATS.store(vm::detect().contains(Features::VM_SPARES_CPU_0), Relaxed);
    Ok(())
}

/// Lets the timer of this CPU fire at `deadline`, or earlier.
#[cold]
pub fn arm(this: &Cpu, deadline: u64) {
    this.armed.set(deadline);
    let apic_hz = APIC_HZ.load(Relaxed);
    let ticks = u128::from(deadline.saturating_sub(tsc())) * u128::from(apic_hz) / u128::from(tsc_hz());
    let (least, at_end) =
        if REPEATS.load(Relaxed) { (apic_hz / REPEAT_HZ, AtEnd::Repeat) } else { (1, AtEnd::Interrupt) };
    // A count that does not reach the deadline fires early, and is armed again then.
    count_down(ticks.clamp(least.into(), u32::MAX.into()) as u32, at_end);
}

/// The timer of this CPU was heard.
pub fn heard(this: &Cpu) {
    this.armed.set(u64::MAX);
    if REPEATS.load(Relaxed) {
        count_down(0, AtEnd::Stop);
    }
}
