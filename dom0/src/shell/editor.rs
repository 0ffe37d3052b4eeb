//! The line editor: one line, its history, and what the terminal has to be told.
//!
//! It draws with plain characters, backspaces and "erase to the end of the line" only. Typing at the end of a line just
//! echoes, so that transcripts read well; a line longer than the terminal is wide is edited rightly all the same, though a
//! cursor in the middle of it may be drawn in the wrong row.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::keys::{Decoder, Key};

/// Longest line, in characters.
pub const LINE_MAX: usize = 1024;
/// Lines remembered.
const HISTORY_MAX: usize = 100;
/// Erases from the cursor to the end of the line.
const ERASE: &str = "\x1b[K";
/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What a byte led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing that matters to others.
    None,
    /// A line is complete.
    Line(String),
    /// The line was given up.
    Interrupt,
    /// The operator asks what could follow.
    Complete,
}

/// The editor.
#[derive(Debug, Default)]
pub struct Editor {
    decoder: Decoder,
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    killed: Vec<char>,
    history: VecDeque<String>,
    /// Where in the history the line comes from, and the line that was left for it.
    browsing: Option<(usize, Vec<char>)>,
}

impl Editor {
    /// Starts a new line.
    pub fn begin(&mut self, prompt: &str, out: &mut Vec<u8>) {
        self.prompt = prompt.into();
        self.line.clear();
        self.cursor = 0;
        self.browsing = None;
        out.extend_from_slice(prompt.as_bytes());
    }

    /// Takes the line away, for text that has to be printed in its place; [`Editor::show`] brings it back.
    pub fn hide(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r");
        out.extend_from_slice(ERASE.as_bytes());
    }

