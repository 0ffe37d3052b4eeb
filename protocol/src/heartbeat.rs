//! The heartbeat page: signs of life and of progress, in a page of the domain that dom0 may read.
//!
//! A driver domain is dead when its beat stands still for longer than it declared, or when the device owes it an answer for
//! longer than it declared and the driver's own reset did not help. No frontend can make either true: the beat comes from the
//! event loop, whose work per turn is bounded, and the debt is the device's. Times are ns since the core started.

use crate::ring::Shared;

/// u64: how often the event loop beat.
pub const BEATS: usize = 0;
/// u64: longest time between two beats, in ns; 0 while the domain is not watched.
pub const PERIOD: usize = 8;
/// u64: since when the oldest request the device has not completed is with the device, in ns; 0 if there is none.
pub const OLDEST: usize = 16;
/// u64: longest time that a request may be with the device, the driver's own reset attempt included, in ns.
pub const TIMEOUT: usize = 24;
/// u64: when the domain answered or passed on the first request after it was started, in ns; 0 before that.
pub const FIRST_SERVED: usize = 32;

/// What a heartbeat page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// [`BEATS`].
    pub beats: u64,
    /// [`PERIOD`].
    pub period: u64,
    /// [`OLDEST`].
    pub oldest: u64,
    /// [`TIMEOUT`].
    pub timeout: u64,
    /// [`FIRST_SERVED`].
    pub first_served: u64,
}

/// Reads the page.
pub fn read(page: &impl Shared) -> Heartbeat {
    let word = |at| load(page, at);
    Heartbeat {
        beats: word(BEATS),
        period: word(PERIOD),
        oldest: word(OLDEST),
        timeout: word(TIMEOUT),
        first_served: word(FIRST_SERVED),
    }
}

/// Reads one of its words; may be torn while the domain writes it, which the next reading shows.
pub fn load(page: &impl Shared, at: usize) -> u64 {
    page.load_u32(at) as u64 | (page.load_u32(at + 4) as u64) << 32
}

/// Writes one of its words.
pub fn store(page: &impl Shared, at: usize, value: u64) {
    page.store_u32(at, value as u32);
    page.store_u32(at + 4, (value >> 32) as u32);
}

/// Why a domain counts as dead though it has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Its event loop stands still.
    NoBeat {
        /// For how long, in ns.
        for_ns: u64,
    },
    /// Its device owes an answer.
    NoProgress {
        /// For how long, in ns.
        for_ns: u64,
    },
}

/// Watches one domain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    beats: u64,
    since: u64,
}

impl Watch {
    /// A watch that begins now.
    pub const fn new(now: u64) -> Watch {
        Watch { beats: 0, since: now }
    }

    /// Judges a reading made at `now`.
    pub fn judge(&mut self, reading: &Heartbeat, now: u64) -> Option<Silence> {
        if reading.beats != self.beats || reading.period == 0 {
            *self = Watch { beats: reading.beats, since: now };
        }
        let still = now.saturating_sub(self.since);
        if reading.period != 0 && still > reading.period {
            return Some(Silence::NoBeat { for_ns: still });
        }
        let owed = now.saturating_sub(reading.oldest);
        (reading.oldest != 0 && reading.timeout != 0 && owed > reading.timeout)
            .then_some(Silence::NoProgress { for_ns: owed })
    }
}

impl core::fmt::Display for Silence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, ns) = match self {
            Silence::NoBeat { for_ns } => ("gave no sign of life for", for_ns),
            Silence::NoProgress { for_ns } => ("made no progress with its device for", for_ns),
        };
        write!(f, "{what} {} ms", ns / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::testing::Page;

    #[test]
    fn words_survive_the_page() {
        let page = Page::new(0);
        store(&page, OLDEST, 0x1_2345_6789);
        assert_eq!(read(&page), Heartbeat { oldest: 0x1_2345_6789, ..Heartbeat::default() });
    }

    #[test]
    fn a_beat_that_stands_still_and_a_debt_are_deaths_and_nothing_else_is() {
        let mut watch = Watch::new(0);
        let alive = |beats| Heartbeat { beats, period: 100, timeout: 50, ..Heartbeat::default() };
        assert_eq!(watch.judge(&alive(1), 1000), None);
        assert_eq!(watch.judge(&alive(2), 1100), None);
        assert_eq!(watch.judge(&alive(2), 1200), None);
        assert_eq!(watch.judge(&alive(2), 1201), Some(Silence::NoBeat { for_ns: 101 }));
        let owing = Heartbeat { oldest: 1210, ..alive(3) };
        assert_eq!(watch.judge(&owing, 1260), None);
        assert_eq!(watch.judge(&Heartbeat { beats: 4, ..owing }, 1261), Some(Silence::NoProgress { for_ns: 51 }));
        assert_eq!(watch.judge(&Heartbeat { beats: 4, ..Heartbeat::default() }, u64::MAX), None, "not watched");
    }
}
