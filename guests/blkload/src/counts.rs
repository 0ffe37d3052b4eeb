//! What happened so far, and the lines that tell of it.

use core::fmt;

use load::histogram::Histogram;
use unikernel::time;

/// Counts of the whole run.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests issued.
    pub issued: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that the disk was taken away under: what became of them is not known.
    pub unknown: u64,
    /// Times that it was.
    pub gone: u64,
    /// Of these: reads, writes, discards, flushes.
    pub kinds: [u64; 4],
    /// Bytes read or written.
    pub bytes: u64,
    /// Answered with an error.
    pub errors: u64,
    /// Reads that found what they must not.
    pub wrong: u64,
    /// Requests that overlapped one under way, one of the two writing.
    pub overlaps: u64,
    /// From issue to answer, in ns.
    pub latency: Histogram,
    /// When it began, and when the last answer came.
    pub begun: u64,
    /// See `begun`.
    last_answer: u64,
    /// Longest time without any answer while requests were in flight, in ns: the blackout of a restart.
    pub longest_gap: u64,
    /// Fewest requests in flight when an answer came, the end of the run excepted.
    pub fewest: Option<u64>,
}

impl Counts {
    /// Begins now.
    pub fn new() -> Counts {
        let now = time::now();
        Counts { begun: now, last_answer: now, ..Counts::default() }
    }

    /// A request was issued that answers wait for now.
    pub fn issue(&mut self) {
        if self.in_flight() == 0 {
            self.last_answer = time::now();
        }
        self.issued += 1;
    }

    /// Requests that are not answered.
    pub const fn in_flight(&self) -> u64 {
        self.issued - self.answered - self.unknown
    }

    /// An answer came to a request issued at `then`. `running`: more are being issued.
    pub fn answer(&mut self, then: u64, running: bool) {
        let now = time::now();
        if running {
            let in_flight = self.in_flight();
            self.fewest = Some(self.fewest.unwrap_or(in_flight).min(in_flight));
        }
        self.answered += 1;
        self.latency.add(now.saturating_sub(then));
        self.longest_gap = self.longest_gap.max(now.saturating_sub(self.last_answer));
        self.last_answer = now;
    }
}

impl fmt::Display for Counts {
    /// A JSON object without its braces, short enough for a line of the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = |per_mille| self.latency.percentile(per_mille) / 1000;
        write!(
            f,
            r#""ms":{},"issued":{},"answered":{},"fewest":{},"overlaps":{},"errors":{},"wrong":{},"gone":{},"unknown":{},"p50_us":{},"p99_us":{},"max_us":{},"gap_us":{}"#,
            time::now().saturating_sub(self.begun) / 1_000_000,
            self.issued,
            self.answered,
            self.fewest.unwrap_or(0),
            self.overlaps,
            self.errors,
            self.wrong,
            self.gone,
            self.unknown,
            latency(500),
            latency(990),
            self.latency.max() / 1000,
            self.longest_gap / 1000,
        )
    }
}
