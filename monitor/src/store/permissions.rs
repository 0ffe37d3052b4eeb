//! Who may do what with a node: Xen's lists of domains, each with a letter.
//!
//! The first entry names the owner, who may do everything, and what all others may do who are not named after it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use super::message::Refusal;

/// Most entries of a list, as in Xen.
pub const ENTRIES_MAX: usize = 5;

/// What a domain may do, or wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    Both,
}

impl Right {
    const fn letter(self) -> char {
        match self {
            Right::None => 'n',
            Right::Read => 'r',
            Right::Write => 'w',
            Right::Both => 'b',
        }
    }

    fn of(letter: char) -> Option<Right> {
        [Right::None, Right::Read, Right::Write, Right::Both].into_iter().find(|right| right.letter() == letter)
    }

    /// Whether it covers `wanted`.
    fn covers(self, wanted: Right) -> bool {
        self == wanted || self == Right::Both || wanted == Right::None
    }
}

/// A list, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    owner: u16,
    others: Right,
    named: Vec<(u16, Right)>,
}

impl Permissions {
    /// Of a node that belongs to `owner`, and about which all others may do the same.
    pub const fn new(owner: u16, others: Right) -> Permissions {
        Permissions { owner, others, named: Vec::new() }
    }

    /// With an exception for one domain.
    pub fn but(mut self, domain: u16, right: Right) -> Permissions {
        self.named.push((domain, right));
        self
    }

    /// Whom the node belongs to.
    pub const fn owner(&self) -> u16 {
        self.owner
    }

    /// Entries it has.
    pub fn entries(&self) -> usize {
        self.named.len() + 1
    }

    /// What is made below a node with these by `creator` has the same, but belongs to who made it.
    pub fn inherited(&self, creator: u16) -> Permissions {
        Permissions { owner: creator, ..self.clone() }
    }

    /// Whether a domain may do what it wants.
    pub fn allow(&self, domain: u16, wanted: Right) -> bool {
        let named = self.named.iter().find(|(named, _)| *named == domain);
        self.owner == domain || named.map_or(self.others, |(_, right)| *right).covers(wanted)
    }

    /// Reads a list such as `n0`, `r5`.
    pub fn parse<'s>(entries: impl Iterator<Item = &'s str>) -> Result<Permissions, Refusal> {
        let mut list: Option<Permissions> = None;
        for entry in entries {
            let mut rest = entry.chars();
            let right = rest.next().and_then(Right::of).ok_or(Refusal::Invalid)?;
            let domain = rest.as_str().parse().map_err(|_| Refusal::Invalid)?;
            match &mut list {
                None => list = Some(Permissions::new(domain, right)),
                Some(list) if list.entries() < ENTRIES_MAX => list.named.push((domain, right)),
                Some(_) => return Err(Refusal::NoSpace),
            }
        }
        list.ok_or(Refusal::Invalid)
    }

    /// The payload that says it.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (domain, right) in core::iter::once(&(self.owner, self.others)).chain(&self.named) {
            // Writing into a string does not fail.
            let _ = write!(text, "{}{domain}\0", right.letter());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_their_text() {
        let list = Permissions::new(0, Right::None).but(5, Right::Read).but(7, Right::Both);
        assert_eq!(list.encode(), "n0\0r5\0b7\0");
        assert_eq!(Permissions::parse(["n0", "r5", "b7"].into_iter()), Ok(list));
        for bad in [["x0"].as_slice(), &["n"], &["n-1"], &["n65536"], &[""], &[]] {
            assert_eq!(Permissions::parse(bad.iter().copied()), Err(Refusal::Invalid), "{bad:?}");
        }
        assert_eq!(Permissions::parse(["n0"; ENTRIES_MAX + 1].into_iter()), Err(Refusal::NoSpace));
    }

    #[test]
    fn the_owner_may_do_all_and_others_what_is_said() {
        let list = Permissions::new(0, Right::Read).but(5, Right::Write);
        assert!(list.allow(0, Right::Both));
        assert!(list.allow(9, Right::Read) && !list.allow(9, Right::Write));
        assert!(list.allow(5, Right::Write) && !list.allow(5, Right::Read));
        assert!(list.inherited(9).allow(9, Right::Both));
    }
}
