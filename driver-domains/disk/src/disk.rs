//! What a driver for a kind of disk implements.
//!
//! A driver moves sectors between the disk and memory that is mapped for the device. A device that reaches it needs nothing else; the
//! driver of one that does not copies to and from the page. It waits for nothing: requests are submitted, the device is notified
//! once for many, and what is done is asked for. Nothing is cached here: what a driver says is done is with the device, and durable
//! after a flush.

use protocol::grant::GrantRef;
use protocol::ring::block::{SECTOR, SECTORS_PER_PAGE};
use unikernel::backend::Cause;
use unikernel::grant::Source;

/// Sectors of a page: as the device sees it, and as its owner calls it. Two machine words, since each request makes some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Device address of the page.
    pub page: u64,
    /// The page as it was granted: by whom, and under which reference.
    pub peer: u16,
    /// See `peer`.
    pub reference: GrantRef,
    /// First and last sector in the page.
    pub first: u8,
    /// See `first`.
    pub last: u8,
}

impl Piece {
    /// The first sectors of a page of the domain's own, at most a page of them.
    pub fn own(page: u64, sectors: usize) -> Piece {
        let last = (sectors as u8).clamp(1, SECTORS_PER_PAGE) - 1;
        Piece { page, last, ..Piece::default() }
    }

    /// Bytes from the start of the page.
    pub fn offset(&self) -> u16 {
        u16::from(self.first) * SECTOR as u16
    }

    /// Device address of the first byte.
    pub fn address(&self) -> u64 {
        self.page + u64::from(self.offset())
    }

    /// How many.
    pub fn sectors(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.sectors() * SECTOR as usize
    }

    /// The page as it was granted.
    pub fn source(&self) -> Source {
        Source { peer: self.peer, reference: self.reference }
    }
}

/// What is to be done. Sectors have [`protocol::ring::block::SECTOR`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the disk, from this sector on.
    Read {
        /// First sector.
        sector: u64,
    },
    /// To the disk, from this sector on.
    Write {
        /// First sector.
        sector: u64,
    },
    /// Make everything that was done durable.
    Flush,
    /// Forget sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

/// What a disk is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Size in sectors.
    pub sectors: u64,
    /// Bytes of the disk's own sector: 512 or a power of two above.
    pub sector_size: u32,
    /// It cannot be written.
    pub read_only: bool,
    /// It has a cache, so a flush means something.
    pub cache: bool,
    /// It can forget sectors.
    pub discard: bool,
    /// Most pieces of one request.
    pub pieces: u16,
}

/// The device broke a rule, or does not answer: it has to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

/// What became of a request: why it was not carried out, if it was not.
pub type Outcome = Result<(), Cause>;

/// What a request takes of a disk's room: 1 for each piece, and this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Any request.
    pub request: u16,
    /// What a discard takes beyond that.
    pub discard: u16,
}

impl Costs {
    /// What a request with so many pieces takes.
    pub fn of(self, operation: Operation, pieces: usize) -> usize {
        let discard = if matches!(operation, Operation::Discard { .. }) { self.discard } else { 0 };
        pieces + usize::from(self.request + discard)
    }
}

/// A disk. Tags are the caller's, each under way once.
pub trait Disk {
    /// What it is like, now.
    fn properties(&self) -> Properties;

    /// How much can be submitted, in units of [`Costs`].
    fn room(&self) -> usize;

    /// What requests take of the room, to the last unit: who fits is not refused for room.
    fn costs(&self) -> Costs;

    /// Adds a request; the device need not see it before [`Disk::kick`]. Nothing is done if it is refused.
    fn submit(&mut self, tag: u32, operation: Operation, pieces: &[Piece]) -> Outcome;

    /// Shows the device everything submitted.
    fn kick(&mut self);

    /// A request that is done: its tag, and what became of it.
    fn completed(&mut self) -> Result<Option<(u32, Outcome)>, Fault>;

    /// Whether [`Disk::completed`] would give one.
    fn is_done(&self) -> bool;

    /// Asks for an interrupt at the next completion, and looks once more: `true` if there is one already, so do not sleep.
    fn rearm(&mut self) -> bool;

    /// Whether the properties changed since this was asked last.
    fn changed(&mut self) -> bool;

    /// Begins the device's own reset: whatever is under way is forgotten.
    fn start_reset(&mut self);

    /// Whether the reset is done and the device works again; until then no page it was given may be used otherwise. A fault
    /// if it cannot be had back.
    fn is_reset(&mut self) -> Result<bool, Fault>;
}
