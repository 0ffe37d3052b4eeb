//! Counts lines of Rust: those that hold a token of the program, which leaves out blank lines, comments and documentation,
//! and those of items that exist only in tests.
//!
//! Counted on tokens, not on text: a `//` inside a string is no comment, and a string over several lines is several lines.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// Configuration names that hold only while something is tested.
const TEST_NAMES: [&str; 4] = ["test", "loom", "fuzzing", "miri"];
/// Words that begin an item whose end is a semicolon, whatever braces it holds.
const ENDED_BY_SEMICOLON: [&str; 5] = ["use", "static", "type", "extern", "let"];

/// What was found in one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Lines of code.
    pub lines: usize,
    /// Modules in files of their own that exist only in tests.
    pub test_modules: Vec<String>,
    /// First parts of paths below the crates that were asked for.
    pub mentions: BTreeSet<String>,
}

/// Counts a file of Rust. `roots` are names such as `protocol` or `crate`; the names right behind them are collected.
pub fn rust(source: &str, roots: &[&str]) -> Result<Count> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow!("{error}")).context("no Rust")?;
    let mut counter =
        Counter { source: source.lines().collect(), roots, lines: BTreeSet::new(), count: Count::default() };
    if !counter.file_is_test_only(tokens.clone()) {
        counter.walk(tokens);
    }
    counter.count.lines = counter.lines.len();
    Ok(counter.count)
}

/// Counts a file of assembly: lines that hold more than a comment.
pub fn assembly(source: &str) -> usize {
    let comment = |line: &str| line.is_empty() || ["#", "//", ";"].iter().any(|mark| line.starts_with(mark));
    source.lines().filter(|line| !comment(line.trim())).count()
}

struct Counter<'a> {
    source: Vec<&'a str>,
    roots: &'a [&'a str],
    lines: BTreeSet<usize>,
    count: Count,
}

impl Counter<'_> {
    /// Whether the file begins with `#![cfg(test)]` or the like.
    fn file_is_test_only(&self, tokens: TokenStream) -> bool {
        let mut tokens = tokens.into_iter();
        // Inner attributes come first; documentation comments are among them.
        while punct(tokens.next().as_ref(), '#') && punct(tokens.next().as_ref(), '!') {
            match tokens.next() {
                Some(TokenTree::Group(group)) if is_test_attribute(&group) => return true,
                _ => {}
            }
        }
        false
    }

    fn walk(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            if punct(Some(&token), '#')
                && let Some(TokenTree::Group(group)) = tokens.peek()
                && group.delimiter() == Delimiter::Bracket
            {
                if self.is_comment(token.span()) {
                    tokens.next();
                    continue;
                }
                if is_test_attribute(group) {
                    tokens.next();
                    self.skip_item(&mut tokens);
                    continue;
                }
            }
            if punct(Some(&token), '#') && self.is_comment(token.span()) {
                // An inner documentation comment: `!` and the group.
                tokens.next();
                tokens.next();
                continue;
            }
            self.mention(&token, &mut tokens);
            self.token(token);
        }
    }

    fn token(&mut self, token: TokenTree) {
        match token {
            TokenTree::Group(group) => {
                self.mark(group.span_open());
                self.mark(group.span_close());
                self.walk(group.stream());
            }
            other => self.mark(other.span()),
        }
    }

    fn mark(&mut self, span: Span) {
        for line in span.start().line..=span.end().line {
            // A string over several lines may hold blank ones.
            if self.source.get(line - 1).is_some_and(|text| !text.trim().is_empty()) {
                self.lines.insert(line);
            }
        }
    }

    /// Documentation comments arrive as attributes; the text at their place tells.
    fn is_comment(&self, span: Span) -> bool {
        let start = span.start();
        let line = self.source.get(start.line - 1).map_or("", |line| line);
        let text: String = line.chars().skip(start.column).take(2).collect();
        text == "//" || text == "/*"
    }

    /// Takes tokens up to the end of the item that follows.
    fn skip_item(&mut self, tokens: &mut std::iter::Peekable<proc_macro2::token_stream::IntoIter>) {
        let mut words: Vec<String> = Vec::new();
        for token in tokens.by_ref() {
            let by_semicolon = match words.first().map(String::as_str) {
                Some("const") => words.get(1).is_none_or(|second| second != "fn" && second != "unsafe"),
                Some(first) => ENDED_BY_SEMICOLON.contains(&first),
                None => false,
            };
            match &token {
                TokenTree::Ident(word) if *word != "pub" => words.push(word.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !by_semicolon => return,
                TokenTree::Punct(mark) if mark.as_char() == ';' => {
                    if let [keyword, name, ..] = &words[..]
                        && keyword == "mod"
                    {
                        self.count.test_modules.push(name.clone());
                    }
                    return;
                }
                TokenTree::Punct(mark) if mark.as_char() == ',' && !by_semicolon => return,
                _ => {}
            }
        }
    }

    /// Notes what follows `root::`.
    fn mention(&mut self, token: &TokenTree, tokens: &mut std::iter::Peekable<proc_macro2::token_stream::IntoIter>) {
        let TokenTree::Ident(word) = token else { return };
        if !self.roots.iter().any(|root| word == root) {
            return;
        }
        let mut ahead = tokens.clone();
        if !(punct(ahead.next().as_ref(), ':') && punct(ahead.next().as_ref(), ':')) {
            return;
        }
        match ahead.next() {
            Some(TokenTree::Ident(name)) => drop(self.count.mentions.insert(name.to_string())),
            Some(TokenTree::Group(group)) => self.count.mentions.extend(first_words(&group)),
            _ => {}
        }
    }
}

