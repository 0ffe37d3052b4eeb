//! Handing out small numbers: grant references, places in the grant window, pages of a pool.
//!
//! The lowest free number goes first, so that tables stay dense.

use alloc::vec::Vec;

/// The numbers below a limit, each free or taken.
#[derive(Debug, Default)]
pub struct Indexes {
    /// A bit for each number, set when taken; grows with use.
    taken: Vec<u64>,
    /// No word before this one has a free bit.
    hint: usize,
    limit: u32,
}

impl Indexes {
    /// All numbers below `limit`, free.
    pub const fn new(limit: u32) -> Indexes {
        Indexes { taken: Vec::new(), hint: 0, limit }
    }

    /// Takes the lowest free number.
    pub fn take(&mut self) -> Option<u32> {
        let mut word = self.hint;
        while self.taken.get(word).is_some_and(|&bits| bits == u64::MAX) {
            word += 1;
        }
        self.hint = word;
        let bit = self.taken.get(word).map_or(0, |bits| bits.trailing_ones());
        let index = word as u32 * 64 + bit;
        if index >= self.limit {
            return None;
        }
        if word == self.taken.len() {
            self.taken.push(0);
        }
        self.taken[word] |= 1 << bit;
        Some(index)
    }

    /// Gives a number back. One that is not taken is ignored.
    pub fn give_back(&mut self, index: u32) {
        let word = index as usize / 64;
        if let Some(bits) = self.taken.get_mut(word) {
            *bits &= !(1 << (index % 64));
            self.hint = self.hint.min(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Compared with a set: what is handed out is the lowest number not in use, and nothing is lost.
        #[test]
        fn behaves_like_a_set(limit in 1u32..200, steps in prop::collection::vec(prop::option::of(0u32..220), 0..400)) {
            let mut indexes = Indexes::new(limit);
            let mut used = BTreeSet::new();
            for step in steps {
                match step {
                    None => {
                        let expected = (0..limit).find(|index| !used.contains(index));
                        prop_assert_eq!(indexes.take(), expected);
                        used.extend(expected);
                    }
                    Some(index) => {
                        indexes.give_back(index);
                        used.remove(&index);
                    }
                }
            }
        }
    }
}
