//! What is wrong with a configuration: where, which key, what, and the cure.

use alloc::string::String;
use core::fmt;

/// One thing that is wrong, or (as a warning) has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, or `command line`.
    pub place: String,
    /// The key it is about, or `syntax`.
    pub key: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it; may be empty for a warning.
    pub cure: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.key, self.text)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        Ok(())
    }
}
