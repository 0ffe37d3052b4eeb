//! Hypercalls as a guest makes them, and as a hostile one does.

use std::vec::Vec;

use proptest::prelude::*;
use protocol::event::Port;
use protocol::vm::{segment, word};

use super::*;
use crate::guest::Activity;
use crate::layout::{CONSOLE_FRAME, STORE_FRAME};
use crate::testing::{AREA, FRAMES, Page, guest, guest_supplied};

/// A guest in 64-bit mode.
fn machine() -> (Guest, Page) {
    guest(2, FRAMES)
}

fn call(guest: &mut Guest, state: &Page, number: u64, arguments: [u64; 3]) -> i64 {
    let registers = [register::RAX, register::RDI, register::RSI, register::RDX];
    for (register, value) in registers.into_iter().zip([number, arguments[0], arguments[1], arguments[2]]) {
        state.set_register(register, value);
    }
    execute(guest, state, 0, 1000).unwrap();
    state.register(register::RAX) as i64
}

/// The same with a structure of 32-bit words.
fn with(guest: &mut Guest, state: &Page, number: u64, command: u64, words: &[u32]) -> (i64, Vec<u32>) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Space::new(&guest.memory, state).write(AREA, &bytes).unwrap();
    let result = call(guest, state, number, [command, AREA, 1]);
    let mut out = std::vec![0; bytes.len()];
    Space::new(&guest.memory, state).read(AREA, &mut out).unwrap();
    (result, out.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

const SELF: u32 = DOMAIN_SELF as u32;

#[test]
fn a_kernel_finds_its_way_at_boot() {
    let (mut guest, state) = machine();
    let g = &mut guest;
    state.set(word::RIP, 0x100);
    assert_eq!(with(g, &state, 17, 6, &[0, 0]), (0, [0, 0x0001_0305].to_vec()));
    assert_eq!(state.get(word::RIP), 0x103);
    assert_eq!(with(g, &state, 12, 7, &[SELF, 0, 0, 0, 0x11, 0]).0, 0);
    assert_eq!(call(g, &state, 34, [9, AREA, 0]), -38);
    assert_eq!(call(g, &state, 17, [0, 0, 0]), 0x0004_0011);
    assert_eq!(with(g, &state, 34, 0, &[SELF, 0, 0xf3, 2 << 24]).0, 0);
    assert_eq!(g.callback, 2 << 56 | 0xf3);
    for (index, value) in [(17, CONSOLE_FRAME), (1, STORE_FRAME), (18, 2), (2, 1), (26, 0)] {
        assert_eq!(with(g, &state, 34, 1, &[SELF, index, 0, 0]).1[2..], [value as u32, 0]);
    }
    let space = Space::new(&g.memory, &state);
    space.write(AREA, &[0x12u64.to_le_bytes(), 0x100u64.to_le_bytes()].concat()).unwrap();
    assert_eq!(call(g, &state, 24, [10, 1, AREA]), 0);
    assert!(g.events.upcall_pending(1) && !g.events.upcall_pending(0));
    assert_eq!(with(g, &state, 32, 1, &[0, 0, 0]), (0, [0, 0, 3].to_vec()));
    assert_eq!(with(g, &state, 32, 7, &[0, 0]), (0, [0, 4].to_vec()));
    assert_eq!(with(g, &state, 20, 6, &[SELF, 0, 0, 0]), (0, [SELF, 1, 8, 0].to_vec()));
    assert_eq!(with(g, &state, 20, 8, &[1]), (0, [1].to_vec()));
    assert_eq!(with(g, &state, 20, 8, &[2]).0, -22);
    assert_eq!(with(g, &state, 12, 7, &[SELF, 1, 7, 0, 0x17fff, 0]).0, 0);
    assert_eq!(with(g, &state, 12, 7, &[SELF, 1, 8, 0, 0x17fff, 0]).0, -22);
    assert_eq!(with(g, &state, 20, 6, &[SELF, 0, 0, 0]).1[1], 8);
}

#[test]
fn vcpus_are_started_stopped_and_continued_by_hypercalls() {
    use crate::guest::Next;
    let (mut guest, state) = machine();
    let g = &mut guest;
    let second = Page::default();
    assert_eq!(call(g, &state, 24, [1, 1, 0]), -22, "nobody said where");
    // 32-bit code at 0x5000, without paging, with segments of 4 GiB.
    let mut words = [0; 32];
    (words[10], words[12]) = (0x5000, 1);
    words[23..28].fill(u32::MAX);
    (words[28], words[29], words[30]) = (0xc93_0c9b, 0xc93_0c93, 0x8b);
    let begin = |g: &mut Guest| {
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        Space::new(&g.memory, &state).write(AREA, &bytes).unwrap();
        call(g, &state, 24, [0, 1, AREA])
    };
    assert_eq!((begin(g), begin(g)), (0, -17));
    assert_eq!(g.prepare(1, &second, 5), Next::Wait(u64::MAX), "it is not up yet");
    assert_eq!(
        (call(g, &state, 24, [3, 1, 0]), call(g, &state, 24, [1, 1, 0]), call(g, &state, 24, [3, 1, 0])),
        (0, 0, 1)
    );
    assert_eq!(g.prepare(1, &second, 5), Next::Run(u64::MAX));
    assert_eq!((second.get(word::RIP), second.is_64_bit(), second.privilege()), (0x5000, false, 0));
    assert_eq!(begin(g), -17, "it runs");
    second.set(word::RIP, 0x5007);
    assert_eq!(call(g, &state, 24, [2, 1, 0]), 0);
    assert_eq!((g.prepare(1, &second, 5), call(g, &state, 24, [3, 1, 0])), (Next::Wait(u64::MAX), 0));
    assert_eq!(call(g, &state, 24, [1, 1, 0]), 0);
    assert_eq!((g.prepare(1, &second, 5), second.get(word::RIP)), (Next::Run(u64::MAX), 0x5007));
}

#[test]
fn a_vcpu_with_a_vector_of_its_own_is_told_by_its_apic_once_an_event() {
    use crate::state::FLAG_INTERRUPTS;
    use protocol::vm::event;
    let (mut guest, state) = machine();
    let g = &mut guest;
    state.set(word::RFLAGS, FLAG_INTERRUPTS);
    assert_eq!(with(g, &state, 34, 23, &[0, 15]).0, -22);
    assert_eq!(with(g, &state, 34, 23, &[2, 32]).0, -2);
    assert_eq!(with(g, &state, 34, 23, &[0, 32]).0, 0);
    // What the common vector does for others is not for it.
    g.callback = 2 << 56 | 0xf3;
    let port = g.events.bind_ipi(0).unwrap();
    g.raise(port);
    let injected = |g: &mut Guest| {
        state.set(word::INJECT, 0);
        g.prepare(0, &state, 5);
        state.get(word::INJECT)
    };
    assert_eq!(injected(g), 0, "its APIC is off");
    g.vcpus[0].apic.write(0x80f, 0x1ff).unwrap();
    assert_eq!(injected(g), event::interrupt(32), "switched on, it is told");
    assert_eq!(injected(g), 0, "once");
    g.vcpus[0].apic.write(0x80b, 0).unwrap();
    assert_eq!(injected(g), 0, "still pending, but that is known");
    // The guest looks, and another event comes before the monitor does.
    let shared = g.memory.pin(crate::testing::SHARED_INFO).unwrap();
    shared.swap_u8(0, 0);
    [8, 0x800].into_iter().for_each(|offset| shared.store_u64(offset, 0));
    g.raise(port);
    assert_eq!(injected(g), event::interrupt(32));
}

#[test]
fn timers_are_set_and_stopped() {
    let (mut guest, state) = machine();
    let space = Space::new(&guest.memory, &state);
    space.write(AREA, &[2000u64.to_le_bytes(), 0u64.to_le_bytes()].concat()).unwrap();
    assert_eq!(call(&mut guest, &state, 24, [7, 0, 0]), 0);
    assert_eq!(call(&mut guest, &state, 24, [8, 0, AREA]), 0);
    assert_eq!(guest.vcpus[0].timer, Some(2000));
    assert_eq!(call(&mut guest, &state, 24, [9, 0, 0]), 0);
    assert_eq!(guest.vcpus[0].timer, None);
    assert_eq!(call(&mut guest, &state, 24, [8, 1, AREA]), -22, "another vCPU's");
    assert_eq!(call(&mut guest, &state, 24, [9, 2, AREA]), -2);
    assert_eq!(call(&mut guest, &state, 15, [77, 0, 0]), 0);
    assert_eq!(guest.vcpus[0].timer, Some(77));
}

#[test]
fn signals_leave_the_guest_where_they_lead_out() {
    let (mut guest, state) = machine();
    assert_eq!(with(&mut guest, &state, 32, 4, &[1]).0, 0);
    assert_eq!(guest.outbox.ports, [Port(11)]);
    assert_eq!(with(&mut guest, &state, 32, 6, &[SELF | 2 << 16, 0]), (0, [SELF | 2 << 16, 3].to_vec()));
    assert_eq!(with(&mut guest, &state, 32, 4, &[3]).0, 0);
    assert_eq!(with(&mut guest, &state, 32, 4, &[9]).0, -22);
    assert_eq!(with(&mut guest, &state, 32, 5, &[SELF, 3, 9, 9, 9, 9]).1, [SELF, 3, 1, 0, 2, 0]);
    assert_eq!(with(&mut guest, &state, 32, 3, &[3]).0, 0);
    assert_eq!(call(&mut guest, &state, 18, [0, 5, AREA]), 0);
    assert_eq!(guest.outbox.ports, [Port(11), Port(12)]);
}

#[test]
fn a_grant_table_lies_in_ram_or_at_a_few_places_beside_it() {
    let (mut guest, state) = machine();
    let mut place = |index, frame| with(&mut guest, &state, 12, 7, &[SELF, 1, index, 0, frame, 0]).0;
    // Wherever it is in a place, and however often it moves to one, it takes nothing more.
    for (index, frame, answer) in [
        (0, 0x2_01ff, 0),
        (1, 0x2_0200, 0),
        (1, 0x2_03ff, 0),
        (0, 0x9_0000, 0),
        (2, 0x9_0200, -12),
        (2, 0x2_0000, 0),
        (3, 3, 0),
        (2, u32::MAX, -12),
    ] {
        assert_eq!(place(index, frame), answer, "{index} at {frame:#x}");
    }
}

#[test]
fn a_balloon_gives_and_takes() {
    let (mut guest, state) = machine();
    let list = AREA + 0x800;
    let frames: Vec<u8> = [3u64, 4, 16, 5].iter().flat_map(|frame| frame.to_le_bytes()).collect();
    Space::new(&guest.memory, &state).write(list, &frames).unwrap();
    let request = [list as u32, 0, 4, 0, 0, 0, SELF, 0];
    assert_eq!(with(&mut guest, &state, 12, 1, &request).0, 2, "frame 16 is the shared_info");
    assert!(!guest.memory.populated(3) && !guest.memory.populated(4) && guest.memory.populated(5));
    assert_eq!(with(&mut guest, &state, 12, 6, &request).0, 1, "the other frame became a page table");
    assert!(guest.memory.populated(3) && !guest.memory.populated(4));
    let special = [(CONSOLE_FRAME).to_le_bytes()].concat();
    Space::new(&guest.memory, &state).write(list, &special).unwrap();
    assert_eq!(with(&mut guest, &state, 12, 1, &request).0, 0);
}

#[test]
fn what_the_monitor_reaches_for_is_supplied() {
    const MOST: u64 = 0x120;
    let (mut guest, state) = guest_supplied(0x110, MOST);
    let there = |guest: &Guest, frame| guest.memory.populated(frame);
    // Shared info, and a vCPU's own.
    assert_eq!(with(&mut guest, &state, 12, 7, &[SELF, 0, 0, 0, 0x300, 0]).0, 0);
    let own_info = |guest: &mut Guest, vcpu: u64, frame: u64| {
        let bytes = [frame.to_le_bytes(), 0x100u64.to_le_bytes()].concat();
        Space::new(&guest.memory, &state).write(AREA + 0x1000, &bytes).unwrap();
        call(guest, &state, 24, [10, vcpu, AREA + 0x1000])
    };
    assert_eq!(own_info(&mut guest, 0, 0x301), 0);
    assert!(there(&guest, 0x300) && there(&guest, 0x301) && guest.pages() == 0x112);
    // A grant table over RAM that was not touched: it does not come there, neither when it is touched nor with the rest.
    assert_eq!(with(&mut guest, &state, 12, 7, &[SELF, 1, 0, 0, 0x302, 0]).0, 0);
    assert!(guest.memory.released(0x302) && !guest.memory.reach(0x302) && guest.pages() == 0x112);
    // The buffer of a hypercall: the page table leads to another page now.
    let entry = crate::testing::TABLES + 0x3000;
    guest.memory.write(entry, &(0x30_3000u64 | 3).to_le_bytes()).unwrap();
    assert_eq!(with(&mut guest, &state, 17, 6, &[0, 0]), (0, [0, 0x0001_0305].to_vec()));
    assert!(there(&guest, 0x303) && guest.pages() == 0x113);
    // No more than it may have, by this way either.
    let reached = (0x310..FRAMES).take_while(|&frame| guest.memory.reach(frame)).count() as u64;
    assert_eq!((reached, guest.pages()), (MOST - 0x113, MOST));
    assert_eq!(own_info(&mut guest, 1, 0x600), -22);
    assert_eq!(guest.pages(), MOST);
}

#[test]
fn a_balloon_gives_back_what_was_never_touched() {
    let (mut guest, state) = guest_supplied(0x110, FRAMES - 2);
    assert_eq!(guest.untouched(), FRAMES - 0x110);
    let list = AREA + 0x800;
    let release = |guest: &mut Guest, frame: u64| {
        Space::new(&guest.memory, &state).write(list, &frame.to_le_bytes()).unwrap();
        with(guest, &state, 12, 1, &[list as u32, 0, 1, 0, 0, 0, SELF, 0]).0
    };
    assert_eq!((release(&mut guest, 0x500), guest.pages(), guest.outbox.ports.len()), (1, 0x110, 0));
    assert_eq!(release(&mut guest, 0x500), 0, "it is given back once");
    // Now the rest fits, and comes at once; who waits for that is told.
    assert_eq!((release(&mut guest, 3), guest.untouched(), guest.pages()), (1, 0, FRAMES - 2));
    assert_eq!(guest.outbox.ports, [Port(11)]);
    assert!(guest.memory.released(0x500) && guest.pages_and_tables() == FRAMES - 2);
    // It gets back no more than it may have.
    assert_eq!(with(&mut guest, &state, 12, 6, &[list as u32, 0, 1, 0, 0, 0, SELF, 0]).0, 0);
    guest.allow(FRAMES - 1);
    assert_eq!(with(&mut guest, &state, 12, 6, &[list as u32, 0, 1, 0, 0, 0, SELF, 0]).0, 1);
    assert!(guest.memory.populated(3));
}

#[test]
fn polling_blocks_until_a_port_is_pending() {
    use crate::guest::Next;
    let (mut guest, state) = machine();
    let port = guest.events.bind_ipi(0).unwrap();
    Space::new(&guest.memory, &state).write(AREA + 0x800, &port.to_le_bytes()).unwrap();
    let request = [AREA as u32 + 0x800, 0, 1, 0, 0, 0];
    assert_eq!(with(&mut guest, &state, 29, 3, &request).0, 0);
    assert_eq!(guest.vcpus[0].activity, Activity::Polling([port].to_vec(), u64::MAX));
    assert_eq!(guest.prepare(0, &state, 5), Next::Wait(u64::MAX));
    guest.raise(port);
    assert_eq!(guest.prepare(0, &state, 5), Next::Run(u64::MAX));
}

#[test]
fn a_32_bit_kernel_passes_words_of_its_own_size() {
    let (mut guest, state) = machine();
    let g = &mut guest;
    state.set_segment(segment::CS, 8, 0xc9b, u32::MAX, 0);
    state.set(word::EFER, 0);
    state.set(word::CR0, 1);
    // Without paging: an address that is RAM. The upper halves of registers are nothing.
    const AT: u64 = 0x5000;
    let mut call = |number: u64, first: u64, second: u64, third: u64, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        g.memory.write(AT, &bytes).unwrap();
        let registers = [register::RAX, register::RBX, register::RCX, register::RDX];
        for (register, value) in registers.into_iter().zip([number, first, second, third]) {
            state.set_register(register, value | 0xdead << 32);
        }
        execute(g, &state, 0, 1000).unwrap();
        let mut out = std::vec![0; 64];
        g.memory.read(AT, &mut out).unwrap();
        let out: Vec<u32> = out.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        (state.register(register::RAX), out)
    };
    assert_eq!(call(17, 6, AT, 0, &[0, 0]).1[1], 0x0001_0305);
    assert_eq!(call(999, 0, 0, 0, &[]).0, 0xffff_ffda, "-ENOSYS in 32 bits");
    // shared_info goes to frame 0x12, in the layout for such guests.
    assert_eq!(call(12, 7, AT, 0, &[SELF, 0, 0, 0x12]).0, 0);
    let (result, bound) = call(32, 7, AT, 0, &[0, 0]);
    assert_eq!((result, bound[1]), (0, 3));
    assert_eq!(call(32, 4, AT, 0, &[3]).0, 0);
    assert_eq!(call(24, 10, 1, AT, &[0x14, 0, 0x40, 0]).0, 0);
    // Two frames go, and one comes, because the other became a page table; the list has words of 32 bits.
    let list = [AT as u32 + 20, 2, 0, 0, SELF, 0x30, 0x31];
    assert_eq!((call(12, 1, AT, 0, &list).0, call(12, 6, AT, 0, &list).0, call(12, 6, AT, 0, &list).0), (2, 1, 0));
    assert_eq!(call(12, 9, AT, 0, &[8, AT as u32 + 8]).1[0], 4);
    assert_eq!(call(24, 5, 0, AT, &[AT as u32 + 4, 7, 7]).1[1..3], [0, 0]);
    assert_eq!(call(29, 3, AT, 0, &[AT as u32 + 16, 1, 500, 1, 3]).0, 0);
    assert_eq!(call(15, 0x11, 0x22, 0, &[]).0, 0);
    assert_eq!(g.vcpus[0].timer, Some(0x22_0000_0011));
    assert_eq!(g.vcpus[0].activity, Activity::Polling([3].to_vec(), 1 << 32 | 500));
    let byte = |at: u64| g.memory.load_u64(at & !7).unwrap().to_le_bytes()[at as usize % 8];
    assert_eq!((byte(0x1_2800), byte(0x1_2000), byte(0x1_2004)), (8, 1, 1), "pending, upcall, selector");
    assert_eq!((byte(0x1_4040), byte(0x1_4041), byte(0x1_4047)), (1, 0, 0xff), "a place of its own has all set");
    assert_ne!(g.memory.load_u64(0x1_2000 + 0x900).unwrap() >> 32, 0, "the wall clock");
}

