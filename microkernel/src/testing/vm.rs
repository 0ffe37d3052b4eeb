//! Virtual machines as hypercalls: one memory seen from two sides, and a vCPU that is now in its image, now in its guest.

use protocol::domain::{DomainSpec, Reason, SchedParams};
use protocol::error::Error;
use protocol::event::{UPCALL_PENDING, vcpu_record};
use protocol::grant::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;
use protocol::system::Features;
use protocol::vm::{Exit, control, event, word};

use super::world::{Child, World, spec};
use crate::platform::{ENTERED_BY_CALL, ENTERED_BY_GUEST, Memory, Next, Phys};
use crate::space::{Space, frame_of};
use crate::table::Slot;
use crate::vm::{GUEST, Guest, RUN, Run, svm};

/// The specification of a small domain with a virtual machine.
fn machine() -> DomainSpec {
    DomainSpec { guest_grant_frames: 2, ..spec(150) }
}

/// A running one.
fn start(world: &mut World) -> Child {
    let child = world.create(&machine()).unwrap();
    world.start(child);
    child
}

/// The frame that the guest reaches.
fn nested(world: &World, child: Child, address: u64) -> Option<u32> {
    let vm = &world.core.domains[child.slot].vm;
    Space(vm.root).translate(&world.core.machine, address, true).map(|frame| frame.0)
}

fn native(world: &World, child: Child, address: u64) -> Option<u32> {
    let space = world.core.domains[child.slot].space;
    space.translate(&world.core.machine, GUEST_MEMORY + address, true).map(|frame| frame.0)
}

fn guest(world: &World, child: Child) -> Guest {
    world.core.machine.get(world.core.domains[child.slot].vm.contexts[0].at(GUEST))
}

fn state(child: Child, world: &World, word: usize) -> u64 {
    world.get(child.slot, vm_state(0) + 8 * word as u64)
}

fn set(child: Child, world: &World, word: usize, value: u64) {
    world.put(child.slot, vm_state(0) + 8 * word as u64, &value);
}

/// Lets the first vCPU run its guest, and leaves it there.
fn run(world: &mut World, child: Child, deadline: u64) -> u64 {
    world.enter(0, child.slot, 0);
    world.call_on(0, H::VmRun as u64, &[deadline]).unwrap()
}

fn is_in_guest(world: &World, child: Child) -> bool {
    let vcpu = world.core.domains[child.slot].vcpu(0).unwrap();
    let context = world.core.vcpus[vcpu].context;
    match world.core.machine.load(context.at(19 * 8)) {
        ENTERED_BY_GUEST => true,
        entered => {
            assert!(entered <= ENTERED_BY_CALL + 1);
            false
        }
    }
}

/// Puts what the processor would report into the control block.
fn exits(world: &World, child: Child, code: u64, info: [u64; 2]) {
    let vmcb = guest(world, child).vmcb;
    for (offset, value) in [(svm::EXIT_CODE as u64, code), (0x78, info[0]), (0x80, info[1])] {
        world.core.machine.store(Phys(vmcb + offset), value);
    }
}

#[test]
fn both_sides_see_the_same_memory_and_only_the_guest_executes_it() {
    let mut world = World::new(900, 2);
    let child = start(&mut world);
    let places = [0, 0x1000, 0x20_0000, 0x4000_0000, 0x7_ffff_f000];
    for place in places {
        world.ok(child.slot, H::MemoryPopulate, &[0, GUEST_MEMORY + place, 1, 1]);
        let frame = native(&world, child, place);
        assert!(frame.is_some() && frame == nested(&world, child, place));
        world.check();
    }
    let (m, domain) = (&world.core.machine, &world.core.domains[child.slot]);
    for place in places {
        // As Intel's processors want it: readable, writable, executable and nothing else, but for write-back in the page's.
        let above = [domain.vm.root.at(0), domain.vm.window_entry(GUEST_MEMORY + place)].map(|at| m.load(at) & 0xfff);
        let nested = Space(domain.vm.root);
        let [lowest, page] = [nested.table_entry(m, place), nested.entry(m, place).unwrap()].map(|at| m.load(at));
        assert_eq!((above, lowest & 0xfff, page & 0xfff, (lowest | page) >> 52), ([7; 2], 7, 0x77, 0));
        assert_eq!(frame_of(lowest), frame_of(m.load(domain.space.table_entry(m, GUEST_MEMORY + place))));
    }
    // Released, it is gone from both, and no guest keeps what it knew.
    assert_eq!(world.core.machine.get::<Run>(domain.vm.contexts[0].at(RUN)).stale, 0);
    world.ok(child.slot, H::MemoryRelease, &[GUEST_MEMORY + 0x1000, 1]);
    assert_eq!((native(&world, child, 0x1000), nested(&world, child, 0x1000)), (None, None));
    assert_eq!(world.core.machine.get::<Run>(world.core.domains[child.slot].vm.contexts[0].at(RUN)).stale, 1);
    world.check();
    for (address, access, error) in [
        (GUEST_MEMORY, 1, Error::Exists),
        (GUEST_MEMORY + 0x1000, 0, Error::Invalid),
        (GUEST_MEMORY + 0x1000, 2, Error::Invalid),
        (GUEST_MEMORY_END, 1, Error::BadAddress),
        (GUEST_MEMORY_END - 0x1000, 1, Error::Exists),
    ] {
        assert_eq!(world.call(child.slot, H::MemoryPopulate, &[0, address, 1, access]), Err(error));
    }
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    assert_eq!((native(&world, child, 0), nested(&world, child, 0)), (None, None));
    world.check();
    // Its builder fills it.
    world.ok(Slot::DOM0, H::MemoryPopulate, &[child.handle, GUEST_MEMORY, 2, 1]);
    world.ok(Slot::DOM0, H::DomainWrite, &[child.handle, GUEST_MEMORY + 0xffe, HEAP, 4]);
    assert_eq!(nested(&world, child, 0), native(&world, child, 0));
    world.destroy(child);
    world.check();
}