/// The first word of each part of `{a::b, c, d::{e}}`.
fn first_words(group: &Group) -> Vec<String> {
    let mut words = Vec::new();
    let mut first = true;
    for token in group.stream() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ',' => first = true,
            TokenTree::Ident(word) if std::mem::take(&mut first) => words.push(word.to_string()),
            _ => {}
        }
    }
    words
}

fn punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

fn is_test_attribute(attribute: &Group) -> bool {
    let mut tokens = attribute.stream().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(name)), None) => name == "test",
        (Some(TokenTree::Ident(name)), Some(TokenTree::Group(group))) if name == "cfg" => {
            holds(group.stream().into_iter().collect::<Vec<_>>().as_slice()) == Some(false)
        }
        _ => false,
    }
}

/// Whether a predicate holds in a build that tests nothing; `None` if it depends on something else.
fn holds(predicate: &[TokenTree]) -> Option<bool> {
    match predicate {
        [TokenTree::Ident(name)] => TEST_NAMES.iter().any(|test| name == test).then_some(false),
        [TokenTree::Ident(name), TokenTree::Group(group)] => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            let mut parts = inner.split(|token| punct(Some(token), ',')).filter(|part| !part.is_empty()).map(holds);
            match name.to_string().as_str() {
                "not" => parts.next().flatten().map(|value| !value),
                "all" => parts
                    .try_fold(true, |all, part| match part {
                        Some(false) => Err(Some(false)),
                        part => Ok(all && part.is_some()),
                    })
                    .map_or_else(|decided| decided, |all| all.then_some(true)),
                "any" => parts
                    .try_fold(true, |none, part| match part {
                        Some(true) => Err(Some(true)),
                        part => Ok(none && part.is_some()),
                    })
                    .map_or_else(|decided| decided, |none| none.then_some(false)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> usize {
        rust(source, &[]).unwrap().lines
    }

    #[test]
    fn comments_documentation_and_blank_lines_do_not_count() {
        assert_eq!(
            lines("//! Doc.\n\n// note\n/* a\n b */\n/// Doc.\nfn f() {\n    // inner\n    g(); // tail\n}\n"),
            3
        );
        assert_eq!(lines("mod a {\n    //! Inner.\n    fn f() {}\n}\n"), 3);
        assert_eq!(lines("#[derive(Debug)]\nstruct S;\n"), 2);
    }

    #[test]
    fn strings_count_as_what_they_are() {
        assert_eq!(lines("const A: &str = \"// no comment\";\n"), 1);
        assert_eq!(lines("asm!(r#\"\n  mov rax, 1\n\n  ret\n\"#);\n"), 4);
    }

    #[test]
    fn what_exists_only_in_tests_does_not_count() {
        assert_eq!(lines("fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"), 1);
        assert_eq!(lines("#[cfg(any(test, loom))]\nextern crate std;\nfn f() {}\n"), 1);
        assert_eq!(lines("#[cfg(all(test, not(loom)))]\nuse a::{b, c};\nfn f() {}\n"), 1);
        assert_eq!(lines("#[cfg(test)]\nconst A: S = S {\n    a: 1,\n};\nfn f() {}\n"), 1);
        assert_eq!(lines("#[cfg(test)]\npub const fn a() {\n}\nfn f() {}\n"), 1);
        assert_eq!(lines("#![cfg(test)]\nfn f() {}\n"), 0);
    }

    #[test]
    fn what_exists_in_the_machine_counts() {
        assert_eq!(lines("#[cfg(not(test))]\nfn f() {}\n"), 2);
        assert_eq!(lines("#[cfg(any(test, freestanding))]\nfn f() {}\n"), 2);
        assert_eq!(lines("#[cfg(freestanding)]\nfn f() {}\n"), 2);
        assert_eq!(lines("#[cfg(feature = \"x\")]\nfn f() {}\n"), 2);
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_named() {
        let count = rust("#[cfg(test)]\nmod model;\nmod real;\n", &[]).unwrap();
        assert_eq!((count.lines, count.test_modules), (1, vec!["model".to_string()]));
    }

    #[test]
    fn mentions_are_the_first_names_below_a_root() {
        let count =
            rust("use protocol::{event::Port, grant, self as p};\nfn f() { protocol::layout::X }\n", &["protocol"]);
        let mentions = count.unwrap().mentions;
        assert_eq!(mentions.iter().map(String::as_str).collect::<Vec<_>>(), ["event", "grant", "layout", "self"]);
    }

    #[test]
    fn assembly_is_counted_without_its_comments() {
        assert_eq!(assembly("# top\n\nstart:\n  mov eax, 1 # tail\n// note\n"), 2);
    }
}
