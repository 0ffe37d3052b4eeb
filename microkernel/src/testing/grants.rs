//! Grants as hypercalls: what may be mapped, what is accounted, and what death leaves behind.

use protocol::domain::{DomainInfo, SchedParams};
use protocol::error::Error;
use protocol::grant::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;

use super::world::{Child, World, spec};
use crate::frames::Kind;
use crate::platform::{Memory, Phys};
use crate::table::Slot;

/// Where batches lie in a child's scratch memory.
const BATCH: u64 = HEAP + 4 * PAGE_SIZE;

/// Two running domains that know each other.
fn pair() -> (World, Child, Child) {
    let mut world = World::new(600, 2);
    let (granter, mapper) = (world.child(), world.child());
    world.befriend(granter, mapper);
    (world, granter, mapper)
}

/// Grants the page at `address` to the mapper.
fn grant(world: &World, granter: Child, mapper: Child, reference: u32, address: u64, flags: u16) {
    let entry = GrantEntry { flags, peer: mapper.slot.number() as u16, frame: (address >> PAGE_SHIFT) as u32 };
    world.put(granter.slot, GRANT_TABLE + 8 * reference as u64, &entry);
}

fn entry(world: &World, child: Child, reference: u32) -> u16 {
    let entry: GrantEntry = world.get(child.slot, GRANT_TABLE + 8 * reference as u64);
    entry.flags
}

fn element(granter: Child, reference: u32, page: u64, flags: u16) -> MapElement {
    let address = GRANT_WINDOW + page * PAGE_SIZE;
    MapElement { peer: granter.slot.number() as u16, flags, reference, address, ..MapElement::default() }
}

fn map(world: &mut World, mapper: Child, element: MapElement) -> Result<MapElement, Error> {
    world.put(mapper.slot, BATCH, &element);
    let done = world.call(mapper.slot, H::GrantMap, &[BATCH, 1]).unwrap();
    let element: MapElement = world.get(mapper.slot, BATCH);
    assert_eq!(done, (element.status == 0) as u64);
    world.check();
    if element.status == 0 { Ok(element) } else { Err(Error::from_number(-element.status).unwrap()) }
}

fn unmap(world: &mut World, mapper: Child, mapping: u32) -> Result<(), Error> {
    world.put(mapper.slot, BATCH, &UnmapElement { mapping, status: 1 });
    world.call(mapper.slot, H::GrantUnmap, &[BATCH, 1]).unwrap();
    let element: UnmapElement = world.get(mapper.slot, BATCH);
    world.check();
    if element.status == 0 { Ok(()) } else { Err(Error::from_number(-element.status).unwrap()) }
}

fn info(world: &mut World, handle: u64) -> DomainInfo {
    let at = HEAP + 2 * PAGE_SIZE;
    world.ok(Slot::DOM0, H::DomainInfo, &[handle, at]);
    world.get(Slot::DOM0, at)
}

#[test]
fn a_mapped_page_is_shared_and_its_entry_says_so() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    world.poke(granter.slot, HEAP + 5, b"hello");
    let mapped = map(&mut world, mapper, element(granter, 8, 3, 0)).unwrap();
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS | READING | WRITING);
    assert_eq!(world.peek(mapper.slot, mapped.address + 5, 5), b"hello");
    world.poke(mapper.slot, mapped.address, b"xyz");
    assert_eq!(world.peek(granter.slot, HEAP, 3), b"xyz");
    let frame = world.core.domains[granter.slot].space.translate(&world.core.machine, HEAP, false).unwrap();
    assert_eq!(mapped.device_address, frame.at(0).0);
    assert_eq!((info(&mut world, granter.handle).mapped_by_others, info(&mut world, mapper.handle).mappings), (1, 1));
    assert_eq!(world.call(granter.slot, H::MemoryRelease, &[HEAP, 1]), Err(Error::Busy));
    unmap(&mut world, mapper, mapped.mapping).unwrap();
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS);
    assert_eq!(unmap(&mut world, mapper, mapped.mapping), Err(Error::NotFound));
    assert!(world.core.domains[mapper.slot].space.translate(&world.core.machine, mapped.address, false).is_none());
    assert_eq!((info(&mut world, granter.handle).mapped_by_others, info(&mut world, mapper.handle).mappings), (0, 0));
    world.ok(granter.slot, H::MemoryRelease, &[HEAP, 1]);
    world.check();
}