    /// Draws prompt and line.
    pub fn show(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prompt.as_bytes());
        push(out, &self.line);
        back(out, self.line.len() - self.cursor);
    }

    /// The line up to the cursor.
    pub fn before_cursor(&self) -> String {
        self.line[..self.cursor].iter().collect()
    }

    /// The lines entered before, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Takes the next byte from the terminal.
    pub fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Event {
        match self.decoder.feed(byte) {
            Some(key) => self.press(key, out),
            None => Event::None,
        }
    }

    fn press(&mut self, key: Key, out: &mut Vec<u8>) -> Event {
        match key {
            Key::Char(c) => self.insert(&[c], out),
            Key::Enter => return self.enter(out),
            Key::Tab => return Event::Complete,
            Key::Control(b'c') => {
                out.extend_from_slice(b"^C\r\n");
                return Event::Interrupt;
            }
            Key::Backspace if self.cursor > 0 => self.remove(self.cursor - 1, self.cursor, out),
            Key::Delete | Key::Control(b'd') => self.remove(self.cursor, self.cursor + 1, out),
            Key::Left | Key::Control(b'b') => self.move_to(self.cursor.saturating_sub(1), out),
            Key::Right | Key::Control(b'f') => self.move_to(self.cursor + 1, out),
            Key::WordLeft => self.move_to(self.word_left(), out),
            Key::WordRight => self.move_to(self.word_right(), out),
            Key::Home | Key::Control(b'a') => self.move_to(0, out),
            Key::End | Key::Control(b'e') => self.move_to(self.line.len(), out),
            Key::Control(b'k') => self.kill(self.cursor, self.line.len(), out),
            Key::Control(b'u') => self.kill(0, self.cursor, out),
            Key::Control(b'w') => self.kill(self.word_left(), self.cursor, out),
            Key::Control(b'y') => {
                let killed = self.killed.clone();
                self.insert(&killed, out);
            }
            Key::Control(b'l') => {
                out.extend_from_slice(CLEAR.as_bytes());
                self.show(out);
            }
            Key::Up | Key::Control(b'p') => self.browse(1, out),
            Key::Down | Key::Control(b'n') => self.browse(-1, out),
            Key::Control(_) | Key::Backspace => {}
        }
        Event::None
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Event {
        out.extend_from_slice(b"\r\n");
        let line: String = self.line.drain(..).collect();
        self.cursor = 0;
        self.browsing = None;
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        Event::Line(line)
    }

    /// Puts characters at the cursor.
    fn insert(&mut self, chars: &[char], out: &mut Vec<u8>) {
        let room = LINE_MAX - self.line.len().min(LINE_MAX);
        let chars = &chars[..chars.len().min(room)];
        self.line.splice(self.cursor..self.cursor, chars.iter().copied());
        push(out, &self.line[self.cursor..]);
        self.cursor += chars.len();
        back(out, self.line.len() - self.cursor);
    }

    fn remove(&mut self, from: usize, to: usize, out: &mut Vec<u8>) {
        let to = to.min(self.line.len());
        if from >= to {
            return;
        }
        self.move_to(from, out);
        self.line.drain(from..to);
        push(out, &self.line[from..]);
        out.extend_from_slice(ERASE.as_bytes());
        back(out, self.line.len() - from);
    }

    fn kill(&mut self, from: usize, to: usize, out: &mut Vec<u8>) {
        if from < to {
            self.killed = self.line[from..to].to_vec();
            self.remove(from, to, out);
        }
    }

    fn move_to(&mut self, place: usize, out: &mut Vec<u8>) {
        let place = place.min(self.line.len());
        if place <= self.cursor {
            back(out, self.cursor - place);
        } else {
            push(out, &self.line[self.cursor..place]);
        }
        self.cursor = place;
    }

    fn word_left(&self) -> usize {
        let before = &self.line[..self.cursor];
        let end = before.iter().rposition(|&c| c != ' ').map_or(0, |last| last + 1);
        before[..end].iter().rposition(|&c| c == ' ').map_or(0, |space| space + 1)
    }

    fn word_right(&self) -> usize {
        let after = &self.line[self.cursor..];
        let start = after.iter().position(|&c| c != ' ').unwrap_or(after.len());
        let end = after[start..].iter().position(|&c| c == ' ').unwrap_or(after.len() - start);
        self.cursor + start + end
    }

    /// Goes `steps` lines back in the history, or forward again.
    fn browse(&mut self, steps: isize, out: &mut Vec<u8>) {
        let (depth, draft) = self.browsing.take().unwrap_or((0, self.line.clone()));
        let depth = depth.saturating_add_signed(steps).min(self.history.len());
        let line: Vec<char> = match self.history.len().checked_sub(depth).and_then(|index| self.history.get(index)) {
            Some(line) if depth > 0 => line.chars().collect(),
            _ => draft.clone(),
        };
        if depth > 0 {
            self.browsing = Some((depth, draft));
        }
        self.move_to(0, out);
        out.extend_from_slice(ERASE.as_bytes());
        self.line = line;
        self.cursor = self.line.len();
        push(out, &self.line);
    }

    /// Completes the word before the cursor, of which `typed` bytes are there, to what all `candidates` have in common; shows
    /// them if that is nothing more.
    pub fn complete(&mut self, typed: usize, candidates: &[String], out: &mut Vec<u8>) {
        let Some(first) = candidates.first() else { return };
        let common = candidates.iter().fold(first.as_str(), |common, other| common_prefix(common, other));
        let mut missing: Vec<char> = common.get(typed..).unwrap_or("").chars().collect();
        if candidates.len() == 1 && !common.ends_with('=') {
            missing.push(' ');
        }
        if !missing.is_empty() {
            return self.insert(&missing, out);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(candidates.join("  ").as_bytes());
        out.extend_from_slice(b"\r\n");
        self.show(out);
    }
}

fn common_prefix<'t>(one: &'t str, other: &str) -> &'t str {
    let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((index, _), _)| index);
    one.get(..same.unwrap_or(one.len().min(other.len()))).unwrap_or("")
}

