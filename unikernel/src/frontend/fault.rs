//! What a backend can do wrong.
//!
//! Any of these closes the connection, and only that: what was under way fails, and nothing that the backend writes
//! afterwards is looked at.

use core::fmt;

use protocol::ring::Violation;

/// A rule that the backend broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The indexes of a ring.
    Ring(Violation),
    /// An answer to what was not asked, or was answered before.
    UnknownId {
        /// The id.
        id: u64,
    },
    /// An answer that names another operation than its request.
    Operation {
        /// What it names.
        found: u8,
        /// What was asked.
        asked: u8,
    },
    /// A status that there is not.
    Status {
        /// The id.
        id: u64,
        /// The status.
        found: i16,
    },
    /// Received data that lies outside its page.
    Place {
        /// Where it is said to begin.
        offset: u16,
        /// Its length.
        length: u16,
    },
    /// A frame of more slots than a frame can have.
    Slots,
    /// Flags that were not agreed on.
    Flags {
        /// The flags.
        found: u16,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Ring(violation) => violation.fmt(f),
            Fault::UnknownId { id } => write!(f, "answer with id {id:#x}, which is not under way"),
            Fault::Operation { found, asked } => write!(f, "answer to operation {found} where {asked} was asked"),
            Fault::Status { id, found } => write!(f, "answer with id {id:#x} and status {found}, which there is not"),
            Fault::Place { offset, length } => write!(f, "{length} bytes at {offset} do not lie in a page"),
            Fault::Flags { found } => write!(f, "flags {found:#x}, which were not agreed on"),
            Fault::Slots => f.write_str("a frame of too many slots"),
        }
    }
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Fault {
        Fault::Ring(violation)
    }
}
