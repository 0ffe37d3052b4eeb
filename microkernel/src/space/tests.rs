//! Page tables against a reference model.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use protocol::error::Error;

use super::*;
use crate::testing::sim::Sim;

const OWNER: Slot = Slot::new(9);

fn space(m: &Sim, pages: u64) -> (Frames, Space) {
    let mut frames = Frames::new();
    assert!(frames.manage(m, &[4096..400 * 4096, 0..0], 0));
    frames.set_aside(OWNER, pages).unwrap();
    let root = frames.take(m, OWNER, Kind::OBJECT).unwrap();
    (frames, Space(root))
}

/// Addresses close together and at the ends of tables of every level.
fn address() -> impl Strategy<Value = u64> {
    (0_u64..4, 0_u64..3, prop_oneof![0_u64..3, 510_u64..512])
        .prop_map(|(gib, table, page)| (gib * 100) << 30 | (table * 255) << 21 | page << 12)
}

/// Takes a range apart; gives where it came to an end.
fn clear(space: Space, m: &Sim, frames: &mut Frames, range: Range<u64>, keep: bool) -> u64 {
    let mut from = range.start;
    while from < range.end {
        from = space.clear(m, frames, OWNER, from, keep).0;
    }
    from
}

proptest! {
    #[test]
    fn it_maps_what_the_model_maps(steps in proptest::collection::vec((address(), 0_u8..4), 1..60)) {
        let m = Sim::new(400, 0x55);
        let (mut frames, space) = space(&m, 300);
        let mut model = BTreeMap::new();
        for (address, what) in steps {
            let access = [Access::Read, Access::Write, Access::Execute][what as usize % 3];
            if what == 3 {
                let frame = frames_of(space.unmap(&m, address)).next();
                prop_assert_eq!(frame, model.remove(&address).map(|(frame, _)| frame));
                frame.into_iter().for_each(|frame| frames.unmapped(&m, frame, OWNER));
            } else if let std::collections::btree_map::Entry::Vacant(place) = model.entry(address) {
                let missing = space.missing_tables(&m, address, 1);
                let frame = frames.take(&m, OWNER, Kind::MEMORY).unwrap();
                let before = frames.used as u64;
                space.map(&m, &mut frames, OWNER, address, leaf(frame, access)).unwrap();
                prop_assert_eq!(frames.used as u64 - before, missing);
                place.insert((frame, access));
            }
            for (&address, &(frame, access)) in &model {
                prop_assert_eq!(space.translate(&m, address, false), Some(frame));
                prop_assert_eq!(space.translate(&m, address + 5, true).is_some(), access == Access::Write);
                prop_assert_eq!(space.lookup(&m, address) >> 63 == 0, access == Access::Execute);
            }
        }
        clear(space, &m, &mut frames, 0..USER_END, true);
        for (&address, &(frame, access)) in &model {
            prop_assert_eq!(space.translate(&m, address, false), (access != Access::Write).then_some(frame));
        }
        // Nothing is left but the root.
        clear(space, &m, &mut frames, 0..USER_END, false);
        prop_assert_eq!(frames.used, 1);
        prop_assert!((0..512).all(|entry| m.load(space.0.at(entry * 8)) == 0));
    }

    #[test]
    fn the_tables_that_are_missing_are_those_that_mapping_makes(
        mapped in proptest::collection::vec(address(), 0..4), start in address(), pages in 1_u64..1100
    ) {
        let m = Sim::new(400, 0);
        let (mut frames, space) = space(&m, 390);
        for address in mapped {
            space.map(&m, &mut frames, OWNER, address, leaf(Frame(1), Access::Read)).unwrap();
        }
        let before = frames.used as u64;
        let missing = space.missing_tables(&m, start, pages);
        for page in 0..pages {
            space.map(&m, &mut frames, OWNER, start + page * PAGE_SIZE, leaf(Frame(1), Access::Read)).unwrap();
        }
        prop_assert_eq!(frames.used as u64 - before, missing);
    }
}

#[test]
fn addresses_outside_the_lower_half_reach_nothing() {
    let m = Sim::new(400, 0);
    let (mut frames, space) = space(&m, 300);
    space.map(&m, &mut frames, OWNER, 0, leaf(Frame(3), Access::Write)).unwrap();
    assert_eq!(space.translate(&m, 0, true), Some(Frame(3)));
    for address in [USER_END, 1 << 47, 0xffff_8000_0000_0000, u64::MAX - 4095] {
        assert_eq!(space.translate(&m, address, false), None);
    }
}

#[test]
fn a_map_without_memory_for_tables_fails() {
    let m = Sim::new(400, 0);
    let (mut frames, space) = space(&m, 3);
    let mapped = space.map(&m, &mut frames, OWNER, 0, leaf(Frame(3), Access::Write));
    assert_eq!(mapped, Err(Error::NoMemory));
    assert_eq!(space.translate(&m, 0, false), None);
}

#[test]
fn a_cleared_range_leaves_its_neighbours() {
    let m = Sim::new(400, 0);
    let (mut frames, space) = space(&m, 300);
    let gib = 1 << 30;
    for address in [gib - 4096, gib, 2 * gib - 4096, 2 * gib] {
        let frame = frames.take(&m, OWNER, Kind::MEMORY).unwrap();
        space.map(&m, &mut frames, OWNER, address, leaf(frame, Access::Write)).unwrap();
    }
    assert_eq!(clear(space, &m, &mut frames, gib..2 * gib, false), 2 * gib);
    let left = [gib - 4096, gib, 2 * gib - 4096, 2 * gib].map(|at| space.translate(&m, at, false).is_some());
    assert_eq!(left, [true, false, false, true]);
}