fn push(out: &mut Vec<u8>, chars: &[char]) {
    for c in chars {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

fn back(out: &mut Vec<u8>, columns: usize) {
    out.extend(core::iter::repeat_n(0x08, columns));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    /// What a terminal shows in the row of the line, and where its cursor is.
    fn screen(bytes: &[u8]) -> (String, usize) {
        let (mut row, mut column): (Vec<char>, usize) = (Vec::new(), 0);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix(ERASE) {
                row.truncate(column);
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix(CLEAR) {
                (row, column) = (Vec::new(), 0);
                rest = after;
                continue;
            }
            rest = &rest[c.len_utf8()..];
            match c {
                '\r' => column = 0,
                '\n' => row.clear(),
                '\x08' => column -= 1,
                c => {
                    row.resize(row.len().max(column + 1), ' ');
                    row[column] = c;
                    column += 1;
                }
            }
        }
        (row.into_iter().collect(), column)
    }

    fn typed(editor: &mut Editor, bytes: &[u8], out: &mut Vec<u8>) -> Vec<Event> {
        let events = bytes.iter().map(|&byte| editor.feed(byte, out));
        events.filter(|event| *event != Event::None).collect()
    }

    fn edited(bytes: &[u8]) -> String {
        let (mut editor, mut out) = (Editor::default(), Vec::new());
        editor.begin("> ", &mut out);
        typed(&mut editor, bytes, &mut out);
        editor.line.iter().collect()
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(edited(b"lsit\x1b[D\x1b[D\x1b[D\x1b[3~\x1b[Cs\x05 -l"), "list -l");
        assert_eq!(edited(b"one two\x01zero \x05 three"), "zero one two three");
        assert_eq!(edited(b"one two three\x17\x17four"), "one four");
        assert_eq!(edited(b"one two\x15three"), "three");
        assert_eq!(edited(b"one two\x1b[1;5D\x0b!\x19"), "one !two");
        assert_eq!(edited(b"\x7f\x04\x1b[D\x1b[C\x0b\x15\x17"), "");
        assert_eq!(edited("grüße\x7f\x7fn".as_bytes()), "grün");
    }

    #[test]
    fn history_is_browsed_and_the_draft_comes_back() {
        let (mut editor, mut out) = (Editor::default(), Vec::new());
        let events = typed(&mut editor, b"list\rinfo\rinfo\r \rdra\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[Bft\r", &mut out);
        assert_eq!(events.last(), Some(&Event::Line("draft".to_string())));
        assert_eq!(editor.history().collect::<Vec<_>>(), ["list", "info", "draft"]);
        let events = typed(&mut editor, b"\x1b[A\x1b[A\x1b[A\x1b[A\r", &mut out);
        assert_eq!(events, [Event::Line("list".to_string())]);
    }

    #[test]
    fn completion_inserts_what_is_common_and_lists_the_rest() {
        let (mut editor, mut out) = (Editor::default(), Vec::new());
        editor.begin("> ", &mut out);
        let vcpu = ["vcpu-list".to_string(), "vcpu-pin".to_string()];
        assert_eq!(typed(&mut editor, b"v\t", &mut out), [Event::Complete]);
        editor.complete(1, &vcpu, &mut out);
        assert_eq!(editor.before_cursor(), "vcpu-");
        editor.complete(5, &vcpu, &mut out);
        assert!(String::from_utf8_lossy(&out).contains("vcpu-list  vcpu-pin\r\n> vcpu-"));
        typed(&mut editor, b"p", &mut out);
        editor.complete(6, &vcpu[1..], &mut out);
        assert_eq!(editor.before_cursor(), "vcpu-pin ");
        editor.complete(0, &[], &mut out);
        editor.complete(0, &["é".to_string(), "e".to_string()], &mut out);
        assert_eq!(editor.before_cursor(), "vcpu-pin ");
    }

    proptest! {
        #[test]
        fn the_screen_shows_the_line(bytes in prop::collection::vec(prop_oneof![
            8 => b' '..=b'~',
            6 => prop::sample::select(b"\x01\x02\x04\x05\x06\x0b\x0c\x0e\x10\x15\x17\x19\x7f\x08".to_vec()),
            1 => Just(b'\r'),
            1 => any::<u8>().prop_filter("asks others", |byte| !b"\t\n\x03".contains(byte)),
        ], 0..120)) {
            let (mut editor, mut out) = (Editor::default(), Vec::new());
            editor.begin("> ", &mut out);
            for byte in bytes {
                if let Event::Line(_) = editor.feed(byte, &mut out) {
                    editor.begin("> ", &mut out);
                }
            }
            let line: String = editor.line.iter().collect();
            prop_assert_eq!(screen(&out), (std::format!("> {line}"), 2 + editor.cursor));
        }

        #[test]
        fn a_line_is_bounded(count in 0_usize..3000) {
            prop_assert!(edited(&std::vec![b'x'; count]).len() <= LINE_MAX);
        }
    }
}
