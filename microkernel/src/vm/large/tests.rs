//! Large pages as hypercalls: made whole, taken apart, granted from, and refused where something is missing.

use std::vec::Vec;

use protocol::domain::DomainSpec;
use protocol::grant::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;

use super::*;
use crate::platform::Memory;
use crate::space::Space;
use crate::testing::world::{Child, World, spec};

const PAGES: u64 = BLOCK as u64;
/// Frames of a domain beside the memory that a test is about: its own tables and image, and tables of two windows.
const BESIDE: u64 = 70;

/// The specification of a domain with a virtual machine.
fn machine(pages: u64, large_pages: u32) -> DomainSpec {
    DomainSpec { guest_grant_frames: 1, large_pages, ..spec(pages) }
}

fn start(world: &mut World, pages: u64, large_pages: u32) -> Child {
    let child = world.create(&machine(pages, large_pages)).unwrap();
    world.start(child);
    child
}

fn populate(world: &mut World, child: Child, address: u64, pages: u64) -> protocol::error::Result {
    let done = world.call(child.slot, H::MemoryPopulate, &[0, address, pages, 1]);
    world.check();
    done
}

fn release(world: &mut World, child: Child, address: u64, pages: u64) -> protocol::error::Result {
    let done = world.call(child.slot, H::MemoryRelease, &[address, pages]);
    world.check();
    done
}

/// Says whether memory is as it was, but for the registers of whoever runs, before and after the call that is made.
fn unchanged(world: &mut World, child: Child, call: impl FnOnce(&mut World)) {
    let contexts = [Slot::DOM0, child.slot].map(|slot| world.core.domains[slot].vcpus());
    let contexts: Vec<u32> = contexts.into_iter().flatten().map(|id| world.core.vcpus[id].context.0).collect();
    world.core.machine.blind.borrow_mut().extend(contexts);
    let before = world.core.machine.digest();
    call(world);
    assert_eq!(world.core.machine.digest(), before);
    world.core.machine.blind.borrow_mut().clear();
}

fn available(world: &World, child: Child) -> u64 {
    world.core.frames.available(child.slot)
}

/// Whether the page that holds an address is large.
fn is_large(world: &World, child: Child, address: u64) -> bool {
    let (space, m) = (world.core.domains[child.slot].space, &world.core.machine);
    m.load(space.table_entry(m, address)) & LARGE != 0
}

/// The frame that the guest reaches at a place of its memory.
fn nested(world: &World, child: Child, place: u64) -> Option<Frame> {
    Space(world.core.domains[child.slot].vm.root).translate(&world.core.machine, place, true)
}

#[test]
fn a_whole_page_takes_no_table_and_both_sides_have_it() {
    let mut world = World::new(4096, 2);
    let child = start(&mut world, 2 * PAGES + BESIDE, 2);
    // The first one of a window takes the tables above; one in a row after it, nothing.
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    let before = available(&world, child);
    populate(&mut world, child, GUEST_MEMORY + SIZE, PAGES).unwrap();
    assert_eq!(available(&world, child), before - PAGES);
    for (place, page) in [(0, 0), (SIZE + 5 * PAGE_SIZE, 5), (2 * SIZE - PAGE_SIZE, PAGES - 1)] {
        assert!(is_large(&world, child, GUEST_MEMORY + place));
        let first = nested(&world, child, place / SIZE * SIZE).unwrap();
        assert!(first.0.is_multiple_of(BLOCK));
        assert_eq!(nested(&world, child, place), Some(Frame(first.0 + page as u32)));
    }
    // What is written by address, across the border of the two, lies where it should.
    world.poke(child.slot, GUEST_MEMORY + SIZE - 3, b"border");
    let m = &world.core.machine;
    let last = nested(&world, child, SIZE - 1).unwrap();
    assert_eq!(m.load(last.at(4088)) >> 40, u64::from_le_bytes(*b"bor\0\0\0\0\0"));
    // As Intel's processors want it: write-back, executable, large.
    let space = Space(world.core.domains[child.slot].vm.root);
    assert_eq!(m.load(space.table_entry(m, 0)) & 0xfff, 0xf7);
    assert_eq!(populate(&mut world, child, GUEST_MEMORY + SIZE, PAGES), Err(Error::Exists));
    assert_eq!(populate(&mut world, child, GUEST_MEMORY + SIZE + PAGE_SIZE, 1), Err(Error::Exists));
    assert_eq!(world.core.frames.accounts[child.slot].blocks, (2, 0));
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    world.check();
    // Its blocks are kept for it, whoever else takes frames.
    assert_eq!(world.core.frames.accounts[child.slot].blocks, (2, 2));
    assert_eq!(nested(&world, child, 0), None);
    world.destroy(child);
    world.check();
}

