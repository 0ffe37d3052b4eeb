//! The words and options of one command, checked against what it takes.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::commands::{Command, Opt};
use crate::config::{shown, suggest};

/// A command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its status.
    pub status: u8,
    /// What is shown.
    pub text: String,
}

/// Status of a command that failed.
pub const FAILED: u8 = 1;
/// Status of a command that was not understood.
pub const USAGE: u8 = 2;

impl Fault {
    /// The command could not be understood.
    pub fn usage(command: &Command, text: String) -> Fault {
        let text = format!("{}: {text}\nusage: {}", command.name, usage(command));
        Fault { status: USAGE, text }
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault { status: FAILED, text }
    }
}

/// One line that shows how a command is written.
pub fn usage(command: &Command) -> String {
    let mut line = command.name.to_owned();
    for option in command.options {
        let name = match option.short {
            Some(short) => format!("-{short}|--{}", option.long),
            None => format!("--{}", option.long),
        };
        line += &match option.value {
            "" => format!(" [{name}]"),
            value => format!(" [{name} {value}]"),
        };
    }
    if !command.usage.is_empty() {
        line = line + " " + command.usage;
    }
    line
}

/// What stands behind a command.
#[derive(Clone, Debug)]
pub struct Args {
    /// The command.
    pub command: &'static Command,
    /// Words that are no options.
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Args {
    /// Sorts words and options.
    pub fn parse(command: &'static Command, words: Vec<String>) -> Result<Args, Fault> {
        let mut args = Args { command, words: Vec::new(), options: Vec::new() };
        let mut rest = words.into_iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                args.words.extend(rest.by_ref());
            } else if word.len() > 1 && word.starts_with('-') {
                let (name, attached) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (word.as_str(), None),
                };
                let option = args.option(name)?;
                let value = match (option.value, attached) {
                    ("", None) => String::new(),
                    ("", Some(_)) => return Err(Fault::usage(command, format!("{name} takes no value"))),
                    (_, Some(value)) => value,
                    (what, None) => {
                        rest.next().ok_or_else(|| Fault::usage(command, format!("{name} lacks its {what}")))?
                    }
                };
                args.options.push((option.long, value));
            } else {
                args.words.push(word);
            }
        }
        Ok(args)
    }

    fn option(&self, name: &str) -> Result<&'static Opt, Fault> {
        let options = self.command.options;
        let found = match name.strip_prefix("--") {
            Some(long) => options.iter().find(|option| option.long == long),
            None => {
                let mut letters = name.chars().skip(1);
                let letter = letters.next().filter(|_| letters.next().is_none());
                options.iter().find(|option| option.short.is_some() && option.short == letter)
            }
        };
        found.ok_or_else(|| {
            let long = name.trim_start_matches('-');
            let meant = match suggest::nearest(long, options.iter().map(|option| option.long)) {
                Some(meant) => format!(", did you mean --{meant}?"),
                None => String::new(),
            };
            Fault::usage(self.command, format!("unknown option {}{meant}", shown(name)))
        })
    }

    /// Whether a flag is given.
    pub fn flag(&self, long: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == long)
    }

    /// The value of an option; the last one counts.
    pub fn value(&self, long: &str) -> Option<&str> {
        self.options.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// The value of an option as a number in a range.
    pub fn number(&self, long: &str, range: core::ops::RangeInclusive<u32>) -> Result<Option<u32>, Fault> {
        let Some(value) = self.value(long) else { return Ok(None) };
        let number = value.parse().ok().filter(|number| range.contains(number));
        let wrong = || format!("--{long} `{}` is no number from {} to {}", shown(value), range.start(), range.end());
        number.map(Some).ok_or_else(|| Fault::usage(self.command, wrong()))
    }

    /// The value of an option as seconds, in ns.
    pub fn seconds(&self, long: &str, default: u64) -> Result<u64, Fault> {
        const LONGEST_S: f64 = 86400.0;
        let Some(value) = self.value(long) else { return Ok(default) };
        let seconds = value.parse::<f64>().ok().filter(|seconds| (0.0..=LONGEST_S).contains(seconds));
        let wrong = || format!("--{long} `{}` is no time from 0 to {LONGEST_S} seconds", shown(value));
        seconds.map(|seconds| (seconds * 1e9) as u64).ok_or_else(|| Fault::usage(self.command, wrong()))
    }

    /// Fails unless there are this many words.
    pub fn expect(&self, words: core::ops::RangeInclusive<usize>) -> Result<(), Fault> {
        if words.contains(&self.words.len()) {
            return Ok(());
        }
        let text = match self.words.get(*words.end()) {
            Some(extra) => format!("`{}` is too much", shown(extra)),
            None => "something is missing".to_owned(),
        };
        Err(Fault::usage(self.command, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::commands;

    fn parse(line: &str) -> Result<Args, Fault> {
        let mut words = crate::shell::words::words(line).unwrap();
        let command = commands::find(&words.remove(0)).unwrap();
        Args::parse(command, words)
    }

    #[test]
    fn options_may_stand_anywhere() {
        let args = parse("sched hello -w 512 --cap=50 --json -- -x").unwrap();
        assert_eq!(args.words, ["hello", "-x"]);
        assert_eq!(args.number("weight", 1..=65535).unwrap(), Some(512));
        assert_eq!(args.value("cap"), Some("50"));
        assert!(args.flag("json") && !args.flag("class"));
        assert_eq!(parse("top --interval 0.5").unwrap().seconds("interval", 0).unwrap(), 500_000_000);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_usage() {
        for (line, part) in [
            ("list --jsno", "did you mean --json?"),
            ("list -x", "unknown option -x"),
            ("list -long", "unknown option -long"),
            ("list --json=1", "takes no value"),
            ("top --count", "lacks its N"),
        ] {
            let fault = parse(line).unwrap_err();
            assert_eq!(fault.status, USAGE);
            assert!(fault.text.contains(part) && fault.text.contains("usage: "), "{line}: {}", fault.text);
        }
        assert!(parse("top --count 0").unwrap().number("count", 1..=100).is_err());
        for bad in ["-1", "nan", "inf", "1e30", "x"] {
            let args = parse(&format!("top --interval={bad}")).unwrap();
            assert!(args.seconds("interval", 0).is_err(), "{bad}");
        }
        assert!(parse("list a").unwrap().expect(0..=0).unwrap_err().text.contains("`a` is too much"));
    }
}
