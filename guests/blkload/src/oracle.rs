//! What each sector has to hold.
//!
//! Every write and every discard of a sector has a generation of its own, in the order of issue. A disk that carries
//! overlapping requests out in that order leaves a read no choice: it finds the generation that was the last when the read was
//! issued. One that does not may find any from the last that was answered by then to the last that is issued when the read is answered.
//!
//! What became of a request that was lost with its connection is not known. Until the next one, a sector may hold what it was to
//! make of it, or what was there before.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use load::content::{Stamp, Wrong};

use crate::options::Check;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Sector {
    /// The last generation issued; 0 before the first.
    issued: u64,
    /// The last generation answered.
    answered: u64,
    /// The last generation that was a discard, after which anything may be read.
    discarded: u64,
    /// The last generation that was lost.
    lost: u64,
}

/// What a read may find in one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    answered: u64,
    issued: u64,
    discarded: u64,
    lost: u64,
}

/// A sector that does not hold what it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The sector.
    pub sector: u64,
    /// The oldest generation that would be right.
    pub oldest: u64,
    /// The newest.
    pub newest: u64,
    /// What is there.
    pub found: Result<u64, Wrong>,
}

/// The sectors.
#[derive(Debug)]
pub struct Oracle {
    run: u64,
    check: Check,
    sectors: Vec<Sector>,
}

impl Oracle {
    /// Sectors that nothing is known about. `run` tells what this run writes from what was there.
    pub fn new(run: u64, check: Check, sectors: u64) -> Oracle {
        Oracle { run, check, sectors: vec![Sector::default(); sectors as usize] }
    }

    fn range(range: &Range<u64>) -> Range<usize> {
        range.start as usize..range.end as usize
    }

    /// A write is issued: fills `bytes` with what it writes.
    pub fn write(&mut self, range: Range<u64>, bytes: &mut [u8]) {
        let places = range.clone();
        let sectors = &mut self.sectors[Self::range(&range)];
        for ((place, sector), block) in places.zip(sectors).zip(bytes.chunks_exact_mut(SECTOR)) {
            sector.issued += 1;
            Stamp { run: self.run, place, generation: sector.issued }.fill(block);
        }
    }

    /// A discard is issued.
    pub fn discard(&mut self, range: Range<u64>) {
        for sector in &mut self.sectors[Self::range(&range)] {
            sector.issued += 1;
            sector.discarded = sector.issued;
        }
    }

    /// What the range would have to hold if it were read now. For a write or a discard: what it made of it.
    pub fn bounds(&self, range: Range<u64>) -> Vec<Bounds> {
        let bounds = |sector: &Sector| {
            let Sector { answered, issued, discarded, lost } = *sector;
            Bounds { answered, issued, discarded, lost }
        };
        self.sectors[Self::range(&range)].iter().map(bounds).collect()
    }

    /// A write or a discard is answered.
    pub fn answered(&mut self, range: Range<u64>, made: &[Bounds]) {
        for (sector, made) in self.sectors[Self::range(&range)].iter_mut().zip(made) {
            sector.answered = sector.answered.max(made.issued);
        }
    }

    /// A write or a discard was lost with its connection.
    pub fn lost(&mut self, range: Range<u64>, made: &[Bounds]) {
        for (sector, made) in self.sectors[Self::range(&range)].iter_mut().zip(made) {
            sector.lost = sector.lost.max(made.issued);
        }
    }

