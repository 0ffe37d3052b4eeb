//! Options on the command line, as words `key=value`.

use alloc::format;
use alloc::string::String;

use unikernel::exit;

use crate::report::say;

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// What comes before the `=`.
    pub key: &'a str,
    /// What comes after it.
    pub value: &'a str,
}

impl Word<'_> {
    /// The value as a number.
    pub fn number(&self) -> Result<u64, String> {
        self.value.parse().map_err(|_| format!("`{}={}` is no number", self.key, self.value))
    }

    /// The value as one of these names.
    pub fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Result<T, String> {
        let known = names.iter().find(|(name, _)| *name == self.value);
        known.map(|&(_, value)| value).ok_or_else(|| {
            let names: alloc::vec::Vec<&str> = names.iter().map(|&(name, _)| name).collect();
            format!("`{}={}`: it is one of {}", self.key, self.value, names.join(", "))
        })
    }

    /// That nobody knows the key.
    pub fn unknown<T>(&self) -> Result<T, String> {
        Err(format!("`{}=` means nothing here", self.key))
    }
}

/// Has `set` take each word with a `=`, those for the runtime and for whoever connects domains left out.
pub fn each<'a>(
    words: impl Iterator<Item = &'a str>,
    set: impl FnMut(Word<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let pairs = words.filter_map(|word| word.split_once('=')).map(|(key, value)| Word { key, value });
    pairs.filter(|word| !matches!(word.key, "loglevel" | "connect")).try_for_each(set)
}

/// The options, or the end of the domain `name` with what is wrong with them.
pub fn or_end<T>(name: &str, options: Result<T, String>) -> T {
    options.unwrap_or_else(|reason| {
        say(format_args!("{name}: {reason}"));
        exit::shutdown(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_errors_name_them() {
        let mut seen = alloc::vec![];
        let taken = each("a=1 plain loglevel=x b=two".split(' '), |word| {
            seen.push(word.key);
            Ok(())
        });
        assert_eq!((taken, seen), (Ok(()), alloc::vec!["a", "b"]));
        let word = Word { key: "b", value: "two" };
        assert_eq!(word.number(), Err("`b=two` is no number".into()));
        assert_eq!(word.one_of(&[("one", 1), ("two", 2)]), Ok(2));
        assert_eq!(word.one_of(&[("one", 1)]), Err("`b=two`: it is one of one".into()));
    }
}