#[test]
fn a_page_for_devices_has_no_address_and_is_accounted_like_any_other() {
    let (mut world, granter, mapper) = pair();
    let device = |reference, flags| MapElement { address: 0, ..element(granter, reference, 0, flags | DEVICE_ONLY) };
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    grant(&world, granter, mapper, 9, HEAP + PAGE_SIZE, PERMIT_ACCESS | READONLY);
    for address in [1, GRANT_WINDOW, HEAP, u64::MAX] {
        let refused = map(&mut world, mapper, MapElement { address, ..device(8, 0) });
        assert_eq!(refused.map(|_| ()), Err(Error::BadAddress));
    }
    assert_eq!(map(&mut world, mapper, element(granter, 8, 0, DEVICE_ONLY)).map(|_| ()), Err(Error::BadAddress));
    assert_eq!(map(&mut world, mapper, device(9, 0)).map(|_| ()), Err(Error::BadGrant));
    let used = info(&mut world, mapper.handle).used_pages;
    let flushes = world.core.machine.flushes.get();
    let write = map(&mut world, mapper, device(8, 0)).unwrap();
    let read = map(&mut world, mapper, device(9, READONLY)).unwrap();
    let frame = world.core.domains[granter.slot].space.translate(&world.core.machine, HEAP, false).unwrap();
    assert_eq!(write.device_address, frame.at(0).0);
    assert_eq!(
        (entry(&world, granter, 8), entry(&world, granter, 9) & (READING | WRITING)),
        (PERMIT_ACCESS | READING | WRITING, READING)
    );
    assert_eq!((info(&mut world, granter.handle).mapped_by_others, info(&mut world, mapper.handle).mappings), (2, 2));
    assert_eq!(world.call(granter.slot, H::MemoryRelease, &[HEAP, 1]), Err(Error::Busy));
    unmap(&mut world, mapper, write.mapping).unwrap();
    assert_eq!(unmap(&mut world, mapper, write.mapping), Err(Error::NotFound));
    assert_eq!(info(&mut world, mapper.handle).used_pages, used, "no page table was needed");
    assert_eq!(world.core.machine.flushes.get(), flushes, "nothing was cached");
    // The granter's end leaves it with the mapper, whose reset lets go.
    world.destroy(granter);
    world.check();
    assert_eq!(world.core.frames.info(&world.core.machine, Phys(read.device_address).frame()).kind, Kind::ORPHAN);
    world.ok(Slot::DOM0, H::DomainReset, &[mapper.handle]);
    assert_eq!(info(&mut world, mapper.handle).mappings, 0);
    world.check();
    world.destroy(mapper);
    world.check();
}

#[test]
fn mappings_with_and_without_an_address_end_in_one_batch() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let elements = [
        MapElement { address: 0, ..element(granter, 8, 0, DEVICE_ONLY) },
        element(granter, 8, 1, 0),
        MapElement { address: 0, ..element(granter, 8, 0, DEVICE_ONLY | READONLY) },
    ];
    world.put(mapper.slot, BATCH, &elements);
    assert_eq!(world.ok(mapper.slot, H::GrantMap, &[BATCH, 3]), 3);
    world.check();
    let mapped: [MapElement; 3] = world.get(mapper.slot, BATCH);
    world.put(mapper.slot, BATCH, &mapped.map(|element| UnmapElement { mapping: element.mapping, status: 1 }));
    assert_eq!(world.ok(mapper.slot, H::GrantUnmap, &[BATCH, 3]), 3);
    assert_eq!((entry(&world, granter, 8), info(&mut world, mapper.handle).mappings), (PERMIT_ACCESS, 0));
    world.check();
}

#[test]
fn one_entry_can_be_used_many_times_and_each_use_is_counted() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let write = map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
    let read = map(&mut world, mapper, element(granter, 8, 1, READONLY)).unwrap();
    assert_eq!(map(&mut world, mapper, element(granter, 8, 1, READONLY)).map(|_| ()), Err(Error::Exists));
    unmap(&mut world, mapper, write.mapping).unwrap();
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS | READING);
    // While it is in use it cannot be turned to another page.
    grant(&world, granter, mapper, 8, HEAP + PAGE_SIZE, PERMIT_ACCESS | READING);
    assert_eq!(map(&mut world, mapper, element(granter, 8, 2, 0)).map(|_| ()), Err(Error::BadGrant));
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS | READING);
    unmap(&mut world, mapper, read.mapping).unwrap();
    world.check_grants(granter.slot);
}

