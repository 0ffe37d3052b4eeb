//! The handle table against a reference model.

use std::boxed::Box;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::sim::Sim;

const SLOT: Slot = Slot::new(5);
const CALLER: Caller = Caller { slot: SLOT, ..Caller::NOBODY };

/// A core in which one domain has a handle table, and nothing else.
fn core() -> Box<Core<Sim>> {
    let mut core = Box::new(Core::new(Sim::new(2, 0)));
    core.domains[SLOT].handles = Frame(1);
    core
}

fn entry(value: u64) -> Entry {
    Entry::new(ObjectKind::IoPorts, Rights::USE, value)
}

proptest! {
    #[test]
    fn handles_name_what_they_were_made_for_until_they_are_closed(
        steps in proptest::collection::vec((any::<bool>(), 0_usize..300), 1..400)
    ) {
        let mut core = core();
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        for (step, (add, index)) in steps.into_iter().enumerate() {
            if add {
                match core.add_handle(SLOT, entry(step as u64)) {
                    Ok(handle) => open.push((Handle(handle as u32), step as u64)),
                    Err(error) => prop_assert!(error == Error::TableFull && open.len() == HANDLES),
                }
            } else if !open.is_empty() {
                let (handle, _) = open.swap_remove(index % open.len());
                core.remove_handle(SLOT, handle);
                closed.push(handle);
            }
            for &(handle, value) in &open {
                let found = core.entry(CALLER, handle).and_then(|entry| entry.object(ObjectKind::IoPorts, Rights::USE));
                prop_assert_eq!(found, Ok(value));
            }
            prop_assert_eq!(core.domains[SLOT].info.handles as usize, open.len());
            for &handle in &closed {
                prop_assert_eq!(core.entry(CALLER, handle), Err(Error::BadHandle));
            }
        }
    }

    #[test]
    fn any_number_is_looked_up_safely(number: u32) {
        let mut core = core();
        core.add_handle(SLOT, entry(7)).unwrap();
        let found = core.entry(CALLER, Handle(number));
        prop_assert_eq!(found.is_ok(), number == 0);
    }
}

#[test]
fn kind_comes_before_rights_and_a_copy_has_no_more_rights() {
    let entry = entry(5);
    assert_eq!(entry.object(ObjectKind::Domain, Rights::COPY), Err(Error::WrongKind));
    assert_eq!(entry.object(ObjectKind::IoPorts, Rights::USE | Rights::COPY), Err(Error::NotPermitted));
    assert_eq!(entry.with_at_most(Rights::all()), entry);
    assert_eq!(entry.with_at_most(Rights::COPY).require(Rights::USE), Err(Error::NotPermitted));
}
