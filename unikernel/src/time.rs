//! Time and timers.
//!
//! Times are nanoseconds since the core started, the unit of every deadline. The clock is the time stamp counter, set once by
//! the core's own clock, so reading it is no hypercall.

use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use crate::hypercall::raw;
use crate::vcpu::Mutex;

/// Turns counter values into times.
#[derive(Clone, Copy, Debug)]
struct Clock {
    tsc: u64,
    ns: u64,
    /// Nanoseconds per tick, times 2^32.
    scale: u64,
}

impl Clock {
    fn new(tsc: u64, ns: u64, tsc_hz: u64) -> Clock {
        let scale = (1_000_000_000u128 << 32) / u128::from(tsc_hz.max(1));
        Clock { tsc, ns, scale: u64::try_from(scale).unwrap_or(u64::MAX) }
    }

    fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.tsc);
        self.ns.saturating_add(((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64)
    }
}

/// How often the core's clock is read to set this one.
const READINGS: usize = 4;

static CLOCK: spin::Once<Clock> = spin::Once::new();

/// ns since the core started.
pub fn now() -> u64 {
    let clock = CLOCK.call_once(|| {
        // Of several readings the fastest: one during which others ran would put this clock behind the core's for good.
        let readings = (0..READINGS).map(|_| (crate::cpu::tsc(), clock(), crate::cpu::tsc()));
        let best = readings.min_by_key(|(before, _, after)| after.wrapping_sub(*before));
        let (_, ns, tsc) = best.unwrap_or_default();
        Clock::new(tsc, ns, crate::start::info().tsc_hz)
    });
    clock.at(crate::cpu::tsc())
}

/// The same from the core, by a hypercall.
pub fn clock() -> u64 {
    // SAFETY: no argument, no effect on memory.
    unsafe { raw::clock() }.unwrap_or(0)
}

/// The time stamp counter itself, for measurements.
pub fn ticks() -> u64 {
    crate::cpu::tsc()
}

/// The time `span` from now.
pub fn after(span: Duration) -> u64 {
    now().saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// Who waits for what time. The number tells timers of the same time apart.
#[derive(Debug, Default)]
pub struct Timers {
    waiting: BTreeMap<(u64, u64), Waker>,
    next: u64,
}

impl Timers {
    /// No timers.
    pub const fn new() -> Timers {
        Timers { waiting: BTreeMap::new(), next: 0 }
    }

    fn add(&mut self, deadline: u64, waker: Waker) -> u64 {
        self.next += 1;
        self.waiting.insert((deadline, self.next), waker);
        self.next
    }

    /// Wakes everything that is due.
    pub fn fire(&mut self, now: u64) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                return;
            }
            entry.remove().wake();
        }
    }

    /// The next deadline; `u64::MAX` is never.
    pub fn next_deadline(&self) -> u64 {
        self.waiting.first_key_value().map_or(u64::MAX, |((deadline, _), _)| *deadline)
    }
}

pub(crate) static TIMERS: Mutex<Timers> = Mutex::new(Timers::new());

/// See [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    deadline: u64,
    /// Number of the timer while one is set.
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut timers = TIMERS.lock();
        if let Some(timer) = self.timer.take() {
            timers.waiting.remove(&(self.deadline, timer));
        }
        if self.deadline != u64::MAX {
            self.timer = Some(timers.add(self.deadline, context.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            TIMERS.lock().waiting.remove(&(self.deadline, timer));
        }
    }
}

/// Waits until `deadline`; `u64::MAX` is for ever.
pub fn sleep_until(deadline: u64) -> Sleep {
    Sleep { deadline, timer: None }
}

/// Waits for `span`.
pub fn sleep(span: Duration) -> Sleep {
    sleep_until(after(span))
}

/// What `future` gives, or `None` if the deadline passes first.
pub async fn before<F: Future>(deadline: u64, future: F) -> Option<F::Output> {
    use futures_util::future::{Either, select};
    match select(pin!(future), sleep_until(deadline)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::tests::Count;

    #[test]
    fn the_clock_neither_stops_nor_overflows() {
        let clock = Clock::new(1000, 5, 2_000_000_000);
        assert_eq!(clock.at(1000), 5);
        assert_eq!(clock.at(3000), 1005);
        assert_eq!(clock.at(0), 5);
        // A year at 2 GHz, and no rounding worse than a part in a billion.
        let year = 365 * 86400 * 1_000_000_000u64;
        assert!(clock.at(2 * year).abs_diff(year) < year / 1_000_000_000);
        assert!(Clock::new(0, 0, 1).at(u64::MAX) > year);
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let count = Count::new();
        let mut timers = Timers::new();
        for deadline in [30, 10, 20, 10] {
            timers.add(deadline, count.waker());
        }
        assert_eq!(timers.next_deadline(), 10);
        timers.fire(9);
        assert_eq!(count.get(), 0);
        timers.fire(10);
        assert_eq!((count.get(), timers.next_deadline()), (2, 20));
        timers.fire(u64::MAX);
        assert_eq!((count.get(), timers.next_deadline()), (4, u64::MAX));
    }
}
