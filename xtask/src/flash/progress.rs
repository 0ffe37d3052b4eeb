//! Progress of a long copy: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::disk::MIB;

/// Time between two lines in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Says on standard error how far something is.
pub struct Progress {
    what: &'static str,
    total: u64,
    begin: Instant,
    said: Instant,
    terminal: bool,
}

impl Progress {
    /// Of `what`, which is done at `total` bytes.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let now = Instant::now();
        Progress { what, total, begin: now, said: now, terminal: std::io::stderr().is_terminal() }
    }

    /// So many bytes are done.
    pub fn at(&mut self, done: u64) {
        let ended = done >= self.total;
        if !self.terminal && !ended && self.said.elapsed() < LOG_INTERVAL {
            return;
        }
        self.said = Instant::now();
        let line = line(self.what, done, self.total, self.begin.elapsed());
        match (self.terminal, ended) {
            (true, false) => eprint!("\r{line}"),
            (true, true) => eprintln!("\r{line}"),
            (false, _) => eprintln!("{line}"),
        }
        let _ = std::io::stderr().flush();
    }
}

fn line(what: &str, done: u64, total: u64, time: Duration) -> String {
    let percent = done * 100 / total.max(1);
    let speed = done as f64 / MIB as f64 / time.as_secs_f64().max(0.001);
    format!("{what}: {} of {} MiB, {percent}%, {speed:.0} MiB/s   ", done / MIB, total / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_share_and_a_speed() {
        let text = line("writing", 50 * MIB, 200 * MIB, Duration::from_secs(5));
        assert_eq!(text.trim_end(), "writing: 50 of 200 MiB, 25%, 10 MiB/s");
        assert!(line("writing", 0, 0, Duration::ZERO).contains("0%"));
    }
}