#[test]
fn only_plain_memory_of_the_granter_can_be_granted() {
    let (mut world, granter, mapper) = pair();
    // A page that the granter itself has from somebody else.
    grant(&world, mapper, granter, 8, HEAP, PERMIT_ACCESS);
    let foreign = map(&mut world, granter, element(mapper, 8, 0, 0)).unwrap();
    for address in
        [START_INFO, ARGUMENTS, EVENTS, GRANT_TABLE, RETAINED, foreign.address, HEAP_END, 0, USER_END, 1 << 43]
    {
        for flags in [0, READONLY] {
            grant(&world, granter, mapper, 9, address, PERMIT_ACCESS);
            let refused = map(&mut world, mapper, element(granter, 9, 1, flags));
            assert_eq!(refused.map(|_| ()), Err(Error::BadGrant), "{address:#x}");
            assert_eq!(entry(&world, granter, 9), PERMIT_ACCESS);
        }
    }
    // A page that the granter may only read cannot be granted for writing.
    world.ok(granter.slot, H::MemoryPopulate, &[0, IMAGE_BASE, 1, 2]);
    grant(&world, granter, mapper, 9, IMAGE_BASE, PERMIT_ACCESS);
    assert_eq!(map(&mut world, mapper, element(granter, 9, 1, 0)).map(|_| ()), Err(Error::BadGrant));
    map(&mut world, mapper, element(granter, 9, 1, READONLY)).unwrap();
}

#[test]
fn entries_that_do_not_permit_are_refused() {
    let (mut world, granter, mapper) = pair();
    let stranger = world.child();
    for (flags, wanted) in [(INVALID, 0), (2, 0), (3, 0), (PERMIT_ACCESS | 1 << 5, 0), (PERMIT_ACCESS | READONLY, 0)] {
        grant(&world, granter, mapper, 8, HEAP, flags);
        assert_eq!(map(&mut world, mapper, element(granter, 8, 0, wanted)).map(|_| ()), Err(Error::BadGrant));
        assert_eq!(entry(&world, granter, 8), flags);
    }
    grant(&world, granter, stranger, 8, HEAP, PERMIT_ACCESS);
    assert_eq!(map(&mut world, mapper, element(granter, 8, 0, 0)).map(|_| ()), Err(Error::BadGrant));
    assert_eq!(map(&mut world, stranger, element(granter, 8, 0, 0)).map(|_| ()), Err(Error::NoPeer));
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    for (bad, error) in [
        (MapElement { reference: 512, ..element(granter, 8, 0, 0) }, Error::BadGrant),
        (MapElement { reference: u32::MAX, ..element(granter, 8, 0, 0) }, Error::BadGrant),
        (MapElement { peer: 0xffff, ..element(granter, 8, 0, 0) }, Error::NoPeer),
        (MapElement { peer: mapper.slot.number() as u16, ..element(granter, 8, 0, 0) }, Error::NoPeer),
        (MapElement { flags: 1, ..element(granter, 8, 0, 0) }, Error::Invalid),
        (MapElement { address: GRANT_WINDOW_END, ..element(granter, 8, 0, 0) }, Error::BadAddress),
        (MapElement { address: HEAP + (1 << 20), ..element(granter, 8, 0, 0) }, Error::BadAddress),
        (MapElement { address: GRANT_WINDOW + 8, ..element(granter, 8, 0, 0) }, Error::BadAddress),
        (MapElement { address: u64::MAX - 4095, ..element(granter, 8, 0, 0) }, Error::BadAddress),
    ] {
        assert_eq!(map(&mut world, mapper, bad).map(|_| ()), Err(error), "{bad:x?}");
    }
    world.check_grants(granter.slot);
}

