//! Takes keys out of a configuration one by one, remembering where each stood and what was wrong with it.
//!
//! The file is parsed as TOML with spans; overrides of the command line (`key=value`) replace its entries. What nobody took
//! in the end is unknown, or means nothing to this guest.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::keys;
use super::problem::Problem;

/// Largest configuration, in bytes.
pub const FILE_MAX: usize = 64 * 1024;
/// Deepest nesting of brackets; no key needs more than one level, and the parser recurses on the small stack of a domain.
const NESTING_MAX: usize = 8;
/// Most overrides on a command line.
const OVERRIDES_MAX: usize = 64;
/// Problems that are reported at once; more would scroll the first away.
const PROBLEMS_MAX: usize = 20;
/// Longest text of a value, in bytes.
pub const TEXT_MAX: usize = 1000;
/// Most entries of a list.
pub const LIST_MAX: usize = 64;

/// A key with its value and place.
#[derive(Debug)]
pub struct Entry<'t> {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub place: String,
    /// Its value.
    pub value: DeValue<'t>,
    /// Where in the text, to report in the order of the file.
    order: usize,
}

/// What is left to take, and what was wrong so far.
#[derive(Debug)]
pub struct Reader<'t> {
    entries: Vec<Entry<'t>>,
    /// The name in the file itself, whatever the overrides say: an image is found by it.
    pub name_in_file: Option<String>,
    /// What makes the configuration bad.
    pub problems: Vec<Problem>,
    /// What has no effect.
    pub warnings: Vec<Problem>,
}