#[test]
fn what_is_not_whole_is_in_small_pages() {
    let mut world = World::new(4096, 1);
    let child = start(&mut world, 4 * PAGES + BESIDE, 2);
    for (address, pages) in [
        (GUEST_MEMORY, PAGES - 1),
        (GUEST_MEMORY + SIZE + PAGE_SIZE, PAGES - 1),
        (GUEST_MEMORY + 3 * SIZE + PAGE_SIZE, PAGES),
    ] {
        populate(&mut world, child, address, pages).unwrap();
        assert!(!is_large(&world, child, address));
    }
    // A table that is there stays in use.
    release(&mut world, child, GUEST_MEMORY, PAGES - 1).unwrap();
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    assert!(!is_large(&world, child, GUEST_MEMORY));
    world.destroy(child);
    world.check();
    // Neither do others get large pages, nor anybody where the machine does not have them.
    let native = world.create(&spec(2 * PAGES + BESIDE)).unwrap();
    world.start(native);
    populate(&mut world, native, HEAP + SIZE, PAGES).unwrap();
    assert!(!is_large(&world, native, HEAP + SIZE));
    world.core.info.features &= !Features::VM_LARGE_PAGES.bits();
    assert_eq!(world.create(&machine(2 * PAGES, 1)).map(|_| ()), Err(Error::NoMemory));
    let child = start(&mut world, PAGES + BESIDE, 0);
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    assert!(!is_large(&world, child, GUEST_MEMORY));
}

#[test]
fn a_page_out_of_a_large_one_takes_a_table_or_fails_before_anything_is_done() {
    let mut world = World::new(4096, 2);
    let child = start(&mut world, 2 * PAGES + BESIDE, 2);
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    populate(&mut world, child, GUEST_MEMORY + SIZE, PAGES).unwrap();
    world.poke(child.slot, GUEST_MEMORY + 8 * PAGE_SIZE, b"eight");
    let frames = [0, 8, 511].map(|page| nested(&world, child, page * PAGE_SIZE));
    let rest = available(&world, child);
    populate(&mut world, child, HEAP + SIZE, rest - 1).unwrap();
    for _ in 0..available(&world, child) {
        world.ok(child.slot, H::MemoryPopulate, &[0, HEAP + SIZE + (rest - 1) * PAGE_SIZE, 1, 1]);
    }
    assert_eq!(available(&world, child), 0);
    let seven = GUEST_MEMORY + 7 * PAGE_SIZE;
    unchanged(&mut world, child, |world| {
        assert_eq!(release(world, child, seven, 1), Err(Error::NoMemory));
        // Across the border it takes two.
        assert_eq!(release(world, child, GUEST_MEMORY + SIZE - PAGE_SIZE, 2), Err(Error::NoMemory));
    });
    assert!(is_large(&world, child, GUEST_MEMORY));
    release(&mut world, child, HEAP + SIZE, 1).unwrap();
    assert_eq!(release(&mut world, child, GUEST_MEMORY + SIZE - PAGE_SIZE, 2), Err(Error::NoMemory));
    release(&mut world, child, seven, 1).unwrap();
    assert_eq!((available(&world, child), is_large(&world, child, GUEST_MEMORY)), (1, false));
    // No guest keeps what it knew, and the rest is where it was.
    let vm = &world.core.domains[child.slot].vm;
    assert_eq!(world.core.machine.get::<crate::vm::Run>(vm.contexts[0].at(crate::vm::RUN)).stale, 1);
    assert_eq!(nested(&world, child, 7 * PAGE_SIZE), None);
    assert_eq!([0, 8, 511].map(|page| nested(&world, child, page * PAGE_SIZE)), frames);
    assert_eq!(world.peek(child.slot, GUEST_MEMORY + 8 * PAGE_SIZE, 5), b"eight");
    // Out and in again it costs nothing more.
    for _ in 0..3 {
        populate(&mut world, child, seven, 1).unwrap();
        assert_eq!(available(&world, child), 0);
        release(&mut world, child, seven, 1).unwrap();
    }
    world.destroy(child);
    world.check();
}

