//! Boot, creation, start, death, reset and destruction, and that nothing is left of what is gone.

use std::vec::Vec;

use proptest::prelude::*;
use protocol::arguments::first_arguments;
use protocol::domain::{DeathReport, DomainInfo, DomainSpec, Reason, State};
use protocol::error::Error;
use protocol::event::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;
use protocol::start::{MAGIC, StartInfo};
use protocol::system::SystemInfo;

use super::world::{Child, World, elf, spec, tar};
use crate::events::SOURCES;
use crate::platform::{Memory, Next, Registers, reg};
use crate::table::Slot;

const AT: u64 = HEAP + 2 * PAGE_SIZE;

fn info(world: &mut World, child: Child) -> DomainInfo {
    world.ok(Slot::DOM0, H::DomainInfo, &[child.handle, AT]);
    world.get(Slot::DOM0, AT)
}

fn system(world: &mut World) -> SystemInfo {
    world.ok(Slot::DOM0, H::SystemInfo, &[1, AT]);
    SystemInfo { uptime_ns: 0, idle_ns: [0; 64], ..world.get(Slot::DOM0, AT) }
}

fn registers(world: &World, next: Next) -> Registers {
    let Next::Run { context, .. } = next else { panic!("nobody runs") };
    world.core.machine.get(context.at(0))
}

#[test]
fn the_first_domain_finds_what_it_was_promised() {
    let mut world = World::new(1000, 1);
    world.check();
    let next = world.core.schedule(0);
    let registers = registers(&world, next);
    assert_eq!((registers.rip, registers.general[reg::RSP]), (IMAGE_BASE + 0x10, vcpu_stack_top(0)));
    let Next::Run { root, .. } = next else { unreachable!() };
    assert_eq!(world.core.machine.load(root.at(511 * 8)), 0xabc_d003);
    assert_eq!(world.peek(Slot::DOM0, IMAGE_BASE, 5), b"text\0");
    assert_eq!(world.peek(Slot::DOM0, IMAGE_BASE + 2 * PAGE_SIZE, 5), b"data\0");
    assert_eq!(world.peek(Slot::DOM0, IMAGE_BASE + 4 * PAGE_SIZE, 4096), [0; 4096]);
    assert_eq!(&world.peek(Slot::DOM0, BUNDLE, 5), b"dom0\0");
    let info: StartInfo = world.get(Slot::DOM0, START_INFO);
    assert_eq!((info.magic, info.spec.vcpus, info.spec.memory_pages), (MAGIC, 1, 256));
    assert!(info.bundle_bytes > 4096);
    let arguments = first_arguments(&world.peek(Slot::DOM0, ARGUMENTS, 4096)).unwrap();
    assert_eq!(arguments.command_line, "dom0_mem=1 console=x");
    assert_eq!(world.call(Slot::DOM0, H::MemoryPopulate, &[0, HEAP, 1, 1]), Err(Error::Exists));
}

#[test]
fn a_bundle_without_a_fit_first_domain_is_refused_with_the_reason() {
    let text: &[u8] = b"text";
    let good = elf(&[(IMAGE_BASE, 5, text, 4)]);
    for (bundle, reason) in [
        (Vec::new(), "no entry"),
        (tar("dom1", &good), "no entry"),
        (tar("dom0", b"#!/bin/sh"), "ELF"),
        (tar("dom0", &good[..100]), "ELF"),
        (tar("dom0", &good)[..600].to_vec(), "no entry"),
        (tar("dom0", &elf(&[(IMAGE_BASE, 7, text, 4)])), "ELF"),
        (tar("dom0", &elf(&[(IMAGE_BASE, 6, text, 3)])), "ELF"),
        (tar("dom0", &elf(&[(IMAGE_BASE, 6, text, 1 << 40)])), "not enough memory"),
        (tar("dom0", &elf(&[(IMAGE_BASE + 1, 6, text, 4)])), "not enough memory"),
        (tar("dom0", &elf(&[(START_INFO, 6, text, 4)])), "not enough memory"),
        (tar("dom0", &elf(&[(u64::MAX - 4095, 6, text, 4096)])), "not enough memory"),
    ] {
        let error = World::boot(500, 1, 0, &bundle).map(|_| ()).unwrap_err();
        assert!(error.contains(reason), "{error}, not {reason}");
    }
}