    /// Judges what a read found, `then` being the bounds when it was issued.
    pub fn judge(&self, range: Range<u64>, then: &[Bounds], bytes: &[u8]) -> Result<(), Finding> {
        let now = &self.sectors[Self::range(&range)];
        for (((place, sector), then), block) in range.zip(now).zip(then).zip(bytes.chunks_exact(SECTOR)) {
            let (oldest, newest) = match self.check {
                Check::Strict if then.lost == then.issued => (then.answered, then.issued),
                Check::Strict => (then.issued, then.issued),
                Check::Relaxed => (then.answered, sector.issued),
            };
            // Before the first write, and after a discard, anything may be there.
            let discarded = then.discarded >= oldest || (newest > then.issued && sector.discarded > then.issued);
            if oldest == 0 || discarded {
                continue;
            }
            let found = Stamp::read(self.run, place, block);
            if !found.is_ok_and(|generation| (oldest..=newest).contains(&generation)) {
                return Err(Finding { sector: place, oldest, newest, found });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const SECTORS: u64 = 16;

    fn oracle(check: Check) -> (Oracle, Vec<u8>) {
        (Oracle::new(77, check, SECTORS), vec![0; SECTORS as usize * SECTOR])
    }

    fn bytes(range: &Range<u64>) -> Range<usize> {
        range.start as usize * SECTOR..range.end as usize * SECTOR
    }

    #[test]
    fn a_write_that_was_overtaken_is_noticed() {
        let (mut oracle, mut disk) = oracle(Check::Strict);
        let (mut first, mut second) = ([0; 1024], [0; 1024]);
        oracle.write(2..4, &mut first);
        oracle.write(3..5, &mut second);
        let then = oracle.bounds(2..5);
        disk[bytes(&(2..4))].copy_from_slice(&first);
        disk[bytes(&(3..5))].copy_from_slice(&second);
        assert_eq!(oracle.judge(2..5, &then, &disk[bytes(&(2..5))]), Ok(()));
        disk[bytes(&(2..4))].copy_from_slice(&first);
        let finding = Finding { sector: 3, oldest: 2, newest: 2, found: Ok(1) };
        assert_eq!(oracle.judge(2..5, &then, &disk[bytes(&(2..5))]), Err(finding));
    }

    #[test]
    fn relaxed_takes_what_is_under_way_and_nothing_older() {
        let (mut oracle, _) = oracle(Check::Relaxed);
        let mut versions = [[0; SECTOR]; 3];
        oracle.write(0..1, &mut versions[0]);
        let made = oracle.bounds(0..1);
        oracle.answered(0..1, &made);
        oracle.write(0..1, &mut versions[1]);
        let made = oracle.bounds(0..1);
        let then = oracle.bounds(0..1);
        oracle.write(0..1, &mut versions[2]);
        assert!(versions.iter().all(|version| oracle.judge(0..1, &then, version) == Ok(())));
        oracle.answered(0..1, &made);
        let then = oracle.bounds(0..1);
        assert!(oracle.judge(0..1, &then, &versions[0]).is_err());
        assert!(versions[1..].iter().all(|version| oracle.judge(0..1, &then, version) == Ok(())));
    }

    #[test]
    fn after_a_discard_anything_goes_until_the_next_write() {
        for check in [Check::Strict, Check::Relaxed] {
            let (mut oracle, disk) = oracle(check);
            let mut block = [0; SECTOR];
            oracle.write(0..1, &mut block);
            assert!(oracle.judge(0..1, &oracle.bounds(0..1), &disk[..SECTOR]).is_err() || check == Check::Relaxed);
            oracle.discard(0..1);
            let made = oracle.bounds(0..1);
            oracle.answered(0..1, &made);
            assert_eq!(oracle.judge(0..1, &oracle.bounds(0..1), &disk[..SECTOR]), Ok(()));
            oracle.write(0..1, &mut block);
            let made = oracle.bounds(0..1);
            oracle.answered(0..1, &made);
            assert!(oracle.judge(0..1, &oracle.bounds(0..1), &disk[..SECTOR]).is_err());
            assert_eq!(oracle.judge(0..1, &oracle.bounds(0..1), &block), Ok(()));
        }
    }

    #[test]
    fn what_was_lost_is_there_or_not_until_the_next_write() {
        let (mut oracle, _) = oracle(Check::Strict);
        let mut versions = [[0; SECTOR]; 4];
        for at in 0..versions.len() {
            oracle.write(0..1, &mut versions[at]);
            let made = oracle.bounds(0..1);
            match at {
                2 => oracle.lost(0..1, &made),
                _ => oracle.answered(0..1, &made),
            }
            let then = oracle.bounds(0..1);
            let wanted = if at == 2 { 1..=2 } else { at..=at };
            for (other, version) in versions[..=at].iter().enumerate() {
                assert_eq!(oracle.judge(0..1, &then, version).is_ok(), wanted.contains(&other), "{other} after {at}");
            }
        }
        let then = oracle.bounds(1..2);
        assert!(oracle.judge(1..2, &then, &versions[0]).is_ok(), "nothing is known of it");
        let mut block = [0; SECTOR];
        oracle.write(1..2, &mut block);
        let made = oracle.bounds(1..2);
        oracle.answered(1..2, &made);
        oracle.write(1..2, &mut [0; SECTOR]);
        let made = oracle.bounds(1..2);
        oracle.lost(1..2, &made);
        assert!(oracle.judge(1..2, &oracle.bounds(1..2), &versions[2]).is_err(), "it was written to the wrong place");
    }

    proptest! {
        /// A disk that carries everything out in order of issue is never blamed, however late it answers.
        #[test]
        fn an_honest_disk_is_not_blamed(steps in prop::collection::vec((0u8..4, 0u64..SECTORS, 1u64..6), 1..200), relaxed: bool) {
            let (mut oracle, mut disk) = oracle(if relaxed { Check::Relaxed } else { Check::Strict });
            let mut late = VecDeque::new();
            for (kind, first, count) in steps {
                let range = first..(first + count).min(SECTORS);
                match kind {
                    0 => {
                        let mut written = vec![0; bytes(&range).len()];
                        oracle.write(range.clone(), &mut written);
                        disk[bytes(&range)].copy_from_slice(&written);
                        late.push_back((range.clone(), oracle.bounds(range), None));
                    }
                    1 => {
                        oracle.discard(range.clone());
                        disk[bytes(&range)].fill(0);
                        late.push_back((range.clone(), oracle.bounds(range), None));
                    }
                    2 => {
                        let found = disk[bytes(&range)].to_vec();
                        late.push_back((range.clone(), oracle.bounds(range), Some(found)));
                    }
                    _ => match late.pop_front() {
                        Some((range, made, None)) => oracle.answered(range, &made),
                        Some((range, then, Some(found))) => prop_assert_eq!(oracle.judge(range, &then, &found), Ok(())),
                        None => {}
                    }
                }
            }
        }
    }
}
