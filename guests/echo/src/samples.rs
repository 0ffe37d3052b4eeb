//! Many measurements of the same thing, and the line that tells of them.

use alloc::vec::Vec;

use load::report::say;
use unikernel::time;

/// Times one thing is measured.
pub const ROUNDS: usize = 1000;

/// Measurements, in ticks of the time stamp counter.
#[derive(Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// Adds one that took from `start` to `end`. What reading the counter itself costs is taken off.
    pub fn add(&mut self, start: u64, end: u64) {
        self.0.push(end.saturating_sub(start).saturating_sub(overhead()));
    }

    /// Tells of them by a line of JSON. `each` is how many of the thing one sample holds.
    pub fn report(mut self, name: &str, each: u64) {
        self.0.sort_unstable();
        let at = |share: usize| self.0.get(self.0.len() * share / 100).copied().unwrap_or(0) / each;
        let line = format_args!(
            r#"bench {{"name":"{name}","min":{},"median":{},"p99":{},"samples":{}}}"#,
            at(0),
            at(50),
            at(99),
            self.0.len()
        );
        say(line);
    }
}

/// Says that nothing more will follow.
pub fn done() {
    say(format_args!(r#"bench {{"done":true}}"#));
}

/// Measures `act` many times.
pub fn measure(mut act: impl FnMut()) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        let start = time::ticks();
        act();
        samples.add(start, time::ticks());
    }
    samples
}

/// Ticks between two readings of the counter with nothing in between.
fn overhead() -> u64 {
    let start = time::ticks();
    time::ticks() - start
}