impl<'t> Reader<'t> {
    /// Parses `text`, which is named `file` in messages, and lays `overrides` over it.
    pub fn new(file: &str, text: &'t str, overrides: &'t [String]) -> Reader<'t> {
        let mut reader = Reader { entries: Vec::new(), name_in_file: None, problems: Vec::new(), warnings: Vec::new() };
        reader.read_file(file, text);
        let name = reader.entries.iter().find(|entry| entry.key == "name");
        reader.name_in_file = name.and_then(|entry| entry.value.as_str()).map(ToOwned::to_owned);
        if overrides.len() > OVERRIDES_MAX {
            let text = format!("{} overrides, {OVERRIDES_MAX} are the most", overrides.len());
            reader.problem("command line", "syntax", text, "write them into a file");
            return reader;
        }
        for (index, word) in overrides.iter().enumerate() {
            reader.read_override(FILE_MAX + index, word);
        }
        reader
    }

    fn read_file(&mut self, file: &str, text: &'t str) {
        if text.len() > FILE_MAX {
            let message = format!("{} bytes, {FILE_MAX} are the most", text.len());
            return self.problem(file, "syntax", message, "shorten it");
        }
        let place = |at: usize| format!("{file}:{}", line_of(text, at));
        if let Some(at) = too_deep(text) {
            let message = format!("brackets nest deeper than {NESTING_MAX}");
            return self.problem(&place(at), "syntax", message, "no key needs nested lists");
        }
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let line = line_text(text, at);
                let key = line.split(['=', ' ', '\t']).next().unwrap_or("");
                let key = if keys::find(key).is_some() { key } else { "syntax" };
                let cure = "write `key = value`, with text in quotes and every key once";
                return self.problem(&place(at), key, error.message().replace('\n', ", "), cure);
            }
        };
        for (key, value) in table {
            let at = key.span().start;
            let (key, place) = (key.into_inner().into_owned(), place(at));
            self.entries.push(Entry { key, place, value: value.into_inner(), order: at });
        }
        self.entries.sort_by_key(|entry| entry.order);
    }

    fn read_override(&mut self, order: usize, word: &'t str) {
        let place = "command line".to_owned();
        let Some((key, value)) = word.split_once('=') else {
            let text = format!("`{}` is no override", shown(word));
            return self.problem(&place, "syntax", text, "write key=value");
        };
        let (key, text) = (key.trim(), value.trim());
        let value = match too_deep(text) {
            None => DeValue::parse(text).map(|value| value.into_inner()).ok(),
            Some(_) => None,
        };
        // What is no TOML value is text: quotes get lost on a command line.
        let value = value.unwrap_or_else(|| DeValue::String(text.into()));
        self.entries.retain(|entry| entry.key != key);
        self.entries.push(Entry { key: key.to_owned(), place, value, order });
    }

    /// Records a problem.
    pub fn problem(&mut self, place: &str, key: &str, text: String, cure: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            let (place, key, cure) = (place.to_owned(), shown(key), cure.to_owned());
            self.problems.push(Problem { place, key, text, cure });
        }
    }

    /// Records a problem with an entry.
    pub fn bad(&mut self, entry: &Entry<'_>, text: String, cure: &str) {
        self.problem(&entry.place, &entry.key, text, cure);
    }

    /// Records a warning about an entry.
    pub fn warn(&mut self, entry: &Entry<'_>, text: &str) {
        let (place, key) = (entry.place.clone(), shown(&entry.key));
        self.warnings.push(Problem { place, key, text: text.to_owned(), cure: String::new() });
    }

    /// Where `key` stands, if it is given and not yet taken.
    pub fn place(&self, key: &str) -> Option<String> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.place.clone())
    }

    /// Takes an entry.
    pub fn take(&mut self, key: &str) -> Option<Entry<'t>> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index))
    }

    /// Takes a whole number.
    pub fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let entry = self.take(key)?;
        self.integer_of(&entry, &entry.value, &range)
    }

    /// Takes a list of whole numbers; a single one is a list of one.
    pub fn integers(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<(Entry<'t>, Vec<i64>)> {
        self.list(key, |reader, entry, value| reader.integer_of(entry, value, &range))
    }

    fn integer_of(&mut self, entry: &Entry<'_>, value: &DeValue<'_>, range: &RangeInclusive<i64>) -> Option<i64> {
        let number = match value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            other => {
                let text = format!("type {} where a whole number belongs", other.type_str());
                self.bad(entry, text, &format!("write a number from {} to {}", range.start(), range.end()));
                return None;
            }
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let text = format!("{} is out of range", shown(&value_text(value)));
        self.bad(entry, text, &format!("write a number from {} to {}", range.start(), range.end()));
        None
    }

    /// Takes a text.
    pub fn text(&mut self, key: &str) -> Option<(Entry<'t>, String)> {
        let entry = self.take(key)?;
        self.text_of(&entry, &entry.value).map(|text| (entry, text))
    }

    /// Takes a list of texts; a single text is a list of one.
    pub fn texts(&mut self, key: &str) -> Option<(Entry<'t>, Vec<String>)> {
        self.list(key, Reader::text_of)
    }

    /// Takes a list of values that `each` reads; a single value is a list of one.
    fn list<T>(
        &mut self,
        key: &str,
        each: impl Fn(&mut Self, &Entry<'_>, &DeValue<'_>) -> Option<T>,
    ) -> Option<(Entry<'t>, Vec<T>)> {
        let entry = self.take(key)?;
        let values = match &entry.value {
            DeValue::Array(values) if values.len() > LIST_MAX => {
                self.bad(&entry, format!("{} entries, {LIST_MAX} are the most", values.len()), "shorten the list");
                return None;
            }
            DeValue::Array(values) => values.iter().map(|value| each(self, &entry, value.get_ref())).collect(),
            value => each(self, &entry, value).map(|value| alloc::vec![value]),
        };
        values.map(|values: Vec<T>| (entry, values))
    }

    fn text_of(&mut self, entry: &Entry<'_>, value: &DeValue<'_>) -> Option<String> {
        let DeValue::String(text) = value else {
            self.bad(entry, format!("type {} where text belongs", value.type_str()), "put it in quotes");
            return None;
        };
        if text.len() > TEXT_MAX {
            self.bad(entry, format!("{} bytes, {TEXT_MAX} are the most", text.len()), "shorten it");
            return None;
        }
        if text.chars().any(char::is_control) {
            self.bad(entry, "holds a control character".to_owned(), "write one line of printable text");
            return None;
        }
        Some(text.to_string())
    }

    /// Reports everything nobody took: keys that mean nothing to `guest` as warnings, others as problems.
    pub fn finish(&mut self, guest: &str) {
        for entry in core::mem::take(&mut self.entries) {
            match keys::find(&entry.key) {
                Some(key) if key.meaning == keys::Meaning::None => {
                    self.warn(&entry, &format!("means nothing here: {}", key.text));
                }
                Some(_) => self.warn(&entry, &format!("means nothing to a {guest} guest")),
                None => {
                    let cure = match keys::meant(&entry.key) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => "`help config` lists the keys".to_owned(),
                    };
                    self.bad(&entry, "unknown key".to_owned(), &cure);
                }
            }
        }
    }
}

/// The value as it was written, for messages.
fn value_text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::String(text) => text.to_string(),
        other => other.type_str().to_owned(),
    }
}

/// `text` as it may be shown to the operator: short and without control characters.
pub fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let mut out: String = text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        out.push_str("...");
    }
    out
}

/// Line, from 1, of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// The line that holds the byte at `at`.
fn line_text(text: &str, at: usize) -> &str {
    text.lines().nth(line_of(text, at) - 1).unwrap_or("")
}

/// Where brackets nest deeper than [`NESTING_MAX`], if anywhere.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            return Some(token.span().start());
        }
    }
    None
}
