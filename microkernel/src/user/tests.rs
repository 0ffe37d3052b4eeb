//! Foreign addresses: whole copies or none.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::frames::{Frames, Kind};
use crate::space::{Access, leaf};
use crate::table::Slot;
use crate::testing::sim::Sim;

const BASE: u64 = 0x40_0000;

/// Pages at [`BASE`]: writable, writable, read-only, nothing, writable.
fn space(m: &Sim) -> Space {
    let (mut frames, owner) = (Frames::new(), Slot::new(9));
    assert!(frames.manage(m, &[4096..60 * 4096, 0..0], 0));
    frames.set_aside(owner, 50).unwrap();
    let space = Space(frames.take(m, owner, Kind::OBJECT).unwrap());
    for (page, access) in [(0, Access::Write), (1, Access::Write), (2, Access::Read), (4, Access::Write)] {
        let frame = frames.take(m, owner, Kind::MEMORY).unwrap();
        let entry = leaf(frame, access);
        space.map(m, &mut frames, owner, BASE + page * PAGE_SIZE, entry).unwrap();
    }
    space
}

proptest! {
    #[test]
    fn bytes_go_whole_or_not_at_all(start in 0_u64..5 * PAGE_SIZE, length in 0_usize..9000, write: bool) {
        let m = Sim::new(60, 0);
        let space = space(&m);
        let end = start + length as u64;
        let reaches = |page: u64| length > 0 && start < (page + 1) * PAGE_SIZE && end > page * PAGE_SIZE;
        let bad = reaches(3) || end > 5 * PAGE_SIZE || write && reaches(2);
        let before = m.digest();
        let checked = Checked::new(&m, space, BASE + start, length as u64, write);
        prop_assert_eq!(checked.is_err(), bad);
        prop_assert_eq!(m.digest(), before);
        if let (Ok(checked), true) = (checked, write) {
            let bytes: Vec<u8> = (0..length).map(|index| index as u8 | 1).collect();
            checked.write(&m, 0, &bytes);
            let mut back = vec![0; length];
            checked.read(&m, 0, &mut back);
            prop_assert_eq!(back, bytes);
        }
    }
}

#[test]
fn ranges_stay_in_the_lower_half() {
    let m = Sim::new(60, 0);
    let space = space(&m);
    for (start, length) in
        [(USER_END, 1), (USER_END - 1, 2), (u64::MAX, 1), (u64::MAX, u64::MAX), (0, USER_END + 1), (1 << 63, 0)]
    {
        assert_eq!(Checked::new(&m, space, start, length, false), Err(Error::BadAddress));
    }
    assert!(Checked::new(&m, space, USER_END, 0, false).is_ok());
}

#[test]
fn the_largest_range_is_refused_at_its_first_page() {
    let m = Sim::new(60, 0);
    let checked = Checked::new(&m, space(&m), 0, USER_END, false);
    assert_eq!(checked.map(|_| ()), Err(Error::BadAddress));
}