#[test]
fn a_new_domain_is_built_started_and_gone_without_a_trace() {
    let mut world = World::new(1000, 2);
    let before = system(&mut world);
    let child = world.create(&spec(100)).unwrap();
    world.check();
    assert_eq!(info(&mut world, child).state, State::Building as u32);
    world.poke(Slot::DOM0, HEAP, b"program");
    world.ok(Slot::DOM0, H::MemoryPopulate, &[child.handle, IMAGE_BASE, 2, 2]);
    world.ok(Slot::DOM0, H::DomainWrite, &[child.handle, IMAGE_BASE + PAGE_SIZE - 3, HEAP, 7]);
    assert_eq!(world.peek(child.slot, IMAGE_BASE + PAGE_SIZE - 3, 7), b"program");
    world.start(child);
    assert_eq!(world.call(Slot::DOM0, H::DomainWrite, &[child.handle, IMAGE_BASE, HEAP, 7]), Err(Error::WrongState));
    assert_eq!(world.call(Slot::DOM0, H::DomainStart, &[child.handle, IMAGE_BASE, 0]), Err(Error::WrongState));
    let about: StartInfo = world.get(child.slot, START_INFO);
    assert_eq!((about.magic, about.resets, about.spec.vcpus, about.bundle_bytes), (MAGIC, 0, 2, 0));
    let now = info(&mut world, child);
    assert_eq!((now.state, now.vcpus_started, now.ports, now.handles), (State::Running as u32, 1, 1, 1));
    world.destroy(child);
    world.check();
    assert_eq!(system(&mut world), before);
    assert_eq!(world.call(Slot::DOM0, H::DomainInfo, &[child.handle, AT]), Err(Error::BadHandle));
}

#[test]
fn creation_fails_whole_wherever_memory_ends() {
    let mut world = World::new(1000, 1);
    let wanted = DomainSpec { vcpus: 3, grant_frames: 2, max_mappings: 200, retained_pages: 3, ..spec(0) };
    let before = system(&mut world);
    let mut needed = 0;
    for pages in 0.. {
        match world.create(&DomainSpec { memory_pages: pages, max_pages: pages, ..wanted }) {
            Ok(child) => {
                needed = pages;
                world.check();
                world.destroy(child);
                break;
            }
            Err(error) => assert_eq!(error, Error::NoMemory),
        }
        world.check();
        assert_eq!(system(&mut world), before, "{pages} pages");
    }
    assert!((20..60).contains(&needed), "{needed}");
    let pool = before.pool_frames;
    for pages in [pool + 1, 1 << 32, u64::MAX] {
        let refused = world.create(&DomainSpec { memory_pages: pages, max_pages: pages, ..wanted });
        assert_eq!(refused.map(|_| ()), Err(Error::NoMemory));
    }
    let child = world.create(&DomainSpec { memory_pages: pool, max_pages: pool, ..wanted }).unwrap();
    assert_eq!(system(&mut world).pool_frames, 0);
    world.destroy(child);
    assert_eq!(system(&mut world), before);
}