#[test]
fn a_bad_element_leaves_the_others_of_its_batch_alone() {
    let (mut world, granter, mapper) = pair();
    for reference in 8..12 {
        grant(&world, granter, mapper, reference, HEAP + reference as u64 * PAGE_SIZE, PERMIT_ACCESS);
    }
    let batch = [8, 9, 500, 10, 11].map(|reference| element(granter, reference, reference as u64, 0));
    world.put(mapper.slot, BATCH, &batch);
    assert_eq!(world.call(mapper.slot, H::GrantMap, &[BATCH, 5]), Ok(4));
    let done: [MapElement; 5] = world.get(mapper.slot, BATCH);
    assert_eq!(done.map(|element| element.status), [0, 0, -61, 0, 0]);
    let batch = [done[0].mapping, 77, done[1].mapping, done[1].mapping, done[4].mapping];
    world.put(mapper.slot, BATCH, &batch.map(|mapping| UnmapElement { mapping, status: 7 }));
    assert_eq!(world.call(mapper.slot, H::GrantUnmap, &[BATCH, 5]), Ok(3));
    let done: [UnmapElement; 5] = world.get(mapper.slot, BATCH);
    assert_eq!(done.map(|element| element.status), [0, -2, 0, -2, 0]);
    world.check();
    world.check_grants(granter.slot);
    for (count, error) in [(0, Error::Invalid), (65, Error::TooBig), (u64::MAX, Error::TooBig)] {
        assert_eq!(world.call(mapper.slot, H::GrantMap, &[BATCH, count]), Err(error));
    }
}

#[test]
fn the_table_of_mappings_has_an_end() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let held: std::vec::Vec<u32> =
        (0..16).map(|page| map(&mut world, mapper, element(granter, 8, page, 0)).unwrap().mapping).collect();
    assert_eq!(map(&mut world, mapper, element(granter, 8, 16, 0)).map(|_| ()), Err(Error::TableFull));
    unmap(&mut world, mapper, held[5]).unwrap();
    assert_eq!(map(&mut world, mapper, element(granter, 8, 16, 0)).unwrap().mapping, held[5]);
}

#[test]
fn memory_for_page_tables_is_asked_for_before_anything_is_done() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let used = world.core.frames.accounts[mapper.slot].used as u64;
    // A table for a GiB and one for 2 MiB are needed.
    for spare in 0..2 {
        world.ok(Slot::DOM0, H::DomainSetMemory, &[mapper.handle, used + spare, 1000]);
        assert_eq!(map(&mut world, mapper, element(granter, 8, 0, 0)).map(|_| ()), Err(Error::NoMemory));
        assert_eq!(world.core.frames.accounts[mapper.slot].used as u64, used);
        world.check_grants(granter.slot);
    }
    world.ok(Slot::DOM0, H::DomainSetMemory, &[mapper.handle, used + 2, 1000]);
    map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
}

fn own(address: u64, offset: u16) -> CopySide {
    CopySide { reference_or_address: address, peer: OWN_MEMORY, offset, reserved: 0 }
}

fn theirs(peer: Child, reference: u64, offset: u16) -> CopySide {
    CopySide { reference_or_address: reference, peer: peer.slot.number() as u16, offset, reserved: 0 }
}

