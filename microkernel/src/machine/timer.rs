//! Time: how fast the clocks run, and the timer that brings a CPU back into the core.
//!
//! The clock is the TSC. The timer is the local APIC's: by TSC deadline where the CPU has it, else by a count that is
//! measured here. A timer that fires early is harmless: the core looks at the time and asks again.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu::{inb, inl, outb, tsc, wrmsr};
use crate::percpu::Cpu;
use crate::{acpi, apic, features};

/// One measurement lasts 1/100 s.
const SHARE: u64 = 100;
/// Rate of the PIT, Hz.
const PIT_HZ: u64 = 1_193_182;
/// Rate of the ACPI timer, Hz.
const ACPI_HZ: u64 = 3_579_545;
/// Measurements. A host or firmware that takes the CPU away makes one too long, never too short, so the shortest counts.
const ROUNDS: usize = 5;
/// TSC ticks after which a clock is taken for dead: 0.2 s on the fastest CPU.
const PATIENCE: u64 = 1 << 30;

/// TSC rate, Hz.
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Rate of the local APIC timer, Hz; 0 if it fires at TSC values.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

const DEADLINE_MSR: u32 = 0x6e0;

/// TSC rate, Hz.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Relaxed)
}

/// Waits 1/100 s by channel 2 of the PIT; false if it does not count.
fn wait_pit() -> bool {
    // Gate on, speaker off; mode 0; the output rises when the count is over.
    outb(0x61, inb(0x61) & !2 | 1);
    outb(0x43, 0xb0);
    let count = (PIT_HZ / SHARE) as u16;
    outb(0x42, count as u8);
    outb(0x42, (count >> 8) as u8);
    wait(|| inb(0x61) & 0x20 != 0)
}

/// Waits 1/100 s by the ACPI timer, 24 bits of which always count.
fn wait_acpi(port: u16) -> bool {
    let start = inl(port);
    wait(|| u64::from(inl(port).wrapping_sub(start) & 0xff_ffff) >= ACPI_HZ / SHARE)
}

fn wait(over: impl Fn() -> bool) -> bool {
    let start = tsc();
    while tsc().wrapping_sub(start) < PATIENCE {
        if over() {
            return true;
        }
    }
    false
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
    let (mut best_tsc, mut best_apic) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        apic::count_down(u32::MAX, false);
        let start = tsc();
        let waited = wait_pit() || acpi::timer_port().is_some_and(wait_acpi);
        let ticks = tsc() - start;
        let count = u32::MAX - apic::count_left();
        if !waited {
            return Err("neither PIT nor ACPI timer counts; cannot measure the TSC");
        }
        best_tsc = best_tsc.min(ticks);
        best_apic = best_apic.min(count.into());
    }
    TSC_HZ.store(best_tsc * SHARE, Relaxed);
    APIC_HZ.store(if features::has_tsc_deadline() { 0 } else { best_apic * SHARE }, Relaxed);
    if best_apic == 0 { Err("the local APIC timer does not count") } else { Ok(()) }
}

/// Prepares this CPU's timer.
pub fn initialize() {
    if APIC_HZ.load(Relaxed) == 0 {
        apic::use_tsc_deadline();
    }
}

/// Lets the timer of this CPU fire at `deadline`, or earlier.
pub fn arm(this: &Cpu, deadline: u64) {
    let rate = APIC_HZ.load(Relaxed);
    if rate == 0 {
        this.armed.set(deadline);
        // SAFETY: CPUID offers the register. 0 would stop the timer; a deadline in the past fires at once.
        unsafe { wrmsr(DEADLINE_MSR, deadline.max(1)) };
        return;
    }
    let now = tsc();
    let ticks = u128::from(deadline.saturating_sub(now)) * u128::from(rate) / u128::from(tsc_hz());
    let count = ticks.clamp(1, u32::MAX.into()) as u32;
    // A count that does not reach the deadline fires early, and is armed again then.
    this.armed.set(deadline);
    apic::count_down(count, true);
}
