//! What to ask for next.

use core::ops::Range;

use load::random::Random;

/// Pages of the largest request: more than a direct one can have.
pub const PAGES_MAX: usize = 16;
/// Sectors in a page.
const PER_PAGE: u64 = 8;
/// One request in so many overlaps on purpose with one that is under way.
const OVERLAP: u64 = 8;
/// One in so many is a flush, and one a discard.
const FLUSH: u64 = 64;
const DISCARD: u64 = 32;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Reads sectors.
    Read(Range<u64>),
    /// Writes sectors.
    Write(Range<u64>),
    /// Forgets sectors.
    Discard(Range<u64>),
    /// Makes all durable.
    Flush,
}

/// What the disk allows.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Sectors that are used.
    pub sectors: u64,
    /// Sectors in the smallest transfer.
    pub grain: u64,
    /// Pages of the largest request.
    pub pages: usize,
    /// Flush is offered.
    pub flush: bool,
    /// Discard is offered.
    pub discard: bool,
}

/// Chooses a request; `under_way` are the sectors of some that are not answered.
pub fn choose(random: &mut Random, field: &Field, under_way: &[Range<u64>]) -> Ask {
    if field.flush && random.one_in(FLUSH) {
        return Ask::Flush;
    }
    let range = range(random, field, under_way);
    if field.discard && random.one_in(DISCARD) {
        return Ask::Discard(range);
    }
    if random.one_in(2) { Ask::Read(range) } else { Ask::Write(range) }
}

fn range(random: &mut Random, field: &Field, under_way: &[Range<u64>]) -> Range<u64> {
    let max = (field.pages as u64 * PER_PAGE).min(field.sectors);
    // Half of all requests are one whole page, the others anything.
    let length = if random.one_in(2) { PER_PAGE } else { 1 + random.below(max) };
    let length = (length.next_multiple_of(field.grain)).min(max / field.grain * field.grain).max(field.grain);
    let last = field.sectors - length;
    let first = match under_way {
        [_, ..] if random.one_in(OVERLAP) => {
            let other = &under_way[random.below(under_way.len() as u64) as usize];
            (other.start + random.below(other.end - other.start)).saturating_sub(random.below(length))
        }
        _ => random.below(last + 1),
    };
    let first = first.min(last) / field.grain * field.grain;
    first..first + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_asked_for_is_possible(seed: u64, sectors in 64u64..5000, grain in prop::sample::select(std::vec![1u64, 8]), pages in 8usize..17) {
            let sectors = sectors / grain * grain;
            let field = Field { sectors, grain, pages, flush: true, discard: true };
            let mut random = Random::new(seed);
            let (mut under_way, mut overlaps) = (std::vec![], 0);
            for _ in 0..200 {
                match choose(&mut random, &field, &under_way) {
                    Ask::Read(range) | Ask::Write(range) | Ask::Discard(range) => {
                        prop_assert!(range.start < range.end && range.end <= sectors);
                        prop_assert!(range.start % grain == 0 && range.end % grain == 0);
                        prop_assert!((range.end - range.start) as usize <= pages * 8);
                        overlaps += usize::from(under_way.iter().any(|other: &Range<u64>| other.start < range.end && range.start < other.end));
                        under_way.push(range);
                        if under_way.len() > 8 { under_way.remove(0); }
                    }
                    Ask::Flush => {}
                }
            }
            prop_assert!(overlaps > 5);
        }
    }
}