#[test]
fn every_table_of_the_maker_can_be_full() {
    let mut world = World::with_fill(6000, 1, 0);
    let mut children = Vec::new();
    let small = DomainSpec { vcpus: 1, max_mappings: 0, retained_pages: 0, ..spec(40) };
    let refused = loop {
        match world.create(&small) {
            Ok(child) => children.push(child),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, children.len()), (Error::TableFull, 120));
    world.check();
    world.destroy(children.pop().unwrap());
    let mut copies = Vec::new();
    while let Ok(handle) = world.call(Slot::DOM0, H::HandleCopy, &[0, 0, 31]) {
        copies.push(handle);
    }
    let before = system(&mut world);
    assert_eq!(world.create(&small).map(|_| ()), Err(Error::TableFull));
    assert_eq!(system(&mut world), before);
    world.check();
    world.ok(Slot::DOM0, H::HandleClose, &[copies[0]]);
    let child = world.create(&small).unwrap();
    world.destroy(child);
    let mut ports = 0;
    while world.call(Slot::DOM0, H::EventConnect, &[0, children[ports % 119].handle]).is_ok() {
        ports += 1;
    }
    let before = system(&mut world);
    assert_eq!(world.create(&small).map(|_| ()), Err(Error::TableFull));
    assert_eq!(system(&mut world), before);
    // vCPUs are shared by all.
    let many = DomainSpec { vcpus: 32, ..spec(100) };
    world.ok(Slot::DOM0, H::EventClose, &[0, children[0].port]);
    for child in &children[..40] {
        world.ok(Slot::DOM0, H::DomainDestroy, &[child.handle]);
    }
    let made = (0..20).map_while(|_| world.create(&many).ok()).count();
    assert_eq!(made, 1, "a port for one more");
    world.check();
}

#[test]
fn a_fault_kills_its_domain_and_is_reported() {
    let mut world = World::new(600, 1);
    let (victim, other) = (world.child(), world.child());
    // Two frames: (next frame, return address) each.
    world.put(victim.slot, HEAP + 64, &[HEAP + 128, 0x40_1111_u64]);
    world.put(victim.slot, HEAP + 128, &[0, 0x40_2222_u64]);
    let context = world.core.vcpus[world.core.domains[victim.slot].vcpu(0).unwrap()].context;
    let mut registers = Registers { rip: 0x40_0bad, ..Registers::default() };
    registers.general[reg::RBP] = HEAP + 64;
    world.core.machine.put(context.at(0), &registers);
    world.enter(0, victim.slot, 0);
    world.core.fault(0, 14, 6, 0xdead);
    world.leave(0);
    world.check();
    let now = info(&mut world, victim);
    assert_eq!((now.state, now.reason), (State::Dead as u32, Reason::Fault as u32));
    world.ok(Slot::DOM0, H::DomainDeath, &[victim.handle, AT]);
    let report: DeathReport = world.get(Slot::DOM0, AT);
    assert_eq!((report.vector, report.error, report.address, report.rip), (14, 6, 0xdead, 0x40_0bad));
    assert_eq!(report.backtrace[..3], [0x40_1111, 0x40_2222, 0]);
    let line = world.core.machine.lines.borrow().last().unwrap().clone();
    assert!(line.contains("exception 14") && line.contains("child") && line.contains("0x400bad"), "{line}");
    assert_eq!(info(&mut world, other).state, State::Running as u32);
    let pending: u64 = world.get(Slot::DOM0, EVENTS + PENDING as u64);
    assert_eq!(pending & 1 << DOMAIN_EVENT_PORT.0, 1 << DOMAIN_EVENT_PORT.0);
}

#[test]
fn frame_pointers_that_lead_nowhere_end_the_backtrace() {
    for start in [0, 8, HEAP - 8, HEAP + 16 * PAGE_SIZE - 8, USER_END - 8, u64::MAX - 7, HEAP + 3] {
        let mut world = World::new(600, 1);
        let victim = world.child();
        world.poke(victim.slot, HEAP + 3, &(HEAP + 3).to_ne_bytes());
        let context = world.core.vcpus[world.core.domains[victim.slot].vcpu(0).unwrap()].context;
        world.core.machine.store(context.at(reg::RBP * 8), start);
        world.enter(0, victim.slot, 0);
        world.core.fault(0, 6, 0, 0);
        world.check();
    }
}