#[test]
fn without_a_virtual_machine_there_is_none_of_this() {
    let mut world = World::new(900, 1);
    let child = world.child();
    assert_eq!(world.call(child.slot, H::MemoryPopulate, &[0, GUEST_MEMORY, 1, 1]), Err(Error::BadAddress));
    assert_eq!(world.call(child.slot, H::VmRun, &[0]), Err(Error::WrongState));
    assert_eq!(world.call(child.slot, H::VmGrantTable, &[0, GUEST_MEMORY]), Err(Error::WrongState));
    assert_eq!(world.call(Slot::DOM0, H::DomainPeer, &[0, 40, child.handle, 1]), Err(Error::Invalid));
    world.core.info.features &= !Features::SVM.bits();
    assert_eq!(world.create(&machine()).map(|_| ()), Err(Error::Unsupported));
    world.check();
}

#[test]
fn what_a_guest_grants_its_frame_numbers_name() {
    let mut world = World::new(900, 2);
    let (granter, mapper) = (start(&mut world), world.child());
    world.befriend(granter, mapper);
    world.ok(granter.slot, H::MemoryPopulate, &[0, GUEST_MEMORY, 16, 1]);
    world.ok(Slot::DOM0, H::DomainPeer, &[mapper.handle, 40, granter.handle, 1]);
    let place = |page| GUEST_MEMORY + page * PAGE_SIZE;
    for (index, address, error) in [
        (2, place(16), Error::Invalid),
        (1 << 32, place(16), Error::Invalid),
        (0, place(1), Error::Exists),
        (0, place(16) + 8, Error::BadAddress),
        (0, HEAP, Error::BadAddress),
    ] {
        assert_eq!(world.call(granter.slot, H::VmGrantTable, &[index, address]), Err(error));
    }
    let used = |world: &World| world.core.frames.accounts[granter.slot].used;
    let before = used(&world);
    world.ok(granter.slot, H::VmGrantTable, &[0, place(20)]);
    assert_eq!(used(&world), before + 2, "a page costs nothing before it is placed");
    world.ok(granter.slot, H::VmGrantTable, &[1, place(21)]);
    world.check();
    assert_eq!(world.call(granter.slot, H::MemoryRelease, &[place(20), 1]), Err(Error::Busy));
    let peer = mapper.slot.number() as u16;
    let grant = |world: &World, reference: u64, frame| {
        let entry = GrantEntry { flags: PERMIT_ACCESS, peer, frame };
        world.put(granter.slot, place(20) + 8 * reference, &entry);
    };
    grant(&world, 513, 5);
    // Frame 20 is the table itself; the others are nothing in the guest, whatever the monitor has there.
    let beyond = ((GUEST_MEMORY_END - GUEST_MEMORY) >> PAGE_SHIFT) as u32;
    for (reference, frame) in [(1, 20), (2, 17), (3, beyond), (4, (HEAP >> PAGE_SHIFT) as u32), (5, u32::MAX)] {
        grant(&world, reference, frame);
    }
    world.poke(granter.slot, place(5), b"guest");
    let map = |world: &mut World, peer: u16, reference: u32| {
        let element = MapElement { peer, reference, address: GRANT_WINDOW, ..MapElement::default() };
        world.put(mapper.slot, HEAP, &element);
        world.ok(mapper.slot, H::GrantMap, &[HEAP, 1]);
        let element: MapElement = world.get(mapper.slot, HEAP);
        world.check();
        (element.status, element.mapping)
    };
    let bad = -(Error::BadGrant as i32);
    (1..6).for_each(|reference| assert_eq!(map(&mut world, 40, reference).0, bad, "{reference}"));
    // The native face knows nothing of it.
    assert_eq!(map(&mut world, granter.slot.number() as u16, 513).0, bad);
    let (status, mapping) = map(&mut world, 40, 513);
    assert_eq!((status, world.peek(mapper.slot, GRANT_WINDOW, 5)), (0, b"guest".to_vec()));
    assert_eq!(world.call(granter.slot, H::MemoryRelease, &[place(5), 1]), Err(Error::Busy));
    // Placed elsewhere, the table is the same.
    world.ok(granter.slot, H::VmGrantTable, &[1, place(30)]);
    let entry: GrantEntry = world.get(granter.slot, place(30) + 8);
    assert_eq!((entry.flags, native(&world, granter, 21 * PAGE_SIZE)), (PERMIT_ACCESS | READING | WRITING, None));
    world.put(mapper.slot, HEAP, &UnmapElement { mapping, status: 1 });
    world.ok(mapper.slot, H::GrantUnmap, &[HEAP, 1]);
    let entry: GrantEntry = world.get(granter.slot, place(30) + 8);
    assert_eq!(entry.flags, PERMIT_ACCESS);
    world.check();
    world.ok(Slot::DOM0, H::DomainReset, &[granter.handle]);
    world.check();
    assert_eq!(world.core.machine.load(world.core.domains[granter.slot].vm.grants[1].at(8)), 0);
    world.start(granter);
    world.ok(granter.slot, H::VmGrantTable, &[0, place(20)]);
    world.destroy(granter);
    world.check();
}