#[test]
fn copies_check_both_sides_and_leave_no_trace_in_the_entries() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    grant(&world, granter, mapper, 9, HEAP + PAGE_SIZE, PERMIT_ACCESS | READONLY);
    world.poke(granter.slot, HEAP + 100, b"from the granter");
    let mut copy = |source, destination, length| {
        world.put(mapper.slot, BATCH, &CopyElement { source, destination, length, status: 1 });
        world.call(mapper.slot, H::GrantCopy, &[BATCH, 1]).unwrap();
        world.check();
        world.check_grants(granter.slot);
        let element: CopyElement = world.get(mapper.slot, BATCH);
        (-element.status, world.peek(mapper.slot, HEAP, 4), world.peek(granter.slot, HEAP, 4))
    };
    assert_eq!(copy(theirs(granter, 8, 105), own(HEAP, 0), 4), (0, b"the ".to_vec(), [0; 4].to_vec()));
    assert_eq!(copy(own(HEAP, 0), theirs(granter, 8, 0), 4), (0, b"the ".to_vec(), b"the ".to_vec()));
    assert_eq!(copy(theirs(granter, 8, 100), theirs(granter, 8, 0), 4), (0, b"the ".to_vec(), b"from".to_vec()));
    for (source, destination, length, error) in [
        (theirs(granter, 8, 100), theirs(granter, 8, 101), 4, Error::Invalid),
        (own(HEAP, 0), own(HEAP, 8), 4, Error::Invalid),
        (own(HEAP, 4095), theirs(granter, 8, 0), 2, Error::Invalid),
        (own(HEAP, 0), theirs(granter, 8, 0xffff), 1, Error::Invalid),
        (own(HEAP, 0), theirs(granter, 8, 0), 0, Error::Invalid),
        (own(HEAP, 0), theirs(granter, 8, 0), u32::MAX, Error::Invalid),
        (own(HEAP + 1, 0), theirs(granter, 8, 0), 1, Error::BadAddress),
        (own(u64::MAX - 4095, 0), theirs(granter, 8, 0), 1, Error::BadAddress),
        (theirs(granter, 8, 0), own(START_INFO, 0), 1, Error::BadAddress),
        (own(HEAP, 0), theirs(granter, 9, 0), 1, Error::BadGrant),
        (own(HEAP, 0), theirs(granter, u64::MAX, 0), 1, Error::BadGrant),
        (own(HEAP, 0), theirs(mapper, 8, 0), 1, Error::NoPeer),
        (CopySide { reserved: 1, ..own(HEAP, 0) }, theirs(granter, 8, 0), 1, Error::Invalid),
        (theirs(granter, 8, 0), theirs(granter, 9, 0), 1, Error::BadGrant),
    ] {
        let (status, ..) = copy(source, destination, length);
        assert_eq!(status, error as i32, "{source:?} {destination:?} {length}");
    }
}

#[test]
fn a_batch_may_unmap_the_memory_it_lies_in() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let mapped = map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
    world.put(mapper.slot, mapped.address, &[UnmapElement { mapping: mapped.mapping, status: 5 }; 2]);
    assert_eq!(world.call(mapper.slot, H::GrantUnmap, &[mapped.address, 2]), Ok(1));
    world.check();
}

#[test]
fn an_unmapped_page_is_released_only_when_all_cpus_have_flushed() {
    use crate::flush::MAILBOXES;
    use crate::platform::Flush;
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let mapped = map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
    world.put(mapper.slot, BATCH, &UnmapElement { mapping: mapped.mapping, status: 5 });
    // No other test uses this CPU's mailbox.
    world.core.info.cpus = 10;
    world.enter(9, mapper.slot, 1);
    world.enter(0, mapper.slot, 0);
    world.core.hypercall(0, H::GrantUnmap as u64, [BATCH, 1, 0, 0, 0]);
    let Flush { epoch, cpus } = world.core.awaited(0).expect("it waits");
    assert_eq!((cpus, world.core.take_kicks(0)), (1 << 9, 1 << 9));
    assert!(!MAILBOXES.reached(epoch, cpus));
    assert!(world.core.domains[mapper.slot].space.translate(&world.core.machine, mapped.address, false).is_none());
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS | READING | WRITING);
    MAILBOXES.serve(9, || ());
    assert!(MAILBOXES.reached(epoch, cpus));
    world.core.resume(0);
    assert_eq!(world.core.awaited(0), None);
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS);
    world.leave(0);
    world.leave(9);
    world.check();
}

#[test]
fn pages_outlive_their_dying_owner_until_the_last_mapper_lets_go() {
    let (mut world, granter, mapper) = pair();
    let (pool, used) = (world.core.frames.set_aside, world.core.frames.accounts[granter.slot]);
    for reference in 8..10 {
        grant(&world, granter, mapper, reference, HEAP + reference as u64 * PAGE_SIZE, PERMIT_ACCESS);
    }
    world.poke(granter.slot, HEAP + 8 * PAGE_SIZE, b"last words");
    let first = map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
    let second = map(&mut world, mapper, element(granter, 8, 1, READONLY)).unwrap();
    let third = map(&mut world, mapper, element(granter, 9, 2, 0)).unwrap();
    world.destroy(granter);
    world.check();
    assert_eq!(world.core.frames.accounts[granter.slot].used, 2);
    assert_eq!(world.core.frames.set_aside, pool - used.set_aside + 2);
    assert_eq!(world.call(Slot::DOM0, H::DomainInfo, &[granter.handle, HEAP]), Err(Error::BadHandle));
    assert_eq!(world.peek(mapper.slot, first.address, 10), b"last words");
    assert_eq!(map(&mut world, mapper, element(granter, 8, 5, 0)).map(|_| ()), Err(Error::NoPeer));
    // The slot is not given to another meanwhile.
    let other = world.create(&spec(60)).unwrap();
    assert_ne!(other.slot, granter.slot);
    for mapping in [first.mapping, third.mapping] {
        unmap(&mut world, mapper, mapping).unwrap();
    }
    assert_eq!(world.core.frames.accounts[granter.slot].used, 1);
    // The mapper dies without letting go.
    world.destroy(mapper);
    world.check();
    assert!(world.core.domains[granter.slot].state.is_none());
    assert_eq!(second.status, 0);
}