#[test]
fn an_end_by_itself_carries_reason_code_and_message() {
    let mut world = World::new(600, 1);
    let child = world.child();
    world.poke(child.slot, HEAP, b"bye\n\x1b[2J");
    for (reason, length, error) in [
        (0, 3, Error::Invalid),
        (4, 3, Error::Invalid),
        (5, 3, Error::Invalid),
        (1 << 32 | 1, 3, Error::Invalid),
        (1, 257, Error::TooBig),
    ] {
        assert_eq!(world.call(child.slot, H::DomainExit, &[reason, 7, HEAP, length]), Err(error));
    }
    world.enter(0, child.slot, 0);
    _ = world.call_on(0, H::DomainExit as u64, &[2, 7, HEAP, 8]);
    world.leave(0);
    world.ok(Slot::DOM0, H::DomainDeath, &[child.handle, AT]);
    let report: DeathReport = world.get(Slot::DOM0, AT);
    assert_eq!((report.reason, report.code, report.message_length), (Reason::Reboot as u32, 7, 8));
    assert!(world.core.machine.lines.borrow().last().unwrap().ends_with("bye..[2J"));
    // What was under way when it died is not carried out.
    world.enter(0, child.slot, 0);
    let ports = world.core.domains[child.slot].info.ports;
    _ = world.call_on(0, H::EventConnect as u64, &[0, 0]);
    assert_eq!(world.core.domains[child.slot].info.ports, ports);
}

#[test]
fn retained_memory_and_channels_survive_a_reset_and_nothing_else_does() {
    let mut world = World::new(800, 1);
    let (child, friend) = (world.child(), world.child());
    world.befriend(child, friend);
    let ports = world.ok(Slot::DOM0, H::EventConnect, &[child.handle, friend.handle]);
    let (here, there) = (ports >> 32, ports & 0xffff_ffff);
    let device = world.ok(Slot::DOM0, H::IoPortsCreate, &[1, 0x3f8, 8]);
    let line = world.ok(Slot::DOM0, H::InterruptCreate, &[1, 4]);
    let device = world.ok(Slot::DOM0, H::HandleCopy, &[child.handle, device, 31]);
    let line = world.ok(Slot::DOM0, H::HandleCopy, &[child.handle, line, 31]);
    assert_eq!(world.ok(child.slot, H::IoPortsEnable, &[device]), 0x8_03f8);
    world.ok(child.slot, H::InterruptBind, &[line]);
    assert!(world.core.machine.serial_released.get() && world.core.machine.masked.get() & 16 == 0);
    world.ok(child.slot, H::EventBindVcpu, &[here, 1]);
    for (address, text) in
        [(RETAINED, b"kept"), (HEAP, b"gone"), (CONSOLE, b"gone"), (CONTROL_OUT, b"gone"), (GRANT_TABLE + 512, b"gone")]
    {
        world.poke(child.slot, address, text);
    }
    let incarnation = info(&mut world, child).incarnation;
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    world.check();
    // Sent while it is not there; told to the next image.
    world.ok(friend.slot, H::EventSend, &[there]);
    let now = info(&mut world, child);
    assert_eq!(
        (now.state, now.incarnation, now.resets, now.vcpus_started),
        (State::Building as u32, incarnation, 1, 0)
    );
    assert!(!world.core.machine.serial_released.get() && world.core.machine.masked.get() & 16 != 0);
    world.start(child);
    let gone = [HEAP, CONSOLE, CONTROL_OUT, GRANT_TABLE + 512].map(|address| world.peek(child.slot, address, 4));
    assert_eq!((world.peek(child.slot, RETAINED, 4), gone), (b"kept".to_vec(), [(); 4].map(|()| [0; 4].to_vec())));
    let [pending, upcall, selector]: [u64; 3] =
        [PENDING, VCPUS + UPCALL_PENDING, VCPUS + SELECTOR].map(|offset| world.get(child.slot, EVENTS + offset as u64));
    assert_eq!((pending, upcall, selector), (1 << here, 1, 1));
    assert_eq!(world.core.interrupts, [None; SOURCES]);
    world.ok(child.slot, H::InterruptBind, &[line]);
    world.ok(child.slot, H::EventSend, &[here]);
    let about: StartInfo = world.get(child.slot, START_INFO);
    assert_eq!(about.resets, 1);
    world.check();
}