#[test]
fn only_supervisors_are_heard() {
    let (mut guest, state) = machine();
    state.set_segment(segment::SS, 0, 0xcf3, u32::MAX, 0);
    assert_eq!(call(&mut guest, &state, 17, [0, 0, 0]), -1);
    state.set_segment(segment::SS, 0, 0xc93, u32::MAX, 0);
    assert_eq!(call(&mut guest, &state, 999, [0, 0, 0]), -38);
    assert_eq!(call(&mut guest, &state, 17, [6, 0xdead_0000, 0]), -14);
}

#[test]
fn the_end_has_a_reason() {
    let (mut guest, state) = machine();
    guest.print(b"Kernel panic - not syncing\n");
    let mut end = |reason: u32| {
        Space::new(&guest.memory, &state).write(AREA, &reason.to_le_bytes()).unwrap();
        let registers = [(register::RAX, 29), (register::RDI, 2), (register::RSI, AREA)];
        registers.iter().for_each(|&(register, value)| state.set_register(register, value));
        execute(&mut guest, &state, 0, 0)
    };
    assert_eq!(end(0), Err(End::PowerOff));
    assert_eq!(end(1), Err(End::Reboot));
    assert!(matches!(end(3), Err(End::Crash(text)) if text.ends_with("last lines: Kernel panic - not syncing")));
    assert_eq!(end(2), Ok(()));
    assert_eq!(state.register(register::RAX), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any number with any arguments is answered, or ends the guest with a reason.
    #[test]
    fn any_hypercall_is_answered(calls in prop::collection::vec((0u64..45, 0u64..28, prop::collection::vec(prop_oneof![any::<u32>(), Just(SELF), 0u32..8, Just(AREA as u32)], 10), any::<bool>()), 1..20)) {
        let (mut guest, state) = machine();
        for (number, command, words, pointed) in calls {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let _ = Space::new(&guest.memory, &state).write(AREA, &bytes);
            let at = if pointed { AREA } else { u64::from(words[0]) << 32 | u64::from(words[1]) };
            let arguments = if number == 24 { [command, u64::from(words[2] % 3), at] } else { [command, at, 1] };
            for (register, value) in [register::RAX, register::RDI, register::RSI, register::RDX].into_iter().zip([number, arguments[0], arguments[1], arguments[2]]) {
                state.set_register(register, value);
            }
            let _ = execute(&mut guest, &state, 0, 1000);
            guest.prepare(0, &state, 1000);
        }
    }
}
