//! Free frames against what must always hold between their lists, and blocks against a count of what there is.

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::sim::Sim;

impl Frames {
    /// Panics if anything is wrong with the free frames.
    pub fn check_free(&self, m: &Sim) {
        let (mut listed, mut at, mut before) = (BTreeSet::new(), self.free.list, None);
        while at != END {
            assert!(listed.insert(at.0), "{at:?} is in the list twice");
            assert_eq!(self.info(m, at).kind, Kind::FREE);
            assert!(before.is_none_or(|before| m.load(at.at(0)) == before), "{at:?} names another before it");
            (before, at) = (Some(at.0 as u64), Frame(self.info(m, at).count));
        }
        let (mut whole, mut at) = (Vec::new(), self.free.blocks);
        while at != END {
            let info = self.info(m, at);
            assert!(at.0.is_multiple_of(BLOCK) && [0, UNTOUCHED].contains(&info.free), "{at:?}: {info:?}");
            assert!((at.0..at.0 + BLOCK).all(|frame| !listed.contains(&frame)), "{at:?} is whole and listed");
            whole.push(at);
            at = Frame(info.count);
        }
        assert_eq!(whole.len() as u32, self.free.whole);
        let rest = self.free.broken.0.len();
        assert_eq!(listed.len() + whole.len() * BLOCK as usize + rest, (self.managed - self.used) as usize);
        for block in listed.iter().map(|frame| frame & !(BLOCK - 1)).collect::<BTreeSet<_>>() {
            let count = listed.range(block..block + BLOCK).count();
            assert_eq!(self.info(m, Frame(block)).free as usize, count, "block {block}");
        }
        let promised = self.accounts.0.iter().map(|account| account.blocks.1).sum::<u32>();
        assert_eq!(promised, self.free.promised);
        assert!(promised <= self.free.whole, "{promised} blocks are promised, and {} there", self.free.whole);
        for account in &self.accounts.0 {
            assert!(account.blocks.1 <= account.blocks.0, "{account:?}");
            assert!(account.blocks.1 * BLOCK <= account.set_aside - account.used, "{account:?}");
        }
    }
}

/// Six blocks, of which the first and the last are in pieces.
fn frames(m: &Sim) -> Frames {
    let mut frames = Frames::new();
    assert!(frames.manage(m, &[100 * PAGE_SIZE..1700 * PAGE_SIZE, 2048 * PAGE_SIZE..3000 * PAGE_SIZE], 0));
    frames.check_free(m);
    frames
}

#[derive(Clone, Debug)]
enum Step {
    SetAside(usize, u64),
    Promise(usize, u32),
    Take(usize, usize),
    Block(usize),
    GiveBack(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let owner = 0_usize..3;
    prop_oneof![
        (owner.clone(), 0_u64..2600).prop_map(|(owner, pages)| Step::SetAside(owner, pages)),
        (owner.clone(), 0_u32..5).prop_map(|(owner, blocks)| Step::Promise(owner, blocks)),
        (owner.clone(), 1_usize..700).prop_map(|(owner, count)| Step::Take(owner, count)),
        owner.prop_map(Step::Block),
        (any::<usize>(), 1_usize..700).prop_map(|(from, count)| Step::GiveBack(from, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever takes and gives back, what is set aside can be taken, and what is promised too.
    #[test]
    fn what_is_promised_is_there(steps in proptest::collection::vec(step(), 1..40)) {
        let m = Sim::new(3000, 0x77);
        let mut frames = frames(&m);
        let mut taken = Vec::new();
        for step in steps {
            match step {
                Step::SetAside(owner, pages) => _ = frames.set_aside(Slot::new(owner), pages),
                Step::Promise(owner, blocks) if frames.accounts[Slot::new(owner)].blocks.1 == 0 => {
                    let owner = Slot::new(owner);
                    let whole = frames.free.whole - frames.free.promised;
                    let fits = blocks <= whole && (blocks * BLOCK) as u64 <= frames.available(owner);
                    prop_assert_eq!(frames.promise(owner, blocks).is_ok(), fits);
                }
                Step::Promise(..) => {}
                Step::Take(owner, count) => for _ in 0..count {
                    let room = frames.available(Slot::new(owner)) > 0;
                    let frame = frames.take(&m, Slot::new(owner), Kind::MEMORY);
                    prop_assert_eq!(frame.is_ok(), room);
                    let Ok(frame) = frame else { break };
                    prop_assert!((0..512).all(|word| m.load(frame.at(word * 8)) == 0));
                    m.store(frame.at(8), 1);
                    taken.push(frame);
                },
                Step::Block(owner) => {
                    let owner = Slot::new(owner);
                    let promised = frames.accounts[owner].blocks.1 > 0;
                    if frames.available(owner) >= BLOCK as u64 {
                        let block = frames.take_block(&m, owner);
                        prop_assert!(block.is_some() || !promised);
                        for frame in block.into_iter().flat_map(|first| first.0..first.0 + BLOCK).map(Frame) {
                            prop_assert_eq!(frames.info(&m, frame).owner, owner);
                            prop_assert!((0..512).all(|word| m.load(frame.at(word * 8)) == 0));
                            m.store(frame.at(8), 1);
                            taken.push(frame);
                        }
                    }
                }
                Step::GiveBack(from, count) => for _ in 0..count.min(taken.len()) {
                    let frame = taken.swap_remove(from % taken.len());
                    frames.give_back(&m, frame);
                },
            }
            frames.check_free(&m);
        }
        // With everything given back, there are as many blocks as at first.
        taken.into_iter().for_each(|frame| frames.give_back(&m, frame));
        frames.check_free(&m);
        prop_assert_eq!(frames.free.whole + (!frames.free.broken.0.is_empty()) as u32, 3);
    }
}

#[test]
fn single_frames_break_one_block_at_a_time() {
    let m = Sim::new(3000, 0x77);
    let mut frames = frames(&m);
    let (small, large) = (Slot::new(1), Slot::new(2));
    let single = frames.managed - 3 * BLOCK;
    frames.set_aside(small, single as u64 + 600).unwrap();
    frames.set_aside(large, BLOCK as u64).unwrap();
    frames.promise(large, 1).unwrap();
    assert_eq!(frames.promise(small, 3), Err(Error::NoMemory));
    let taken: Vec<_> = (0..single + 600).map(|_| frames.take(&m, small, Kind::MEMORY).unwrap()).collect();
    assert_eq!((frames.free.whole, frames.free.promised), (1, 1));
    // The last one is kept for another.
    assert_eq!(frames.take_block(&m, small), None);
    assert!(frames.take_block(&m, large).is_some());
    taken.into_iter().for_each(|frame| frames.give_back(&m, frame));
    frames.check_free(&m);
}