#[test]
fn a_reset_keeps_what_the_image_cannot_write_if_it_is_to() {
    let mut world = World::new(1000, 1);
    let before = system(&mut world);
    let child = world.create(&spec(100)).unwrap();
    let [code, constants, data] = [0, 2, 3].map(|page| IMAGE_BASE + page * PAGE_SIZE);
    let other = HEAP + 600 * PAGE_SIZE;
    for (address, pages, protection) in [(code, 2, 2), (constants, 1, 0), (data, 1, 1), (other, 1, 0)] {
        world.ok(Slot::DOM0, H::MemoryPopulate, &[child.handle, address, pages, protection]);
    }
    world.poke(Slot::DOM0, HEAP, b"program.");
    let write = |world: &mut World, address: u64| {
        world.call(Slot::DOM0, H::DomainWrite, &[child.handle, address, HEAP, 8]).map(|_| ())
    };
    for address in [code, constants, data] {
        assert_eq!(write(&mut world, address), Ok(()));
    }
    world.start(child);
    let used = info(&mut world, child).used_pages;
    assert_eq!(world.call(Slot::DOM0, H::DomainReset, &[child.handle, 2]), Err(Error::Invalid));
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle, 1]);
    world.check();
    assert_eq!([code, constants].map(|at| world.peek(child.slot, at, 8)), [(); 2].map(|()| b"program.".to_vec()));
    assert_eq!(world.call(Slot::DOM0, H::MemoryPopulate, &[child.handle, code, 1, 2]), Err(Error::Exists));
    for gone in [data, other] {
        assert_eq!(write(&mut world, gone), Err(Error::BadAddress));
    }
    // What was there, other words, and a part of a word.
    for text in [b"program.", b"changed.", b"program."] {
        world.poke(Slot::DOM0, HEAP, text);
        assert_eq!((write(&mut world, code), write(&mut world, constants + 3)), (Ok(()), Ok(())));
        assert_eq!([code, constants + 3].map(|at| world.peek(child.slot, at, 8)), [(); 2].map(|()| text.to_vec()));
    }
    world.ok(Slot::DOM0, H::MemoryPopulate, &[child.handle, data, 1, 1]);
    world.ok(Slot::DOM0, H::MemoryPopulate, &[child.handle, other, 1, 0]);
    world.start(child);
    assert_eq!(info(&mut world, child).used_pages, used);
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle, 0]);
    assert_eq!(write(&mut world, code), Err(Error::BadAddress));
    world.destroy(child);
    world.check();
    assert_eq!(system(&mut world), before);
}

#[test]
fn nothing_is_taken_from_under_a_running_cpu() {
    let mut world = World::new(600, 2);
    let child = world.child();
    world.core.schedule(0);
    let next = world.core.schedule(1);
    let used = world.core.frames.used;
    assert!(matches!(next, Next::Run { .. }), "the child runs on CPU 1");
    for call in [H::DomainReset, H::DomainDestroy] {
        world.core.hypercall(0, call as u64, [child.handle, 0, 0, 0, 0]);
        let Next::Run { context, .. } = world.core.schedule(0) else { panic!() };
        assert_eq!(protocol::answer::decode(world.core.machine.load(context.at(0))), Err(Error::Again));
        assert_eq!((world.core.frames.used, world.core.take_kicks(0)), (used, 1 << 1));
    }
    assert!(matches!(world.core.schedule(1), Next::Idle { .. }));
    while world.call_on(0, H::DomainDestroy as u64, &[child.handle]) == Err(Error::Again) {}
    assert!(world.core.frames.used < used);
}

