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

/// End of a list.
const NONE: u16 = u16::MAX;

/// The unanswered requests of a ring, by numbers below `N` that the caller gives. Each knows how many older ones it waits for, so that
/// starting costs nothing, and answering costs something only while some request waits.
#[derive(Debug)]
pub struct InFlight<const N: usize> {
    entries: [Entry; N],
    oldest: u16,
    newest: u16,
    /// Requests that may start, in the order in which they became free to.
    ready: Line<N>,
    /// Requests that are no reads: while there are none, a read waits for nobody.
    writers: u16,
    /// Requests that wait for an older one.
    waiting: u16,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    reach: Reach,
    older: u16,
    newer: u16,
    /// Older unanswered requests that it conflicts with.
    waits_for: u16,
    used: bool,
}

/// Numbers in line. There are never more than it has places, a power of two.
#[derive(Debug)]
struct Line<const N: usize> {
    numbers: [u16; N],
    /// Counts those that left, and those that came.
    first: u32,
    end: u32,
}

impl<const N: usize> Line<N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two());
        N as u32 - 1
    };

    #[inline(always)]
    fn push(&mut self, number: u16) {
        self.numbers[(self.end & Self::MASK) as usize] = number;
        self.end = self.end.wrapping_add(1);
    }

    #[inline(always)]
    fn front(&self) -> Option<u16> {
        (self.first != self.end).then(|| self.numbers[(self.first & Self::MASK) as usize])
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<u16> {
        let front = self.front()?;
        self.first = self.first.wrapping_add(1);
        Some(front)
    }
}

impl<const N: usize> Default for InFlight<N> {
    fn default() -> Self {
        InFlight::new()
    }
}

impl<const N: usize> InFlight<N> {
    /// No request.
    pub const fn new() -> Self {
        let unused = Entry { reach: Reach::Flush, older: NONE, newer: NONE, waits_for: 0, used: false };
        InFlight {
            entries: [unused; N],
            oldest: NONE,
            newest: NONE,
            ready: Line { numbers: [0; N], first: 0, end: 0 },
            writers: 0,
            waiting: 0,
        }
    }

    /// Adds the newest request; `false` if its number is too large or in use.
    #[inline(always)]
    pub fn add(&mut self, number: u16, reach: Reach) -> bool {
        if self.entries.get(number as usize).is_none_or(|entry| entry.used) {
            return false;
        }
        let reads = matches!(reach, Reach::Read(_));
        let waits_for = if reads && self.writers == 0 { 0 } else { self.conflicts_from(self.oldest, reach) };
        self.entries[number as usize] = Entry { reach, older: self.newest, newer: NONE, waits_for, used: true };
        match self.entries.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
        self.writers += u16::from(!reads);
        match waits_for {
            // There is room: each number is ready at most once.
            0 => self.ready.push(number),
            _ => self.waiting += 1,
        }
        true
    }

    /// How many requests from `first` on conflict with a newer one.
    fn conflicts_from(&self, first: u16, reach: Reach) -> u16 {
        let (mut at, mut count) = (first, 0);
        while let Some(entry) = self.entries.get(at as usize) {
            count += u16::from(entry.reach.conflicts(reach));
            at = entry.newer;
        }
        count
    }

    /// The request that [`InFlight::start`] would start.
    pub fn next(&self) -> Option<u16> {
        self.ready.front()
    }

    /// Starts a request that waits for none, and gives it.
    pub fn start(&mut self) -> Option<u16> {
        self.ready.pop()
    }

    /// A request that was started has to be started again.
    pub fn restart(&mut self, number: u16) {
        if self.entries.get(number as usize).is_some_and(|entry| entry.used) {
            // There is room: it was not ready.
            self.ready.push(number);
        }
    }

    /// Removes a request whose answer the frontend can see.
    pub fn answered(&mut self, number: u16) {
        let Some(entry) = self.entries.get_mut(number as usize).filter(|entry| entry.used) else { return };
        entry.used = false;
        let Entry { reach, older, newer, .. } = *entry;
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        self.writers -= u16::from(!matches!(reach, Reach::Read(_)));
        let mut at = if self.waiting == 0 { NONE } else { newer };
        while let Some(entry) = self.entries.get_mut(at as usize) {
            if entry.waits_for > 0 && reach.conflicts(entry.reach) {
                entry.waits_for -= 1;
                if entry.waits_for == 0 {
                    self.waiting -= 1;
                    // There is room: each number is ready at most once.
                    self.ready.push(at);
                }
            }
            at = entry.newer;
        }
    }

    /// Whether every request is answered.
    pub const fn is_empty(&self) -> bool {
        self.oldest == NONE
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
        let mut flying = InFlight::<8>::new();
        flying.add(1, Reach::Read(sectors(0, 8)));
        flying.add(2, Reach::Read(sectors(4, 8)));
        flying.add(3, Reach::Write(sectors(7, 1)));
        flying.add(4, Reach::Write(sectors(8, 8)));
        assert_eq!([flying.start(), flying.start(), flying.start()], [Some(1), Some(2), None]);
        flying.answered(2);
        assert_eq!([flying.start(), flying.start()], [Some(4), None]);
        flying.answered(1);
        assert_eq!(flying.start(), Some(3));
        assert!(!flying.add(3, Reach::Flush) && !flying.add(8, Reach::Flush));
    }

    proptest! {
        /// Everything runs in the end, and whatever is under way together could be executed again in any order.
        #[test]
        fn nothing_under_way_conflicts(list in prop::collection::vec(reach(), 1..30), picks in prop::collection::vec(any::<prop::sample::Index>(), 60)) {
            let mut flying = InFlight::<32>::new();
            let mut picks = picks.iter();
            // More than once, so that the line of those that may start goes round.
            for _ in 0..3 {
                for (tag, &reach) in list.iter().enumerate() {
                    prop_assert!(flying.add(tag as u16, reach));
                }
                let mut running: Vec<u16> = Vec::new();
                while !flying.is_empty() {
                    while let Some(tag) = flying.start() {
                        prop_assert!(running.iter().all(|&other| !list[other as usize].conflicts(list[tag as usize])));
                        running.push(tag);
                    }
                    prop_assert!(!running.is_empty(), "nothing can start");
                    let at = picks.next().map_or(0, |pick| pick.index(running.len()));
                    flying.answered(running.remove(at));
                }
            }
        }
    }
}