#[test]
fn a_run_of_the_guest_ends_with_a_reason() {
    let mut world = World::new(900, 2);
    let child = start(&mut world);
    set(child, &world, word::RIP, 0x1000);
    set(child, &world, word::GENERAL + 3, 33);
    set(child, &world, word::CONTROL, control::LOAD);
    assert_eq!(run(&mut world, child, u64::MAX), 0);
    assert!(is_in_guest(&world, child));
    exits(&world, child, 0x78, [0, 0]);
    world.core.guest_exit(0);
    assert!(!is_in_guest(&world, child));
    let context = world.core.cpus[0_usize].current.context;
    assert_eq!(world.core.machine.load(context.at(0)), Exit::Halt as u64);
    let words = [word::EXIT, word::RIP, word::GENERAL + 3, word::CONTROL].map(|word| state(child, &world, word));
    assert_eq!(words, [Exit::Halt as u64, 0x1000, 33, 0]);
    world.leave(0);

    // A deadline that has passed, with an event that was not injected.
    set(child, &world, word::INJECT, event::interrupt(9));
    assert_eq!(run(&mut world, child, 0), Exit::Deadline as u64);
    assert!(!is_in_guest(&world, child));
    let words = [word::EXIT, word::INJECT, word::PENDING].map(|word| state(child, &world, word));
    assert_eq!(words, [Exit::Deadline as u64, 0, event::interrupt(9)]);
    world.leave(0);

    // An event while it is on no CPU, and one that is pending already.
    assert_eq!(run(&mut world, child, u64::MAX), 0);
    assert!(world.core.check_guest(0).is_none());
    world.leave(0);
    world.ok(Slot::DOM0, H::EventSend, &[child.port]);
    assert!(!is_in_guest(&world, child) && state(child, &world, word::EXIT) == Exit::Event as u64);
    assert_eq!(run(&mut world, child, u64::MAX), Exit::Event as u64);
    assert!(!is_in_guest(&world, child));
    world.leave(0);
    world.check();
}

#[test]
fn an_event_for_a_guest_on_another_cpu_brings_that_into_the_core() {
    let mut world = World::new(900, 2);
    let child = start(&mut world);
    world.core.schedule(0);
    let Next::Run { .. } = world.core.schedule(1) else { panic!("the child runs on CPU 1") };
    assert_eq!(world.call_on(1, H::VmRun as u64, &[u64::MAX]), Ok(0));
    assert!(is_in_guest(&world, child));
    world.core.take_kicks(0);
    assert_eq!(world.call_on(0, H::EventSend as u64, &[child.port]), Ok(0));
    assert!(is_in_guest(&world, child), "its registers are on the CPU");
    assert_eq!(world.core.take_kicks(0), 1 << 1);
    assert_eq!(world.core.check_guest(1), Some(Exit::Event));
    assert!(!is_in_guest(&world, child));
    let pending = EVENTS + (vcpu_record(0) + UPCALL_PENDING) as u64;
    assert_eq!(world.get::<u64>(child.slot, pending), 1);
}

