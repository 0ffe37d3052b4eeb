//! Time: between the time stamp counter and ns since the core started.
//!
//! One multiplication and one shift each way. Both factors are rounded up, so time runs fast, by less than 1 ns a month, and a
//! deadline that is turned into ticks has always passed when those ticks are reached.

/// Fraction bits of the factors: a counter of 4 MHz to 250 GHz fits.
const SHIFT: u32 = 56;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The rate and the start of the time stamp counter.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    ns_per_tick: u64,
    ticks_per_ns: u64,
}

impl Clock {
    /// A clock that stands still until [`Clock::init`].
    pub(crate) const fn new() -> Clock {
        Clock { start: 0, ns_per_tick: 0, ticks_per_ns: 0 }
    }

    /// Starts it: the counter runs at `tsc_hz` and shows `start` now.
    pub fn init(&mut self, tsc_hz: u64, start: u64) {
        let (ns_per_tick, ticks_per_ns) = (ratio(NS_PER_SECOND, tsc_hz.max(1)), ratio(tsc_hz, NS_PER_SECOND));
        *self = Clock { start, ns_per_tick, ticks_per_ns };
    }

    /// ns since the start when the counter shows `tsc`; 0 for one of before, as a CPU that is slightly behind may see it.
    pub const fn ns(&self, tsc: u64) -> u64 {
        ((tsc.saturating_sub(self.start) as u128 * self.ns_per_tick as u128) >> SHIFT) as u64
    }

    /// The counter when `ns` have passed; `u64::MAX` stays what it is: never.
    pub const fn tsc(&self, ns: u64) -> u64 {
        let ticks = (ns as u128 * self.ticks_per_ns as u128) >> SHIFT;
        if ns == u64::MAX || ticks > u64::MAX as u128 {
            return u64::MAX;
        }
        (ticks as u64).saturating_add(1).saturating_add(self.start)
    }
}

/// `a / b` with [`SHIFT`] bits of fraction, rounded up.
fn ratio(a: u64, b: u64) -> u64 {
    ((a as u128) << SHIFT).div_ceil(b as u128).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MONTH_NS: u64 = 31 * 86_400 * NS_PER_SECOND;

    fn clock(hz: u64, start: u64) -> Clock {
        let mut clock = Clock::new();
        clock.init(hz, start);
        clock
    }

    #[test]
    fn a_second_is_a_second() {
        for hz in [10_000_000, 999_999_999, NS_PER_SECOND, 2_893_202_000, 5_000_000_001] {
            assert_eq!(clock(hz, 77).ns(77 + hz), NS_PER_SECOND);
            assert_eq!(clock(hz, 77).ns(77), 0);
        }
    }

    #[test]
    fn before_the_start_it_is_zero_and_never_stays_never() {
        assert_eq!(clock(NS_PER_SECOND, 100).ns(3), 0);
        assert_eq!(clock(NS_PER_SECOND, 100).tsc(u64::MAX), u64::MAX);
        assert_eq!(clock(250_000_000_000, 100).tsc(u64::MAX - 1), u64::MAX);
    }

    proptest! {
        #[test]
        fn time_is_exact_for_a_month_and_never_runs_backwards(
            hz in 10_000_000_u64..10_000_000_000, start: u32, ns in 0..MONTH_NS
        ) {
            let (clock, start) = (clock(hz, start.into()), u64::from(start));
            let ticks = (ns as u128 * hz as u128 / NS_PER_SECOND as u128) as u64;
            let exact = ticks as u128 * NS_PER_SECOND as u128 / hz as u128;
            let ns = clock.ns(start + ticks);
            prop_assert!(ns == exact as u64 || ns == exact as u64 + 1);
            prop_assert!(clock.ns(start + ticks + 1) >= ns);
        }

        #[test]
        fn a_deadline_has_passed_when_its_ticks_are_reached_and_not_long_before(
            hz in 10_000_000_u64..10_000_000_000, start: u32, ns in 0..MONTH_NS
        ) {
            let clock = clock(hz, start.into());
            let tsc = clock.tsc(ns);
            prop_assert!(clock.ns(tsc) >= ns);
            prop_assert!(clock.ns(tsc.saturating_sub(2)) <= ns);
        }

        #[test]
        fn nothing_overflows(hz: u64, start: u64, value: u64) {
            let clock = clock(hz, start);
            clock.ns(value);
            clock.tsc(value);
        }
    }
}
