//! The log: lines for the operator, kept by the core behind the domain's name.
//!
//! The macros are those of the `log` crate. The console ([`crate::console`]) is for the user of the domain, the log for
//! whoever runs the machine.

use core::fmt::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::hypercall::{bytes, raw};
use crate::text::Text;

/// Longest line the core takes, in bytes.
const LINE_MAX: usize = 256;

/// The backend of the `log` crate.
struct CoreLog;

impl Log for CoreLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = Text::<LINE_MAX>::new();
        // Writing into a `Text` cannot fail; only the arguments' own formatting can, and then the line is short.
        let _ = match record.level() {
            Level::Info => write!(line, "{}", record.args()),
            level => write!(line, "[{level}] {}", record.args()),
        };
        write_line(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Appends a line to the core's log; what is beyond 256 bytes is dropped.
pub fn write_line(line: &[u8]) {
    let (address, length) = bytes(&line[..line.len().min(LINE_MAX)]);
    // SAFETY: the line is readable for its length.
    let _ = unsafe { raw::log_write(address, length) };
}

/// Makes the macros of the `log` crate work; done before the main function runs.
pub fn start(level: Option<&str>) {
    static LOG: CoreLog = CoreLog;
    let level = level.and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    // It fails only if there is a backend already.
    let _ = log::set_logger(&LOG);
    log::set_max_level(level);
}