#[test]
fn memory_of_the_monitor_comes_and_goes_in_large_pages_too() {
    let mut world = World::new(4096, 1);
    let child = start(&mut world, 2 * PAGES + BESIDE, 2);
    let before = available(&world, child);
    populate(&mut world, child, HEAP + SIZE, PAGES).unwrap();
    assert!(is_large(&world, child, HEAP + SIZE));
    assert_eq!(world.core.frames.accounts[child.slot].blocks, (2, 1));
    let taken = before - available(&world, child);
    // Released whole it leaves no table, and the block is kept for the guest again.
    release(&mut world, child, HEAP + SIZE, PAGES).unwrap();
    assert_eq!(available(&world, child), before - (taken - PAGES));
    assert_eq!(world.core.frames.accounts[child.slot].blocks, (2, 2));
    populate(&mut world, child, HEAP + SIZE, PAGES).unwrap();
    release(&mut world, child, HEAP + SIZE + 100 * PAGE_SIZE, PAGES - 100).unwrap();
    assert!(!is_large(&world, child, HEAP + SIZE));
    // The guest's own leaves a table, because the guest's tables have an entry for it as well.
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    release(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    assert_eq!((is_large(&world, child, GUEST_MEMORY), nested(&world, child, 0)), (false, None));
    world.destroy(child);
    world.check();
}

#[test]
fn a_page_of_a_large_one_can_be_granted_and_stays_until_it_is_let_go() {
    let mut world = World::new(4096, 2);
    let child = start(&mut world, PAGES + BESIDE, 1);
    let mapper = world.child();
    populate(&mut world, child, GUEST_MEMORY, PAGES).unwrap();
    world.befriend(child, mapper);
    world.ok(Slot::DOM0, H::DomainPeer, &[mapper.handle, 40, child.handle, 1]);
    let table = GUEST_MEMORY + SIZE + PAGE_SIZE;
    world.ok(child.slot, H::VmGrantTable, &[0, table]);
    let peer = mapper.slot.number() as u16;
    for page in 0..3 {
        world.put(child.slot, table + 8 * page, &GrantEntry { flags: PERMIT_ACCESS, peer, frame: 200 + page as u32 });
    }
    world.poke(child.slot, GUEST_MEMORY + 201 * PAGE_SIZE, b"middle");
    let element = MapElement { peer: 40, reference: 1, address: GRANT_WINDOW, ..MapElement::default() };
    world.put(mapper.slot, HEAP, &element);
    assert_eq!(world.ok(mapper.slot, H::GrantMap, &[HEAP, 1]), 1);
    world.check();
    assert_eq!(world.peek(mapper.slot, GRANT_WINDOW, 6), b"middle");
    // It is not released; what lies beside it is, and it is the same page then.
    let place = |page| GUEST_MEMORY + page * PAGE_SIZE;
    unchanged(&mut world, child, |world| assert_eq!(release(world, child, place(200), 3), Err(Error::Busy)));
    assert!(is_large(&world, child, GUEST_MEMORY));
    release(&mut world, child, place(200), 1).unwrap();
    world.poke(child.slot, place(201), b"MIDDLE");
    assert_eq!(world.peek(mapper.slot, GRANT_WINDOW, 6), b"MIDDLE");
    // The block of a domain that ends is whole once the last page is back.
    let used = world.core.frames.used;
    world.ok(Slot::DOM0, H::DomainDestroy, &[child.handle]);
    world.check();
    assert_eq!(world.core.frames.accounts[child.slot].used, 1);
    let element: MapElement = world.get(mapper.slot, HEAP);
    world.put(mapper.slot, HEAP, &UnmapElement { mapping: element.mapping, status: 1 });
    world.ok(mapper.slot, H::GrantUnmap, &[HEAP, 1]);
    world.check();
    assert!(world.core.frames.accounts[child.slot].used == 0 && world.core.frames.used < used);
}

#[test]
fn wherever_memory_ends_populating_changes_nothing() {
    let mut world = World::new(4096, 1);
    let mut results = Vec::new();
    for short in 0..8 {
        let child = start(&mut world, PAGES + BESIDE, 1);
        let spare = available(&world, child) - PAGES;
        populate(&mut world, child, HEAP + SIZE, spare - short).unwrap();
        let left = available(&world, child);
        let done = populate(&mut world, child, GUEST_MEMORY + (5 << 30), PAGES);
        if done.is_err() {
            assert_eq!((done, available(&world, child)), (Err(Error::NoMemory), left));
            assert_eq!(nested(&world, child, 5 << 30), None);
        }
        results.push((left, done.is_ok(), is_large(&world, child, GUEST_MEMORY + (5 << 30))));
        world.destroy(child);
        world.check();
    }
    // A table above for the domain and one for the guest, and the page itself.
    for (left, done, large) in results {
        assert_eq!((done, large), (left >= PAGES + 2, left >= PAGES + 2), "{left} frames");
    }
}

#[test]
fn blocks_that_are_kept_for_one_are_nobody_elses() {
    let mut world = World::new(4096, 1);
    // Some seven blocks, of which one is in pieces.
    let child = start(&mut world, 4 * PAGES + BESIDE, 4);
    let other = machine(2 * PAGES + BESIDE, 4);
    assert_eq!(world.create(&other).map(|_| ()), Err(Error::NoMemory), "more than is set aside");
    let other = start(&mut world, 3 * PAGES, 0);
    let mut large = 0;
    for page in 0..2 {
        populate(&mut world, other, GUEST_MEMORY + page * SIZE, PAGES).unwrap();
        large += u64::from(is_large(&world, other, GUEST_MEMORY + page * SIZE));
    }
    for page in 0..4 {
        populate(&mut world, child, GUEST_MEMORY + page * SIZE, PAGES).unwrap();
        assert!(is_large(&world, child, GUEST_MEMORY + page * SIZE), "{page}, {large}");
    }
    world.destroy(other);
    world.destroy(child);
    world.check();
}
