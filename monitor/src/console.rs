//! What the guest prints, on its way to the domain's own console.
//!
//! A guest waits for its console, so it must be emptied even when nobody looks: what is not taken in time is dropped, the oldest
//! first. The last lines are kept for the report of a crash.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes that wait for the console at most.
const BACKLOG: usize = 16 << 10;
/// Bytes of the end that are kept.
const TAIL: usize = 4 << 10;

/// What the line says with which a Linux kernel gives up.
const PANIC: &str = "Kernel panic";
/// Between lines in a report.
const SEPARATOR: &str = " | ";

/// Text that was printed and not passed on, and the end of all text.
#[derive(Debug, Default)]
pub struct Output {
    backlog: VecDeque<u8>,
    tail: VecDeque<u8>,
}

impl Output {
    /// The guest prints.
    pub fn push(&mut self, bytes: &[u8]) {
        for (queue, most) in [(&mut self.backlog, BACKLOG), (&mut self.tail, TAIL)] {
            let bytes = &bytes[bytes.len().saturating_sub(most)..];
            let excess = (queue.len() + bytes.len()).saturating_sub(most);
            queue.drain(..excess);
            queue.extend(bytes);
        }
    }

    /// Passes on as much as `take` takes; it gets a part and gives how much it took.
    pub fn pass_on(&mut self, mut take: impl FnMut(&[u8]) -> usize) {
        loop {
            let part = self.backlog.as_slices().0;
            let taken = if part.is_empty() { 0 } else { take(part).min(part.len()) };
            if taken == 0 {
                return;
            }
            self.backlog.drain(..taken);
        }
    }

    /// The last lines that hold anything, as many as fit in `most` bytes; what a kernel says when it panics comes first.
    pub fn last_lines(&self, most: usize) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let panic = lines.iter().rfind(|line| line.contains(PANIC)).copied();
        let mut length = panic.map_or(0, str::len);
        let mut kept: Vec<&str> = Vec::new();
        for line in lines.iter().rev().copied().take_while(|line| Some(*line) != panic) {
            length += line.len() + SEPARATOR.len();
            if length > most {
                break;
            }
            kept.push(line);
        }
        kept.extend(panic);
        kept.reverse();
        kept.join(SEPARATOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_text_is_kept() {
        let mut output = Output::default();
        output.push(b"old");
        output.push(&[b'x'; BACKLOG]);
        output.push(b"new\n");
        let mut seen = std::vec::Vec::new();
        output.pass_on(|part| {
            let some = part.len().min(1000);
            seen.extend_from_slice(&part[..some]);
            some
        });
        assert_eq!(seen.len(), BACKLOG);
        assert!(seen.starts_with(b"xxx") && seen.ends_with(b"xnew\n"));
        output.pass_on(|_| unreachable!("nothing is left"));
    }

    #[test]
    fn a_report_has_the_last_lines() {
        let mut output = Output::default();
        output.push(b"one\r\ntwo\r\n\r\nthree \xff\n");
        assert_eq!(output.last_lines(100), "one | two | three \u{fffd}");
        assert_eq!(output.last_lines(12), "three \u{fffd}");
        output.push(b"Kernel panic - not syncing\nfour\nfive\n");
        assert_eq!(output.last_lines(35), "Kernel panic - not syncing | five");
    }
}