#[test]
fn pauses_are_counted_and_keep_a_domain_from_running() {
    let mut world = World::new(600, 2);
    let child = world.child();
    world.core.schedule(0);
    assert!(matches!(world.core.schedule(1), Next::Run { .. }));
    for _ in 0..2 {
        assert_eq!(world.call_on(0, H::DomainPause as u64, &[child.handle]), Ok(0));
    }
    assert!(matches!(world.core.schedule(1), Next::Idle { .. }));
    assert_eq!(world.call_on(0, H::DomainUnpause as u64, &[child.handle]), Ok(0));
    assert!(matches!(world.core.schedule(1), Next::Idle { .. }));
    assert_eq!(world.call_on(0, H::DomainUnpause as u64, &[child.handle]), Ok(0));
    assert!(matches!(world.core.schedule(1), Next::Run { .. }));
    assert_eq!(world.call_on(0, H::DomainUnpause as u64, &[child.handle]), Err(Error::WrongState));
    // A paused domain does not run when it is started, either.
    assert_eq!(world.call_on(0, H::DomainPause as u64, &[child.handle]), Ok(0));
    world.core.schedule(1);
    while world.call_on(0, H::DomainReset as u64, &[child.handle]) == Err(Error::Again) {}
    assert_eq!(world.call_on(0, H::DomainStart as u64, &[child.handle, IMAGE_BASE, 0]), Ok(0));
    assert!(matches!(world.core.schedule(1), Next::Idle { .. }));
    assert_eq!(world.call_on(0, H::DomainUnpause as u64, &[child.handle]), Ok(0));
    assert!(matches!(world.core.schedule(1), Next::Run { .. }));
}

#[test]
fn the_core_outlives_the_first_domain() {
    let mut world = World::new(600, 1);
    let child = world.child();
    world.enter(0, Slot::DOM0, 0);
    world.core.fault(0, 13, 0, 0);
    world.leave(0);
    world.ok(child.slot, H::EventSend, &[CONTROL_PORT.0 as u64]);
    assert!(matches!(world.core.schedule(0), Next::Run { .. }));
    world.check();
}

/// One step in the making of a domain, as dom0 takes them.
fn build(world: &mut World, child: Child, step: u32) {
    let dom0 = Slot::DOM0;
    match step {
        0 => _ = world.ok(dom0, H::MemoryPopulate, &[child.handle, IMAGE_BASE, 20, 2]),
        1 => _ = world.ok(dom0, H::DomainWrite, &[child.handle, IMAGE_BASE, HEAP, 8 * PAGE_SIZE]),
        2 => _ = world.ok(dom0, H::MemoryPopulate, &[child.handle, vcpu_stack_top(0) & !4095, 1, 1]),
        3 => _ = world.ok(dom0, H::EventConnect, &[child.handle, 0]),
        4 => world.start(child),
        5 => _ = world.ok(child.slot, H::VcpuStart, &[1, IMAGE_BASE, 0]),
        6 => _ = world.ok(child.slot, H::MemoryRelease, &[IMAGE_BASE, 5]),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Domains are killed at any point of their making, or after a reset in it, and leave nothing.
    #[test]
    fn killed_at_any_point_nothing_leaks(ends in proptest::collection::vec((0_u32..9, any::<bool>(), 1_u64..6), 1..12)) {
        let mut world = World::new(900, 2);
        let before = system(&mut world);
        for (end, reset, slices) in ends {
            let child = world.create(&spec(150)).unwrap();
            (0..end.min(7)).for_each(|step| build(&mut world, child, step));
            if reset {
                // Given up half-way.
                for _ in 0..slices {
                    _ = world.call(Slot::DOM0, H::DomainReset, &[child.handle]);
                }
            }
            world.check();
            let extra: Vec<u64> = (3..PORTS as u64).filter(|&port| {
                let entry = world.core.domains[Slot::DOM0].ports.get(&world.core.machine, Port(port as u32));
                entry.purpose() != crate::ports::Use::CLOSED && port != child.port
            }).collect();
            world.destroy(child);
            extra.into_iter().for_each(|port| _ = world.ok(Slot::DOM0, H::EventClose, &[0, port]));
            world.check();
            prop_assert_eq!(system(&mut world), before);
        }
    }
}

#[test]
fn thousands_of_creations_leave_nothing() {
    let mut world = World::with_fill(700, 1, 0);
    let before = system(&mut world);
    let small = DomainSpec { vcpus: 1, retained_pages: 0, ..spec(60) };
    for round in 0..3000 {
        let child = world.create(&small).unwrap();
        if round % 3 == 0 {
            world.ok(Slot::DOM0, H::DomainStart, &[child.handle, IMAGE_BASE, 0]);
        }
        world.destroy(child);
    }
    world.check();
    assert_eq!(system(&mut world), before);
}
