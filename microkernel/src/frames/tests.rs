//! The frame table against a reference model.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::sim::Sim;

const MANAGED: u32 = 40;

#[derive(Clone, Debug)]
enum Step {
    SetAside(usize, u64),
    Take(usize),
    GiveBack(usize),
    Pin(usize),
    Unpin(usize),
    Unmapped(usize),
    Park(usize),
    Unpark,
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0_usize..64;
    prop_oneof![
        (any.clone(), 0_u64..MANAGED as u64 + 5).prop_map(|(owner, pages)| Step::SetAside(owner, pages)),
        any.clone().prop_map(Step::Take),
        any.clone().prop_map(Step::Take),
        any.clone().prop_map(Step::GiveBack),
        any.clone().prop_map(Step::Pin),
        any.clone().prop_map(Step::Unpin),
        any.clone().prop_map(Step::Unmapped),
        any.prop_map(Step::Park),
        Just(Step::Unpark),
    ]
}

/// What a frame in use is in the model: owner, pins, orphaned, parked.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    owner: usize,
    pins: u32,
    orphan: bool,
    parked: bool,
}

fn table(m: &Sim) -> Frames {
    let mut frames = Frames::new();
    // Two ranges with a hole, in any order and not on page borders; one frame goes to the table.
    assert!(frames.manage(m, &[20 * 4096 - 1..41 * 4096 + 9, 50 * 4096..70 * 4096, 5..9], 0));
    assert_eq!(frames.managed, MANAGED);
    frames
}

proptest! {
    #[test]
    fn it_counts_as_the_model_does(steps in proptest::collection::vec(step(), 1..200)) {
        let m = Sim::new(80, 0xaa);
        let mut frames = table(&m);
        let mut model = BTreeMap::<u32, Used>::new();
        let mut set_aside = [0_u64; 3];
        let mut list = END;
        for step in steps {
            let nth = |index: usize, wanted: &dyn Fn(&Used) -> bool| {
                let fit: Vec<u32> = model.iter().filter(|(_, used)| wanted(used)).map(|(frame, _)| *frame).collect();
                (!fit.is_empty()).then(|| fit[index % fit.len()])
            };
            let charged = |owner| model.values().filter(|used| used.owner == owner).count() as u64;
            match step {
                Step::SetAside(owner, pages) => {
                    let owner = owner % 3;
                    let others: u64 = (0..3).filter(|other| *other != owner).map(|other| set_aside[other]).sum();
                    let expected = if pages < charged(owner) {
                        Err(Error::Busy)
                    } else if others + pages > MANAGED as u64 {
                        Err(Error::NoMemory)
                    } else {
                        set_aside[owner] = pages;
                        Ok(())
                    };
                    prop_assert_eq!(frames.set_aside(Slot::new(owner), pages), expected);
                }
                Step::Take(owner) => {
                    let owner = owner % 3;
                    let room = charged(owner) < set_aside[owner];
                    match frames.take(&m, Slot::new(owner), Kind::MEMORY) {
                        Ok(frame) => {
                            prop_assert!(room);
                            prop_assert!((0..512).all(|word| m.load(frame.at(word * 8)) == 0));
                            m.store(frame.at(800), 1);
                            let before = model.insert(frame.0, Used { owner, ..Used::default() });
                            prop_assert!(before.is_none());
                        }
                        Err(error) => prop_assert!(!room && error == Error::NoMemory),
                    }
                }
                Step::GiveBack(index) => {
                    if let Some(frame) = nth(index, &|used| used.pins == 0 && !used.parked) {
                        frames.give_back(&m, Frame(frame));
                        model.remove(&frame);
                    }
                }
                Step::Pin(index) => {
                    if let Some(frame) = nth(index, &|used| !used.parked && !used.orphan) {
                        frames.pin(&m, Frame(frame), false);
                        model.get_mut(&frame).unwrap().pins += 1;
                    }
                }
                Step::Unpin(index) => {
                    if let Some(frame) = nth(index, &|used| used.pins > 0) {
                        frames.pin(&m, Frame(frame), true);
                        let used = model.get_mut(&frame).unwrap();
                        used.pins -= 1;
                        if used.pins == 0 && used.orphan {
                            model.remove(&frame);
                        }
                    }
                }
                Step::Unmapped(index) => {
                    if let Some(frame) = nth(index, &|used| !used.parked && !used.orphan) {
                        let owner = model[&frame].owner;
                        frames.unmapped(&m, Frame(frame), Slot::new(owner + 1));
                        prop_assert_eq!(frames.info(&m, Frame(frame)).kind, Kind::MEMORY);
                        frames.unmapped(&m, Frame(frame), Slot::new(owner));
                        if model[&frame].pins == 0 {
                            model.remove(&frame);
                        } else {
                            model.get_mut(&frame).unwrap().orphan = true;
                        }
                    }
                }
                Step::Park(index) => {
                    if let Some(frame) = nth(index, &|used| used.pins == 0 && !used.parked) {
                        frames.park(&m, &mut list, Frame(frame));
                        model.get_mut(&frame).unwrap().parked = true;
                    }
                }
                Step::Unpark => {
                    frames.unpark(&m, &mut list);
                    model.retain(|_, used| !used.parked);
                }
            }
            prop_assert_eq!(frames.used as usize, model.len());
            prop_assert_eq!(frames.parked as usize, model.values().filter(|used| used.parked).count());
            prop_assert_eq!(frames.set_aside as u64, set_aside.iter().sum::<u64>());
            for owner in 0..3 {
                let account = frames.accounts[Slot::new(owner)];
                let of = |used: &&Used| used.owner == owner;
                let mapped = model.values().filter(of).filter(|used| used.pins > 0).count();
                prop_assert_eq!(account.used as usize, model.values().filter(of).count());
                prop_assert_eq!(account.mapped as usize, mapped);
            }
        }
    }
}

#[test]
fn memory_too_small_for_the_table_is_refused() {
    let m = Sim::new(16, 0);
    assert!(!Frames::new().manage(&m, &[], 0));
    assert!(!Frames::new().manage(&m, &[4096..8192, 0..0], 0));
    let end = 1 << 33;
    assert!(!Frames::new().manage(&m, &[4096..12 * 4096, 0..0], end));
}
