//! Time: how fast the clocks run, and the timer that brings a CPU back into the core.
//!
//! The clock is the TSC. The timer is the local APIC's: by TSC deadline where the CPU has it, else by a count that is
//! measured here. A timer that fires early is harmless: the core looks at the time and asks again.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use microkernel::clock::Clock;
use spin::Once;

use crate::cpu::{inb, inl, outb, tsc, wrmsr};
use crate::percpu::Cpu;
use crate::{acpi, apic, features};

/// Rate of the PIT, Hz.
const PIT_HZ: u64 = 1_193_182;
/// Ticks of the PIT that one measurement lasts: 25 ms; its counter has 16 bits.
const PIT_TICKS: u16 = 29_830;
/// Rate of the ACPI timer, Hz: three times the PIT's. 24 bits of it always count.
const ACPI_HZ: u64 = 3_579_545;
/// Ticks of the ACPI timer that one measurement lasts at least.
const ACPI_TICKS: u32 = 3 * PIT_TICKS as u32;
/// Measurements. A host or firmware that takes the CPU away makes one too long, never too short, so the shortest counts.
const ROUNDS: usize = 4;
/// TSC ticks after which a clock is taken for dead: 0.2 s on the fastest CPU.
const PATIENCE: u64 = 1 << 30;

/// TSC rate, Hz.
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
/// Rate of the local APIC timer, Hz; 0 if it fires at TSC values.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

const DEADLINE_MSR: u32 = 0x6e0;

/// The core's clock, once it runs.
static CLOCK: Once<Clock> = Once::new();

/// Keeps the core's clock, for [`time`].
pub fn set_clock(clock: Clock) {
    CLOCK.call_once(|| clock);
}

/// ns since the core started.
pub fn time() -> Option<u64> {
    CLOCK.get().map(|clock| clock.ns(tsc()))
}

/// TSC rate, Hz.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Relaxed)
}

/// Waits by channel 2 of the PIT; gives how long, in ticks of how many Hz. Nothing if it does not count.
fn wait_pit() -> Option<(u64, u64)> {
    // Gate on, speaker off; mode 0; the output rises when the count is over.
    outb(0x61, inb(0x61) & !2 | 1);
    outb(0x43, 0xb0);
    for byte in PIT_TICKS.to_le_bytes() {
        outb(0x42, byte);
    }
    wait(|| (inb(0x61) & 0x20 != 0).then_some((PIT_TICKS.into(), PIT_HZ)))
}

/// The same by the ACPI timer.
fn wait_acpi(port: u16) -> Option<(u64, u64)> {
    let start = inl(port);
    wait(|| {
        let ticks = inl(port).wrapping_sub(start) & 0xff_ffff;
        (ticks >= ACPI_TICKS).then_some((ticks.into(), ACPI_HZ))
    })
}

fn wait<T>(over: impl Fn() -> Option<T>) -> Option<T> {
    let start = tsc();
    while tsc().wrapping_sub(start) < PATIENCE {
        if let Some(result) = over() {
            return Some(result);
        }
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
    let (mut tsc_hz, mut apic_hz) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        apic::count_down(u32::MAX, false);
        let start = tsc();
        let waited = wait_pit().or_else(|| acpi::timer_port().and_then(wait_acpi));
        let ticks = tsc().wrapping_sub(start);
        let count = u64::from(u32::MAX - apic::count_left());
        let (time, rate) = waited.ok_or("neither PIT nor ACPI timer counts; cannot measure the TSC")?;
        tsc_hz = tsc_hz.min(ticks.saturating_mul(rate) / time);
        apic_hz = apic_hz.min(count * rate / time);
    }
    if tsc_hz == 0 || apic_hz == 0 {
        return Err("the TSC or the local APIC timer does not count");
    }
    TSC_HZ.store(tsc_hz, Relaxed);
    APIC_HZ.store(if features::has_tsc_deadline() { 0 } else { apic_hz }, Relaxed);
    Ok(())
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
