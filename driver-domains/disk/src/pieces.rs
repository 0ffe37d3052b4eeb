//! The segments of the requests under way: chains in a table of fixed size.
//!
//! A request has 1 to some dozens of segments; a table that all requests of a connection share takes far less memory than one
//! that each could fill. It is reserved with the connection, so that no frontend takes from another.

use alloc::vec::Vec;

use protocol::ring::block::Segment;
use unikernel::grant::DevicePage;

use crate::kept::Used;

/// End of a chain.
const NONE: u16 = u16::MAX;

/// The page of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// Not mapped.
    #[default]
    Absent,
    /// Mapped for this segment.
    Mapped(DevicePage),
    /// Mapped for longer; with its device address.
    Kept(Used, u64),
}

/// A segment, and its page once it is mapped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// What the frontend named.
    pub segment: Segment,
    /// Its page.
    pub page: Page,
    next: u16,
}

/// The segments of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    first: u16,
    last: u16,
    /// How many.
    pub length: u16,
}

impl Chain {
    /// No segment.
    pub const EMPTY: Chain = Chain { first: NONE, last: NONE, length: 0 };
}

/// The table.
#[derive(Debug)]
pub struct Pieces {
    entries: Vec<Entry>,
    free: u16,
    room: usize,
}

impl Pieces {
    /// An empty table with `room` entries, fewer than 65,535; `None` without memory for it.
    pub fn new(room: usize) -> Option<Pieces> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(room).ok()?;
        entries.extend((1..=room as u16).map(|next| Entry { next, ..Entry::default() }));
        entries.last_mut()?.next = NONE;
        Some(Pieces { entries, free: 0, room })
    }

    /// Entries that are free.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Adds a segment at the end of a chain; `false` if the table is full.
    pub fn push(&mut self, chain: &mut Chain, segment: Segment) -> bool {
        let at = self.free;
        let Some(entry) = self.entries.get_mut(at as usize) else { return false };
        self.free = entry.next;
        *entry = Entry { segment, page: Page::Absent, next: NONE };
        match self.entries.get_mut(chain.last as usize) {
            Some(last) => last.next = at,
            None => chain.first = at,
        }
        chain.last = at;
        chain.length += 1;
        self.room -= 1;
        true
    }

    /// The entries of a chain, in order.
    pub fn iter(&self, chain: Chain) -> impl Iterator<Item = &Entry> {
        let mut at = chain.first;
        core::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.next;
            Some(entry)
        })
    }

    /// Does something to each entry of a chain.
    pub fn for_each(&mut self, chain: Chain, mut act: impl FnMut(&mut Entry)) {
        let mut at = chain.first;
        while let Some(entry) = self.entries.get_mut(at as usize) {
            at = entry.next;
            act(entry);
        }
    }

    /// Gives the entries of a chain back.
    pub fn free(&mut self, chain: Chain) {
        if let Some(last) = self.entries.get_mut(chain.last as usize) {
            last.next = self.free;
            self.free = chain.first;
            self.room += chain.length as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Chains hold what was put into them, and nothing is lost.
        #[test]
        fn chains_are_lists(steps in prop::collection::vec((0usize..5, any::<bool>()), 0..200)) {
            let mut pieces = Pieces::new(12).unwrap();
            let (mut model, mut next) = (VecDeque::<(Chain, Vec<u32>)>::new(), 0);
            for (count, add) in steps {
                if add {
                    let (mut chain, mut list) = (Chain::EMPTY, Vec::new());
                    for _ in 0..count {
                        next += 1;
                        let segment = Segment { reference: next, first: 0, last: 7 };
                        prop_assert_eq!(pieces.push(&mut chain, segment), pieces.room() > 0 || chain.length as usize > list.len());
                        if chain.length as usize > list.len() {
                            list.push(next);
                        }
                    }
                    model.push_back((chain, list));
                } else if let Some((chain, list)) = model.pop_front() {
                    let found: Vec<u32> = pieces.iter(chain).map(|entry| entry.segment.reference).collect();
                    prop_assert_eq!(found, list);
                    pieces.free(chain);
                }
                let used: usize = model.iter().map(|(_, list)| list.len()).sum();
                prop_assert_eq!(pieces.room() + used, 12);
            }
        }
    }
}