#[test]
fn a_reset_takes_back_what_it_mapped_and_leaves_what_others_map() {
    let (mut world, granter, mapper) = pair();
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    world.poke(granter.slot, HEAP, b"old");
    let old = map(&mut world, mapper, element(granter, 8, 0, 0)).unwrap();
    world.ok(Slot::DOM0, H::DomainReset, &[granter.handle]);
    world.check();
    assert_eq!(world.core.frames.accounts[granter.slot].mapped, 1);
    world.start(granter);
    // The same reference in the next life is another grant; ending the old use does not touch it.
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    let new = map(&mut world, mapper, element(granter, 8, 1, 0)).unwrap();
    assert_eq!(
        (world.peek(mapper.slot, old.address, 3), world.peek(mapper.slot, new.address, 3)),
        (b"old".to_vec(), [0; 3].to_vec())
    );
    unmap(&mut world, mapper, old.mapping).unwrap();
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS | READING | WRITING);
    world.check_grants(granter.slot);
    // Now the mapper starts anew.
    world.ok(Slot::DOM0, H::DomainReset, &[mapper.handle]);
    world.check();
    assert_eq!(entry(&world, granter, 8), PERMIT_ACCESS);
    world.destroy(granter);
    world.destroy(mapper);
    world.check();
}

#[test]
fn a_domain_in_reset_grants_nothing() {
    let mut world = World::new(900, 1);
    let (granter, mapper) = (world.create(&spec(400)).unwrap(), world.child());
    world.start(granter);
    world.befriend(granter, mapper);
    grant(&world, granter, mapper, 8, HEAP, PERMIT_ACCESS);
    world.ok(granter.slot, H::MemoryPopulate, &[0, HEAP + 50 * PAGE_SIZE, 300, 1]);
    assert_eq!(world.call(Slot::DOM0, H::DomainReset, &[granter.handle]), Err(Error::Again));
    assert_eq!(map(&mut world, mapper, element(granter, 8, 0, 0)).map(|_| ()), Err(Error::BadGrant));
    world.ok(Slot::DOM0, H::DomainReset, &[granter.handle]);
    world.check();
    world.check_grants(granter.slot);
    world.destroy(granter);
}

#[test]
fn the_rings_every_domain_has_are_granted_from_the_start() {
    let mut world = World::new(600, 1);
    let child = world.create(&spec(100)).unwrap();
    world.poke(Slot::DOM0, BATCH, &[0]);
    let console = world.child();
    world.ok(Slot::DOM0, H::DomainPeer, &[child.handle, PEER_CONSOLE as u64, console.handle]);
    world.ok(Slot::DOM0, H::DomainPeer, &[console.handle, child.slot.number() as u64, child.handle]);
    for (user, reference, page) in [
        (Slot::DOM0, REF_CONTROL_IN, CONTROL_IN),
        (Slot::DOM0, REF_CONTROL_OUT, CONTROL_OUT),
        (console.slot, REF_CONSOLE, CONSOLE),
    ] {
        world.put(user, BATCH, &element(child, reference, reference as u64, 0));
        assert_eq!(world.call(user, H::GrantMap, &[BATCH, 1]), Ok(1));
        let mapped: MapElement = world.get(user, BATCH);
        world.poke(user, mapped.address, b"ring");
        let frame = world.core.domains[child.slot].space.translate(&world.core.machine, page, true).unwrap();
        let mut seen = [0; 4];
        world.core.machine.read(frame.at(0), &mut seen);
        assert_eq!(&seen, b"ring");
        world.check();
    }
    assert_eq!(SchedParams::default(), world.core.domains[child.slot].info.schedule);
}
