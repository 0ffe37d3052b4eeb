//! Mutants of the journal rule: the rule with one step switched off or swapped.
//!
//! A test that passes with a mutant does not look at what that step is for. The mutants are in tests and in what is built with
//! the feature `mutants` (`cargo xtask soak --mutant`), and nowhere else. Most change what becomes of stores to the
//! record, or of loads from it, so that the rule's own code is the product's ([`Mutated`]); the others are asked for where the step is
//! ([`is`]).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::connection::KillPoint;
use crate::record::{self, Entry, Field};
use crate::ring::Shared;
use crate::ring::sring::Geometry;

/// One step of the rule, switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The retained count of requests taken stands still.
    TakenStandsStill = 1,
    /// The retained count of responses published stands still.
    PublishedStandsStill,
    /// Requests are not copied into the record.
    CopyNotKept,
    /// Slots are not marked held.
    NotMarkedHeld,
    /// Slots are not marked answered.
    NotMarkedAnswered,
    /// The index of the answer is not noted.
    AnswerNotNoted,
    /// The index of the request is not noted.
    IndexNotNoted,
    /// Slots are freed with the answer, not after it is published.
    FreedEarly,
    /// What was in flight is taken from the ring again, and the record is not asked.
    RingReadAgain,
    /// Replays come newest first.
    ReplaysReversed,
    /// Nothing is executed again.
    ReplaysDropped,
    /// The frontend is not kicked after a restart.
    KickOmitted,
    /// Requests do not wait for older ones that they overlap.
    ConflictsIgnored,
    /// A request counts as taken before its copy is in the record.
    TakenBeforeCopy,
    /// A copy with a wrong checksum is believed.
    DamageBelieved,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 15] = [
        Mutant::TakenStandsStill,
        Mutant::PublishedStandsStill,
        Mutant::CopyNotKept,
        Mutant::NotMarkedHeld,
        Mutant::NotMarkedAnswered,
        Mutant::AnswerNotNoted,
        Mutant::IndexNotNoted,
        Mutant::FreedEarly,
        Mutant::RingReadAgain,
        Mutant::ReplaysReversed,
        Mutant::ReplaysDropped,
        Mutant::KickOmitted,
        Mutant::ConflictsIgnored,
        Mutant::TakenBeforeCopy,
        Mutant::DamageBelieved,
    ];

    /// Its name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Mutant::TakenStandsStill => "taken-stands-still",
            Mutant::PublishedStandsStill => "published-stands-still",
            Mutant::CopyNotKept => "copy-not-kept",
            Mutant::NotMarkedHeld => "not-marked-held",
            Mutant::NotMarkedAnswered => "not-marked-answered",
            Mutant::AnswerNotNoted => "answer-not-noted",
            Mutant::IndexNotNoted => "index-not-noted",
            Mutant::FreedEarly => "freed-early",
            Mutant::RingReadAgain => "ring-read-again",
            Mutant::ReplaysReversed => "replays-reversed",
            Mutant::ReplaysDropped => "replays-dropped",
            Mutant::KickOmitted => "kick-omitted",
            Mutant::ConflictsIgnored => "conflicts-ignored",
            Mutant::TakenBeforeCopy => "taken-before-copy",
            Mutant::DamageBelieved => "damage-believed",
        }
    }

    /// The mutant of this name.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.into_iter().find(|mutant| mutant.name() == name)
    }

    /// Where a domain has to die for the step to be missed. `None` if any moment will do.
    pub const fn kill_point(self) -> Option<KillPoint> {
        match self {
            Mutant::NotMarkedAnswered | Mutant::AnswerNotNoted | Mutant::FreedEarly | Mutant::KickOmitted => {
                Some(KillPoint::AfterPublish)
            }
            Mutant::TakenBeforeCopy => Some(KillPoint::MidTake),
            Mutant::DamageBelieved => Some(KillPoint::DamagedRecord),
            _ => None,
        }
    }
}

/// The mutant that this domain runs with; 0 for none.
static SELECTED: AtomicU8 = AtomicU8::new(0);

/// Selects a mutant for the whole domain.
pub fn select(mutant: Mutant) {
    SELECTED.store(mutant as u8, Ordering::Relaxed);
}

/// The mutant selected.
pub fn selected() -> Option<Mutant> {
    let number = SELECTED.load(Ordering::Relaxed);
    Mutant::ALL.into_iter().find(|&mutant| mutant as u8 == number)
}

/// Whether this mutant is selected.
pub fn is(mutant: Mutant) -> bool {
    SELECTED.load(Ordering::Relaxed) == mutant as u8
}

/// A record as the rule with a step switched off sees it.
#[derive(Debug)]
pub struct Mutated<S> {
    record: S,
    geometry: Geometry,
    mutant: Option<Mutant>,
    /// Gives the checksum that would be right.
    right_sum: fn(&S, Geometry, usize) -> u32,
}

impl<S: Shared> Mutated<S> {
    /// The record of a ring of this geometry, with requests `E`.
    pub const fn new<E: Entry>(record: S, geometry: Geometry, mutant: Option<Mutant>) -> Mutated<S> {
        Mutated { record, geometry, mutant, right_sum: record::right_sum::<E, S> }
    }

    /// What of a store has an effect.
    fn stored(&self, offset: usize, value: u32) -> Option<u32> {
        match (self.mutant?, Field::at(self.geometry, offset)) {
            (Mutant::TakenStandsStill, Field::Taken)
            | (Mutant::PublishedStandsStill, Field::Published)
            | (Mutant::AnswerNotNoted, Field::Answer)
            | (Mutant::IndexNotNoted, Field::Index) => None,
            (Mutant::NotMarkedHeld, Field::Mark) if value == record::HELD => None,
            (Mutant::NotMarkedAnswered, Field::Mark) if value == record::ANSWERED => None,
            (Mutant::FreedEarly, Field::Mark) if value == record::ANSWERED => Some(record::FREE),
            _ => Some(value),
        }
    }
}

impl<S: Shared> Shared for Mutated<S> {
    fn load_u32(&self, offset: usize) -> u32 {
        match (self.mutant, Field::at(self.geometry, offset)) {
            (Some(Mutant::RingReadAgain), Field::Taken) => self.record.load_u32(record::AT_PUBLISHED),
            (Some(Mutant::RingReadAgain), Field::Mark) => record::FREE,
            (Some(Mutant::DamageBelieved), Field::Sum) => (self.right_sum)(&self.record, self.geometry, offset),
            _ => self.record.load_u32(offset),
        }
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let value = if self.mutant.is_none() { Some(value) } else { self.stored(offset, value) };
        if let Some(value) = value {
            self.record.store_u32(offset, value);
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.record.read(offset, out);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        let copy = Field::at(self.geometry, offset) == Field::Request;
        if copy && self.mutant == Some(Mutant::TakenBeforeCopy) {
            self.record.store_u32(record::AT_TAKEN, self.record.load_u32(record::AT_TAKEN).wrapping_add(1));
        }
        if !(copy && self.mutant == Some(Mutant::CopyNotKept)) {
            self.record.write(offset, bytes);
        }
    }

    fn fence(&self) {
        self.record.fence();
    }
}
