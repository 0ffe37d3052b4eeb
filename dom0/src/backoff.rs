//! When a domain that ended is started again: at once, then later and later, then not any more.

/// A run this long wipes out what was before, in ns.
const STABLE_NS: u64 = 10_000_000_000;
/// A run this long in which somebody was served does so, too, in ns: whoever needs the service is better off with it in between.
const SERVED_NS: u64 = 100_000_000;
/// Restarts in a row that are immediate.
const IMMEDIATE: u32 = 3;
/// Wait before the next restart, in ns; it doubles with each further one.
const FIRST_DELAY_NS: u64 = 100_000_000;
/// Longest wait, in ns.
const LONGEST_DELAY_NS: u64 = 5_000_000_000;
/// Restarts in a row before a domain is put in quarantine.
const RESTARTS_MAX: u32 = 8;

/// What to do with a domain that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it at this time, in ns since the core started.
    RestartAt(u64),
    /// Leave it until somebody looks at it.
    Quarantine,
}

/// The recent history of a domain's deaths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    in_a_row: u32,
}

impl Backoff {
    /// The domain ended at `now`, having been started at `started`, and `served` somebody in between or not.
    pub fn ended(&mut self, started: u64, now: u64, served: bool) -> Verdict {
        if now.saturating_sub(started) >= if served { SERVED_NS } else { STABLE_NS } {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        match self.in_a_row {
            ..=IMMEDIATE => Verdict::RestartAt(now),
            row @ ..=RESTARTS_MAX => {
                let delay = (FIRST_DELAY_NS << (row - IMMEDIATE - 1)).min(LONGEST_DELAY_NS);
                Verdict::RestartAt(now.saturating_add(delay))
            }
            _ => Verdict::Quarantine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_in_quarantine() {
        let mut backoff = Backoff::default();
        let waits: std::vec::Vec<_> = (0..9).map(|_| backoff.ended(50, 50, true)).collect();
        let expected = [0, 0, 0, 100, 200, 400, 800, 1600].map(|ms: u64| Verdict::RestartAt(50 + ms * 1_000_000));
        assert_eq!(waits[..8], expected);
        assert_eq!(waits[8], Verdict::Quarantine);
    }

    #[test]
    fn a_long_run_makes_good() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.ended(0, 0, false);
        }
        assert_eq!(backoff.ended(0, STABLE_NS, false), Verdict::RestartAt(STABLE_NS));
    }

    #[test]
    fn a_service_that_is_killed_every_second_goes_on() {
        let mut backoff = Backoff::default();
        for second in 0..10_000 {
            let now = second * 1_000_000_000;
            assert_eq!(backoff.ended(now, now + SERVED_NS, true), Verdict::RestartAt(now + SERVED_NS));
        }
    }
}
