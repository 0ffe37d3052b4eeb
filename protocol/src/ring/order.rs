//! Which block requests may be under way together.
//!
//! A driver domain may execute an unanswered request again after its restart. That is harmless only if nothing newer that it
//! would undo was started before it was answered: so a request waits for every older unanswered one that it overlaps, if one of the
//! two writes, and nothing moves across a flush.

/// What a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Sectors that are read.
    Read(Sectors),
    /// Sectors that are written or discarded.
    Write(Sectors),
    /// Everything.
    Flush,
}

/// `count` sectors from `first`; their end does not wrap (see [`super::block::Limits::holds`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sectors {
    /// First sector.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Sectors {
    const fn overlaps(self, other: Sectors) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }
}

impl Reach {
    /// Whether the newer of two requests has to wait for the older one.
    pub fn conflicts(self, other: Reach) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutant::is(crate::mutant::Mutant::ConflictsIgnored) {
            return false;
        }
        match (self, other) {
            (Reach::Flush, _) | (_, Reach::Flush) => true,
            (Reach::Read(_), Reach::Read(_)) => false,
            (Reach::Read(a) | Reach::Write(a), Reach::Read(b) | Reach::Write(b)) => a.overlaps(b),
        }
    }
}

/// The unanswered requests of a ring, oldest first, at most `N`.
#[derive(Debug, Default)]
pub struct InFlight<T, const N: usize> {
    requests: heapless::Vec<Entry<T>, N>,
}

#[derive(Debug)]
struct Entry<T> {
    tag: T,
    reach: Reach,
    started: bool,
}

impl<T: Copy + PartialEq, const N: usize> InFlight<T, N> {
    /// No request.
    pub const fn new() -> Self {
        InFlight { requests: heapless::Vec::new() }
    }

    /// Adds the newest request; `false` if there are `N` already.
    pub fn add(&mut self, tag: T, reach: Reach) -> bool {
        self.requests.push(Entry { tag, reach, started: false }).is_ok()
    }

    /// Marks the oldest request that may start as started, and gives it.
    pub fn start(&mut self) -> Option<T> {
        let ready = (0..self.requests.len()).find(|&at| {
            let (older, rest) = self.requests.split_at(at);
            !rest[0].started && !older.iter().any(|entry| entry.reach.conflicts(rest[0].reach))
        })?;
        let entry = self.requests.get_mut(ready)?;
        entry.started = true;
        Some(entry.tag)
    }

    /// Removes a request whose answer the frontend can see.
    pub fn answered(&mut self, tag: T) {
        if let Some(at) = self.requests.iter().position(|entry| entry.tag == tag) {
            self.requests.remove(at);
        }
    }

    /// Requests that are not answered.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether every request is answered.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn reach() -> impl Strategy<Value = Reach> {
        let sectors = (0u64..20, 1u64..6).prop_map(|(first, count)| Sectors { first, count });
        prop_oneof![
            4 => sectors.clone().prop_map(Reach::Read),
            4 => sectors.prop_map(Reach::Write),
            1 => Just(Reach::Flush),
        ]
    }

    #[test]
    fn reads_overlap_freely_and_writes_do_not() {
        let sectors = |first, count| Sectors { first, count };
        let mut flying = InFlight::<u8, 4>::new();
        flying.add(1, Reach::Read(sectors(0, 8)));
        flying.add(2, Reach::Read(sectors(4, 8)));
        flying.add(3, Reach::Write(sectors(7, 1)));
        flying.add(4, Reach::Write(sectors(8, 8)));
        assert_eq!([flying.start(), flying.start(), flying.start()], [Some(1), Some(2), None]);
        flying.answered(2);
        assert_eq!([flying.start(), flying.start()], [Some(4), None]);
        flying.answered(1);
        assert_eq!(flying.start(), Some(3));
        assert!(!flying.add(5, Reach::Flush) || flying.len() <= 4);
    }

    proptest! {
        /// Everything runs in the end, and whatever is under way together could be executed again in any order.
        #[test]
        fn nothing_under_way_conflicts(list in prop::collection::vec(reach(), 1..30), picks in prop::collection::vec(any::<prop::sample::Index>(), 60)) {
            let mut flying = InFlight::<usize, 32>::new();
            for (tag, &reach) in list.iter().enumerate() {
                prop_assert!(flying.add(tag, reach));
            }
            let mut running: Vec<usize> = Vec::new();
            let mut picks = picks.iter();
            while !flying.is_empty() {
                while let Some(tag) = flying.start() {
                    prop_assert!(running.iter().all(|&other| !list[other].conflicts(list[tag])));
                    running.push(tag);
                }
                prop_assert!(!running.is_empty(), "nothing can start");
                let at = picks.next().map_or(0, |pick| pick.index(running.len()));
                flying.answered(running.remove(at));
            }
        }
    }
}
