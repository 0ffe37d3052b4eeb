//! Bytes that say what they are: who wrote them, where they belong, and which writing it was.
//!
//! Every word follows from the stamp, so that a block that is torn, misplaced or old is told apart from a good one, and what it is
//! instead can be said.

use crate::random::{STEP, mix};

/// Bytes of the stamp at the beginning of a block.
pub const STAMP_SIZE: usize = 32;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run of the program that made it.
    pub run: u64,
    /// Where it belongs: a sector, or a flow.
    pub place: u64,
    /// Which writing, or which frame.
    pub generation: u64,
}

/// What was found in place of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It was made by nobody, or by another run.
    Foreign,
    /// It belongs elsewhere.
    Misplaced {
        /// There.
        place: u64,
        /// As this.
        generation: u64,
    },
    /// It begins as one block and goes on as something else.
    Torn {
        /// What it begins as.
        generation: u64,
        /// Offset of the first wrong byte's word.
        at: usize,
    },
}

impl Stamp {
    fn key(&self) -> u64 {
        mix(self.run ^ mix(self.place.wrapping_mul(STEP) ^ mix(self.generation.wrapping_add(STEP))))
    }

    /// The word of the block with this number.
    fn word(&self, key: u64, index: usize) -> u64 {
        match index {
            0 => self.run,
            1 => self.place,
            2 => self.generation,
            3 => key,
            _ => key.wrapping_add(STEP.wrapping_mul(index as u64)).rotate_left(17),
        }
    }

    /// Fills a block; of its last word only the part that fits.
    pub fn fill(&self, block: &mut [u8]) {
        let key = self.key();
        for (index, word) in block.chunks_mut(8).enumerate() {
            word.copy_from_slice(&self.word(key, index).to_le_bytes()[..word.len()]);
        }
    }

    /// Reads a block, which must be whole and belong to `place`; gives its generation.
    pub fn read(run: u64, place: u64, block: &[u8]) -> Result<u64, Wrong> {
        let field = |index: usize| {
            let bytes = block.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let stamp = || Some(Stamp { run: field(0)?, place: field(1)?, generation: field(2)? });
        let Some(stamp) = stamp().filter(|stamp| stamp.run == run && field(3) == Some(stamp.key())) else {
            return Err(Wrong::Foreign);
        };
        let Stamp { place: found, generation, .. } = stamp;
        if found != place {
            return Err(Wrong::Misplaced { place: found, generation });
        }
        let key = stamp.key();
        for (index, word) in block.chunks(8).enumerate() {
            if *word != stamp.word(key, index).to_le_bytes()[..word.len()] {
                return Err(Wrong::Torn { generation, at: index * 8 });
            }
        }
        Ok(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_wrong_bit_is_noticed(run: u64, place: u64, generation: u64, length in STAMP_SIZE..600, bit: prop::sample::Index) {
            let mut block = std::vec![0; length];
            Stamp { run, place, generation }.fill(&mut block);
            prop_assert_eq!(Stamp::read(run, place, &block), Ok(generation));
            let misplaced = Wrong::Misplaced { place, generation };
            prop_assert_eq!(Stamp::read(run, place ^ 1, &block), Err(misplaced));
            prop_assert_eq!(Stamp::read(run ^ 1, place, &block), Err(Wrong::Foreign));
            let bit = bit.index(length * 8);
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Stamp::read(run, place, &block).is_err());
        }

        #[test]

        fn two_halves_are_no_block(one: u64, other: u64, cut in 3usize..63) {
            prop_assume!(one != other);
            let (mut block, mut second) = ([0; 512], [0; 512]);
            Stamp { run: 1, place: 2, generation: one }.fill(&mut block);
            Stamp { run: 1, place: 2, generation: other }.fill(&mut second);
            block[cut * 8..].copy_from_slice(&second[cut * 8..]);
            prop_assert!(Stamp::read(1, 2, &block).is_err());
        }
    }

    #[test]
    fn nothing_is_foreign() {
        assert_eq!(Stamp::read(0, 0, &[0; 512]), Err(Wrong::Foreign));
        assert_eq!(Stamp::read(0, 0, &[]), Err(Wrong::Foreign));
    }
}