#[test]
fn a_domain_in_its_guest_can_be_ended_reset_and_destroyed() {
    let mut world = World::new(900, 1);
    let used = world.core.frames.used;
    for end in 0..3 {
        let child = start(&mut world);
        world.ok(child.slot, H::MemoryPopulate, &[0, GUEST_MEMORY, 3, 1]);
        world.ok(child.slot, H::VmGrantTable, &[1, GUEST_MEMORY + 0x9000]);
        set(child, &world, word::CR3, 0x5000);
        assert_eq!(run(&mut world, child, u64::MAX), 0);
        world.leave(0);
        if end == 1 {
            world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
            world.check();
            world.start(child);
            assert!(!is_in_guest(&world, child));
            assert_eq!([word::CR3, word::EXIT].map(|word| state(child, &world, word)), [0, 0]);
            assert_eq!(run(&mut world, child, u64::MAX), 0);
            world.leave(0);
        }
        if end == 2 {
            // By another vCPU of its own; what the guest's processor still reports changes nothing.
            world.ok(child.slot, H::VcpuStart, &[1, IMAGE_BASE, 0]);
            world.enter(0, child.slot, 1);
            _ = world.call_on(0, H::DomainExit as u64, &[Reason::Shutdown as u64, 0, HEAP, 0]);
            world.enter(0, child.slot, 0);
            exits(&world, child, 0x78, [0, 0]);
            world.core.guest_exit(0);
            world.leave(0);
        }
        world.destroy(child);
        world.check();
        assert_eq!(world.core.frames.used, used);
    }
}

#[test]
fn with_vmx_a_guest_has_a_vmcs_and_other_numbers_for_its_exits() {
    let mut world = World::new(900, 1);
    let used = world.core.frames.used;
    world.core.info.features ^= (Features::SVM | Features::VMX).bits();
    let child = start(&mut world);
    world.check();
    assert!(guest(&world, child).vmcs != 0);
    for (reason, exit) in [(12, Exit::Halt), (0x78, Exit::Other)] {
        set(child, &world, word::RIP, 0x1000);
        assert_eq!(run(&mut world, child, u64::MAX), 0);
        exits(&world, child, reason, [0, 0]);
        world.core.guest_exit(0);
        assert_eq!([word::EXIT, word::RIP].map(|word| state(child, &world, word)), [exit as u64, 0x1000]);
        world.leave(0);
    }
    world.destroy(child);
    world.check();
    assert_eq!(world.core.frames.used, used);
}

#[test]
fn guest_memory_for_whose_tables_there_is_no_room_is_refused() {
    let mut world = World::new(900, 1);
    let child = start(&mut world);
    let left = |world: &World| world.core.frames.available(child.slot);
    // A page with a lowest table, and one above that for the domain and for the guest.
    let spare = left(&world) - 3;
    world.ok(child.slot, H::MemoryPopulate, &[0, HEAP + 0x10_0000, spare, 1]);
    let page = [0, GUEST_MEMORY + 0x4000_0000, 1, 1];
    assert_eq!(world.call(child.slot, H::MemoryPopulate, &page), Err(Error::NoMemory));
    assert_eq!(left(&world), 3);
    world.check();
    world.ok(child.slot, H::MemoryRelease, &[HEAP + 0x10_0000, 1]);
    world.ok(child.slot, H::MemoryPopulate, &page);
    assert_eq!((left(&world), nested(&world, child, 0x4000_0000).is_some()), (0, true));
    world.check();
}

#[test]
fn where_virtual_machines_spare_cpu_0_they_cannot_be_brought_there() {
    let mut world = World::new(900, 3);
    world.core.info.features |= Features::VM_SPARES_CPU_0.bits();
    let native = world.create(&spec(40)).unwrap();
    let child = start(&mut world);
    let pinned = |affinity| SchedParams { affinity, ..SchedParams::default() };
    let placed = |world: &World, child: Child| world.core.domains[child.slot].info.schedule.affinity;
    assert_eq!((placed(&world, native), placed(&world, child)), (0, 0b110));
    for (affinity, answer, then) in [(0b11, Ok(0), 0b10), (0b1, Err(Error::Invalid), 0b10), (0, Ok(0), 0b110)] {
        world.put(Slot::DOM0, HEAP, &pinned(affinity));
        assert_eq!(world.call(Slot::DOM0, H::DomainSchedule, &[child.handle, HEAP]), answer);
        assert_eq!(placed(&world, child), then);
    }
    let spec = DomainSpec { schedule: pinned(1), ..machine() };
    assert_eq!(world.create(&spec).map(|_| ()), Err(Error::Invalid));
    // The only CPU there is has nobody who would disturb it.
    let mut world = World::new(900, 1);
    world.core.info.features |= Features::VM_SPARES_CPU_0.bits();
    let child = start(&mut world);
    assert_eq!(placed(&world, child), 0);
}
