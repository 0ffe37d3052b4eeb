//! What arrived of one sender's numbered frames.

/// Frames that may overtake each other and are still told from doubles.
const WINDOW: u64 = 4096;
const WORDS: usize = WINDOW as usize / 64;

/// A flow, at its end.
#[derive(Clone, Debug)]
pub struct Flow {
    /// One more than the highest number that arrived.
    next: u64,
    /// A bit for each of the last [`WINDOW`] numbers: it arrived.
    seen: [u64; WORDS],
    /// Frames that arrived, doubles left out.
    pub received: u64,
    /// Frames that came after a later one.
    pub reordered: u64,
    /// Frames that came twice.
    pub doubled: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Flow { next: 0, seen: [0; WORDS], received: 0, reordered: 0, doubled: 0 }
    }
}

impl Flow {
    fn bit(&mut self, number: u64) -> (&mut u64, u64) {
        (&mut self.seen[(number % WINDOW) as usize / 64], 1 << (number % 64))
    }

    /// The frame with this number arrived.
    pub fn arrive(&mut self, number: u64) {
        if number >= self.next {
            if number - self.next >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.next..number).for_each(|skipped| {
                    let (word, bit) = self.bit(skipped);
                    *word &= !bit;
                });
            }
            self.next = number + 1;
        } else {
            let known = self.next - number > WINDOW || {
                let (word, bit) = self.bit(number);
                *word & bit != 0
            };
            if known {
                // One that is older than the window counts as a double: no network here delays so much.
                self.doubled += 1;
                return;
            }
            self.reordered += 1;
        }
        let (word, bit) = self.bit(number);
        *word |= bit;
        self.received += 1;
    }

    /// Frames that did not arrive, those after the last one that did left out.
    pub fn lost(&self) -> u64 {
        self.next - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Compared with a set, for orders a network might bring about.
        #[test]
        fn counts_like_a_set(steps in prop::collection::vec((0u64..6, 0u64..40), 1..300)) {
            let (mut flow, mut seen, mut highest, mut base) = (Flow::default(), BTreeSet::new(), None, 0u64);
            let (mut doubled, mut reordered) = (0, 0);
            for (jump, back) in steps {
                base += jump;
                let number = base.saturating_sub(if jump == 0 { back } else { 0 });
                if !seen.insert(number) {
                    doubled += 1;
                } else if highest.is_some_and(|highest| number < highest) {
                    reordered += 1;
                }
                highest = highest.max(Some(number));
                flow.arrive(number);
            }
            prop_assert_eq!((flow.doubled, flow.reordered, flow.received), (doubled, reordered, seen.len() as u64));
            prop_assert_eq!(flow.lost(), highest.unwrap_or(0) + 1 - seen.len() as u64);
        }
    }

    #[test]
    fn a_long_gap_is_loss_and_forgets_what_was_before() {
        let mut flow = Flow::default();
        flow.arrive(0);
        flow.arrive(10 * WINDOW);
        assert_eq!((flow.lost(), flow.doubled), (10 * WINDOW - 1, 0));
        flow.arrive(10 * WINDOW - 1);
        assert_eq!((flow.reordered, flow.doubled), (1, 0));
        flow.arrive(0);
        assert_eq!(flow.doubled, 1);
    }
}
