//! The core's log: a ring of text that `dmesg` reads.
//!
//! Positions count all bytes since the start, so a reader that fell behind sees that something is missing; it goes on at
//! the start of a line.

use core::fmt::{self, Write};

/// Bytes kept: some hundreds of lines. A power of two.
pub const SIZE: usize = 32 << 10;

/// The last [`SIZE`] bytes of what was logged.
pub struct Log {
    ring: [u8; SIZE],
    end: u64,
}

impl Log {
    /// An empty log.
    pub(crate) const fn new() -> Log {
        Log { ring: [0; SIZE], end: 0 }
    }

    /// Appends a line with the time, in ns since the start, before it.
    pub fn line(&mut self, now: u64, text: fmt::Arguments<'_>) {
        let us = now / 1000;
        // Writing into the ring cannot fail; an error of somebody's `Display` only shortens the line.
        let _ = write!(self, "[{:5}.{:06}] {text}", us / 1_000_000, us % 1_000_000);
        let _ = self.write_str("\n");
    }

    /// At most `most` bytes of text from `position` on, skipping what was overwritten: the position after the last of them,
    /// and two parts, both empty at the end.
    pub fn read(&self, position: u64, most: usize) -> (u64, [&[u8]; 2]) {
        let oldest = self.end.saturating_sub(SIZE as u64);
        let from = if position < oldest { self.line_start(oldest) } else { position.min(self.end) };
        let count = most.min((self.end - from) as usize);
        let (head, tail) = self.ring.split_at(from as usize % SIZE);
        let first = count.min(tail.len());
        (from + count as u64, [&tail[..first], &head[..count - first]])
    }

    /// The first start of a line after `position`, which is in the ring.
    fn line_start(&self, position: u64) -> u64 {
        let mut rest = position..self.end;
        rest.find(|&at| self.ring[at as usize % SIZE] == b'\n').map_or(self.end, |at| at + 1)
    }
}

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.ring[self.end as usize % SIZE] = byte;
            self.end += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn read_all(log: &Log, mut position: u64, step: usize) -> (String, u64) {
        let mut text = Vec::new();
        loop {
            let (next, parts) = log.read(position, step);
            text.extend_from_slice(&parts.concat());
            position = next;
            if parts.concat().is_empty() {
                return (String::from_utf8(text).unwrap(), position);
            }
        }
    }

    #[test]
    fn lines_carry_the_time() {
        let mut log = Box::new(Log::new());
        log.line(12_345_678_901, format_args!("cpu {} is up", 1));
        log.line(0, format_args!("x"));
        let text = "[   12.345678] cpu 1 is up\n[    0.000000] x\n";
        assert_eq!(read_all(&log, 0, 7), (text.into(), text.len() as u64));
        assert_eq!(log.read(u64::MAX, 8), (text.len() as u64, [&[][..]; 2]));
    }

    #[test]
    fn who_falls_behind_goes_on_at_a_line() {
        let mut log = Box::new(Log::new());
        let (mut whole, mut line) = (String::new(), 0);
        while whole.len() < 3 * SIZE {
            log.line(line, format_args!("line {line}"));
            whole += &std::format!("[    0.000000] line {line}\n")
                .replace("0.000000", &std::format!("0.{:06}", line / 1000));
            line += 1;
        }
        assert_eq!(log.end, whole.len() as u64);
        let (text, end) = read_all(&log, 5, 100);
        assert_eq!(end, log.end);
        assert!(whole.ends_with(&text) && text.starts_with('['));
        assert!(text.len() > SIZE - 64);
        let oldest = whole.len() - SIZE;
        assert_eq!(read_all(&log, oldest as u64, 4096).0, whole[oldest..]);
    }

    #[test]
    fn one_line_larger_than_the_ring_leaves_nothing_but_its_end() {
        let mut log = Box::new(Log::new());
        log.line(0, format_args!("{}", "y".repeat(SIZE + 10)));
        assert_eq!(read_all(&log, 0, 64).0, "");
        log.line(0, format_args!("next"));
        assert_eq!(read_all(&log, 0, 64).0, "[    0.000000] next\n");
    }
}
