//! The segments of the requests under way: chains in a table of fixed size.
//!
//! A request has 1 to some dozens of segments; a table that all requests of a connection share takes far less memory than one
//! that each could fill. It is reserved with the connection, so that no frontend takes from another. Most requests have one segment,
//! which is kept with the request itself: only those behind it need the table.

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
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What the frontend named.
    pub segment: Segment,
    /// Its page.
    pub page: Page,
}

impl Entry {
    const NOTHING: Entry = Entry { segment: Segment { reference: 0, first: 0, last: 0 }, page: Page::Absent };
}

/// The segments of one request.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// The first segment, if there is one.
    head: Entry,
    /// Places of the others in the table: of the second segment, and of the last.
    first: u16,
    last: u16,
    length: u16,
}

impl Chain {
    /// No segment.
    pub const EMPTY: Chain = Chain { head: Entry::NOTHING, first: NONE, last: NONE, length: 0 };

    /// How many.
    pub const fn length(&self) -> usize {
        self.length as usize
    }
}

/// A place in the table.
#[derive(Clone, Copy, Debug)]
struct Link {
    entry: Entry,
    next: u16,
}

/// The table.
#[derive(Debug)]
pub struct Pieces {
    links: Vec<Link>,
    free: u16,
    room: usize,
}

impl Pieces {
    /// An empty table with `room` entries, fewer than 65,535; `None` without memory for it.
    pub fn new(room: usize) -> Option<Pieces> {
        let mut links = Vec::new();
        links.try_reserve_exact(room).ok()?;
        links.extend((1..=room as u16).map(|next| Link { entry: Entry::NOTHING, next }));
        links.last_mut()?.next = NONE;
        Some(Pieces { links, free: 0, room })
    }

    /// Entries that are free.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Adds a segment at the end of a chain; `false` if the table is full.
    #[inline(always)]
    pub fn push(&mut self, chain: &mut Chain, segment: Segment) -> bool {
        let entry = Entry { segment, page: Page::Absent };
        if chain.length == 0 {
            chain.head = entry;
        } else if !self.append(chain, entry) {
            return false;
        }
        chain.length += 1;
        true
    }

    /// Makes an empty chain of these segments; gives how many sectors they cover. `None` if one is missing, or there is no room:
    /// then the chain has those before.
    #[inline(always)]
    pub fn fill(&mut self, chain: &mut Chain, segments: impl Iterator<Item = Option<Segment>>) -> Option<u64> {
        let mut sectors = 0;
        for segment in segments {
            let segment = segment?;
            sectors += segment.sectors();
            if !self.push(chain, segment) {
                return None;
            }
        }
        Some(sectors)
    }

    fn append(&mut self, chain: &mut Chain, entry: Entry) -> bool {
        let at = self.free;
        let Some(link) = self.links.get_mut(at as usize) else { return false };
        self.free = link.next;
        *link = Link { entry, next: NONE };
        match self.links.get_mut(chain.last as usize) {
            Some(last) => last.next = at,
            None => chain.first = at,
        }
        chain.last = at;
        self.room -= 1;
        true
    }

    /// The entries of a chain, in order.
    pub fn iter<'c>(&'c self, chain: &'c Chain) -> impl Iterator<Item = &'c Entry> {
        let mut at = chain.first;
        let others = core::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            Some(&link.entry)
        });
        (chain.length > 0).then_some(&chain.head).into_iter().chain(others)
    }

    /// Does something to each entry of a chain.
    #[inline(always)]
    pub fn for_each(&mut self, chain: &mut Chain, mut act: impl FnMut(&mut Entry)) {
        if chain.length > 0 {
            act(&mut chain.head);
        }
        let mut at = chain.first;
        while let Some(link) = self.links.get_mut(at as usize) {
            at = link.next;
            act(&mut link.entry);
        }
    }

    /// Gives the entries of a chain back.
    #[inline(always)]
    pub fn free(&mut self, chain: &mut Chain) {
        if let Some(last) = self.links.get_mut(chain.last as usize) {
            last.next = self.free;
            self.free = chain.first;
            self.room += chain.length() - 1;
        }
        (chain.first, chain.last, chain.length) = (NONE, NONE, 0);
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
                        let fits = list.is_empty() || pieces.room() > 0;
                        prop_assert_eq!(pieces.push(&mut chain, segment), fits);
                        prop_assert_eq!(chain.length(), list.len() + usize::from(fits));
                        if fits {
                            list.push(next);
                        }
                    }
                    model.push_back((chain, list));
                } else if let Some((mut chain, list)) = model.pop_front() {
                    let found: Vec<u32> = pieces.iter(&chain).map(|entry| entry.segment.reference).collect();
                    prop_assert_eq!(&found, &list);
                    let mut each = Vec::new();
                    pieces.for_each(&mut chain, |entry| each.push(entry.segment.reference));
                    prop_assert_eq!(each, list);
                    pieces.free(&mut chain);
                }
                let used: usize = model.iter().map(|(_, list)| list.len().saturating_sub(1)).sum();
                prop_assert_eq!(pieces.room() + used, 12);
            }
        }
    }
}
