//! What is on its way to the terminal.

use heapless::Deque;

/// Bytes that can wait for the terminal. Small, so that a switch of focus is felt at once; more than an output ring holds, so
/// that what the shell printed before a switch can be shown before it.
const QUEUE_SIZE: usize = 4096;

/// The queue in front of the terminal. Line feeds become carriage return and line feed on the way in.
#[derive(Debug, Default)]
pub struct Screen {
    /// Bytes, and whether each is still in a ring too.
    queue: Deque<(u8, bool), QUEUE_SIZE>,
    /// The last byte was a carriage return.
    returned: bool,
    /// The cursor is not at the start of a line.
    inside_line: bool,
}

impl Screen {
    /// Bytes that surely fit, even if all of them are line feeds.
    pub fn room(&self) -> usize {
        (QUEUE_SIZE - self.queue.len()) / 2
    }

    /// Whether everything has gone to the terminal.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Shows bytes, as many as there was [`Screen::room`] for; the rest is dropped.
    pub fn show(&mut self, bytes: &[u8]) {
        self.push(bytes, false);
    }

    /// The same for bytes that stay in their ring until they go to the terminal.
    pub fn lend(&mut self, bytes: &[u8]) {
        self.push(bytes, true);
    }

    fn push(&mut self, bytes: &[u8], lent: bool) {
        for &byte in bytes {
            if byte == b'\n' && !self.returned {
                let _ = self.queue.push_back((b'\r', false));
            }
            self.returned = byte == b'\r';
            self.inside_line = byte != b'\n' && byte != b'\r';
            let _ = self.queue.push_back((byte, lent));
        }
    }

    /// Lent bytes have been taken out of their ring.
    pub fn keep_lent(&mut self) {
        self.queue.iter_mut().for_each(|(_, lent)| *lent = false);
    }

    /// Shows a line of the console's own, on a line of its own.
    pub fn note(&mut self, text: core::fmt::Arguments<'_>) {
        struct Notes<'s>(&'s mut Screen);
        impl core::fmt::Write for Notes<'_> {
            fn write_str(&mut self, text: &str) -> core::fmt::Result {
                self.0.show(text.as_bytes());
                Ok(())
            }
        }
        if self.inside_line {
            self.show(b"\n");
        }
        // `Notes` does not fail.
        let _ = core::fmt::write(&mut Notes(self), text);
        self.show(b"\n");
    }

    /// Takes the next bytes for the terminal; gives their number, and how many of them were lent.
    pub fn take(&mut self, out: &mut [u8]) -> (usize, usize) {
        let (mut count, mut lent) = (0, 0);
        for slot in out {
            let Some((byte, was_lent)) = self.queue.pop_front() else { break };
            *slot = byte;
            count += 1;
            lent += usize::from(was_lent);
        }
        (count, lent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn shown(screen: &mut Screen) -> Vec<u8> {
        let mut out = std::vec![0; QUEUE_SIZE];
        let (count, _) = screen.take(&mut out);
        out.truncate(count);
        out
    }

    #[test]
    fn lent_bytes_are_counted_as_they_go() {
        let mut screen = Screen::default();
        screen.show(b"a");
        screen.lend(b"b\nc");
        screen.show(b"d");
        let mut out = [0; 4];
        assert_eq!((screen.take(&mut out), &out), ((4, 2), b"ab\r\n"));
        screen.keep_lent();
        assert_eq!(screen.take(&mut out), (2, 0));
    }

    #[test]
    fn line_feeds_get_their_carriage_return_once() {
        let mut screen = Screen::default();
        screen.show(b"one\ntwo\r");
        screen.show(b"\n\n");
        assert_eq!(shown(&mut screen), b"one\r\ntwo\r\n\r\n");
    }

    #[test]
    fn notes_stand_on_their_own_line() {
        let mut screen = Screen::default();
        screen.show(b"dom0> ");
        screen.note(format_args!("[{} left]", "hello"));
        screen.note(format_args!("[again]"));
        assert_eq!(shown(&mut screen), b"dom0> \r\n[hello left]\r\n[again]\r\n");
    }

    #[test]
    fn what_fits_by_its_room_is_shown_whole() {
        let mut screen = Screen::default();
        screen.show(&[b'\n'; 100]);
        let room = screen.room();
        screen.show(&std::vec![b'\n'; room]);
        assert_eq!(shown(&mut screen).len(), 200 + 2 * room);
    }
}
