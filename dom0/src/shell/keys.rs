//! From bytes of a terminal to keys.
//!
//! Understood are the sequences that xterm, its descendants and the Linux and VT100 consoles send; others are swallowed whole,
//! so that they leave no debris in the line.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A printable character.
    Char(char),
    /// A control character, by its letter: `Control(b'a')`.
    Control(u8),
    /// Return.
    Enter,
    /// Tabulator.
    Tab,
    /// Rub out.
    Backspace,
    /// Cursor keys and their friends.
    Up,
    /// Down.
    Down,
    /// Left.
    Left,
    /// Right.
    Right,
    /// A word to the left.
    WordLeft,
    /// A word to the right.
    WordRight,
    /// Home.
    Home,
    /// End.
    End,
    /// Delete.
    Delete,
}

/// Longest sequence that is followed, in bytes.
const SEQUENCE_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    Escape,
    /// After `ESC [` or `ESC O`: parameters so far.
    Sequence {
        bytes: [u8; SEQUENCE_MAX],
        length: usize,
    },
    /// Inside a character of several bytes.
    Utf8 {
        bytes: [u8; 4],
        length: usize,
        wanted: usize,
    },
}

/// The decoder.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    after_return: bool,
}

impl Decoder {
    /// Takes the next byte; gives the key it completes, if any.
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match core::mem::take(&mut self.state) {
            State::Plain => self.plain(byte, after_return),
            State::Escape => self.escape(byte),
            State::Sequence { bytes, length } => self.sequence(byte, bytes, length),
            State::Utf8 { bytes, length, wanted } => self.utf8(byte, bytes, length, wanted),
        }
    }

    fn plain(&mut self, byte: u8, after_return: bool) -> Option<Key> {
        match byte {
            // Both ends of a line are one: CR LF is the second half of what CR said.
            b'\n' if after_return => None,
            b'\r' | b'\n' => Some(Key::Enter),
            b'\t' => Some(Key::Tab),
            0x08 | 0x7f => Some(Key::Backspace),
            0x1b => {
                self.state = State::Escape;
                None
            }
            0x01..=0x1a => Some(Key::Control(byte | 0x60)),
            0x20..=0x7e => Some(Key::Char(byte as char)),
            0xc2..=0xf4 => {
                let wanted = 1 + usize::from(byte >= 0xc0) + usize::from(byte >= 0xe0) + usize::from(byte >= 0xf0);
                self.state = State::Utf8 { bytes: [byte, 0, 0, 0], length: 1, wanted };
                None
            }
            _ => None,
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' | b'O' => {
                self.state = State::Sequence { bytes: [0; SEQUENCE_MAX], length: 0 };
                None
            }
            b'b' => Some(Key::WordLeft),
            b'f' => Some(Key::WordRight),
            _ => None,
        }
    }

    fn sequence(&mut self, byte: u8, mut bytes: [u8; SEQUENCE_MAX], length: usize) -> Option<Key> {
        if !(0x40..=0x7e).contains(&byte) {
            if let Some(place) = bytes.get_mut(length) {
                *place = byte;
                self.state = State::Sequence { bytes, length: length + 1 };
            }
            return None;
        }
        let control = matches!(bytes[..length], [b'1', b';', b'5'] | [b'5']);
        match (byte, &bytes[..length]) {
            (b'A', _) => Some(Key::Up),
            (b'B', _) => Some(Key::Down),
            (b'C', _) if control => Some(Key::WordRight),
            (b'D', _) if control => Some(Key::WordLeft),
            (b'C', _) => Some(Key::Right),
            (b'D', _) => Some(Key::Left),
            (b'H', _) | (b'~', b"1" | b"7") => Some(Key::Home),
            (b'F', _) | (b'~', b"4" | b"8") => Some(Key::End),
            (b'~', b"3") => Some(Key::Delete),
            _ => None,
        }
    }

    fn utf8(&mut self, byte: u8, mut bytes: [u8; 4], length: usize, wanted: usize) -> Option<Key> {
        if byte & 0xc0 != 0x80 || length >= bytes.len() {
            // Not a continuation: the broken character is lost, this byte is not.
            return self.plain(byte, false);
        }
        bytes[length] = byte;
        if length + 1 < wanted {
            self.state = State::Utf8 { bytes, length: length + 1, wanted };
            return None;
        }
        let text = core::str::from_utf8(bytes.get(..wanted)?).ok()?;
        text.chars().next().filter(|c| !c.is_control()).map(Key::Char)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|&byte| decoder.feed(byte)).collect()
    }

    #[test]
    fn sequences_of_the_usual_terminals() {
        assert_eq!(
            keys(b"a\x1b[A\x1bOB\x1b[1;5C\x1b[3~"),
            [Key::Char('a'), Key::Up, Key::Down, Key::WordRight, Key::Delete]
        );
        assert_eq!(
            keys(b"\x1b[H\x1b[4~\x1bb\x01\x7f"),
            [Key::Home, Key::End, Key::WordLeft, Key::Control(b'a'), Key::Backspace]
        );
        assert_eq!(keys("é€𝄞".as_bytes()), [Key::Char('é'), Key::Char('€'), Key::Char('𝄞')]);
    }

    #[test]
    fn any_end_of_line_is_one() {
        assert_eq!(keys(b"\r\n\n\r\r"), [Key::Enter, Key::Enter, Key::Enter, Key::Enter]);
    }

    #[test]
    fn unknown_sequences_leave_nothing() {
        assert_eq!(keys(b"\x1b[200~x\x1b[?1049h\x1bZy\xff\xc3x"), [Key::Char('x'), Key::Char('y'), Key::Char('x')]);
    }
}
