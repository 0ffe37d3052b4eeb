//! The state page and the VMCB agree, and nothing of the core's shows in the page or can be changed through it.

use std::vec::Vec;

use protocol::vm::port;

use super::*;
use crate::testing::sim::Sim;
use crate::vm::GUEST;

const VMCB: u64 = 0x1000;
const PAGE: u64 = 0x2000;
const CONTEXT: Frame = Frame(3);
const ROOT: Frame = Frame(4);

fn machine() -> (Sim, Guest) {
    let m = Sim::new(5, 0);
    let guest = Guest { vmcb: VMCB, state: PAGE, ..Guest::default() };
    m.put(CONTEXT.at(GUEST), &guest);
    prepare(&m, Phys(VMCB), ROOT);
    (m, guest)
}

fn fill(m: &Sim, guest: &Guest) {
    (0..word::SYSTEM_END).for_each(|word| m.store(guest.word(word), 0x0001_0000_0000_0001 * (word as u64 + 3)));
    m.store(guest.word(word::CONTROL), control::LOAD);
    m.store(guest.word(word::INJECT), 0);
}

/// Attributes of SS with this privilege level.
const fn stack(level: u64) -> u64 {
    level << DPL_SHIFT | 0x10
}

#[test]
fn every_word_goes_in_and_comes_back() {
    let (m, guest) = machine();
    fill(&m, &guest);
    let ss = word::SEGMENTS + 2 * protocol::vm::segment::SS;
    m.store(guest.word(ss), stack(3));
    let before: Vec<u64> = (0..word::SYSTEM_END).map(|word| m.load(guest.word(word))).collect();
    load(&m, &guest, CONTEXT);
    assert_eq!(m.load(guest.vmcb(CPL)) >> 24 & 0xff, 3);
    (0..word::SYSTEM_END).for_each(|word| m.store(guest.word(word), u64::MAX));
    save(&m, &guest, CONTEXT);
    for (word, before) in before.iter().enumerate().filter(|(word, _)| *word != word::CONTROL) {
        let expected = match word {
            word::EFER => before & !SVME,
            word::INJECT => u64::MAX,
            _ => *before,
        };
        assert_eq!(m.load(guest.word(word)), expected, "word {word}");
    }
    // No two words share a place.
    let mut places: Vec<usize> = SYSTEM.to_vec();
    places.extend([RAX, RSP, RIP, RFLAGS]);
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), word::SYSTEM_END - word::SYSTEM + 4);
    assert!(places.iter().all(|&place| place >= SAVE || [XCR0, TSC_OFFSET].contains(&place)));
}

#[test]
fn without_the_order_only_the_first_words_are_taken() {
    let (m, guest) = machine();
    fill(&m, &guest);
    load(&m, &guest, CONTEXT);
    (0..word::SYSTEM_END).for_each(|word| m.store(guest.word(word), 7));
    m.store(guest.word(word::CONTROL), control::SHADOW);
    load(&m, &guest, CONTEXT);
    assert_eq!((m.load(guest.vmcb(RIP)), m.load(guest.vmcb(RAX)), m.load(CONTEXT.at(24))), (7, 7, 7));
    assert_ne!(m.load(guest.vmcb(EFER)), 7);
    assert_eq!((m.load(guest.vmcb(SHADOW)), m.load(guest.vmcb(INJECT)), m.load(guest.word(word::INJECT))), (1, 7, 0));
}

#[test]
fn a_monitor_cannot_change_what_the_core_relies_on() {
    let (m, guest) = machine();
    for value in [0, u64::MAX] {
        (0..512).for_each(|word| m.store(guest.word(word), value));
        load(&m, &guest, CONTEXT);
        assert_eq!(m.load(guest.vmcb(NESTED_PAGING)), 1);
        assert_eq!(m.load(guest.vmcb(NESTED_ROOT)), ROOT.at(0).0);
        assert_eq!(m.load(guest.vmcb(EFER)) & SVME, SVME);
        let (first, second) = (m.load(guest.vmcb(INTERCEPTS)), m.load(guest.vmcb(INTERCEPTS_2)));
        assert_eq!((first & EXCEPTIONS, first >> 32 & BASE, second), (EXCEPTIONS, BASE, MORE));
        let interrupt = m.load(guest.vmcb(VIRTUAL_INTERRUPT));
        assert_eq!((interrupt & MASKING, interrupt & PENDING), (MASKING, if value == 0 { 0 } else { PENDING }));
    }
}

#[test]
fn exits_have_names_and_details() {
    let (m, guest) = machine();
    let info = 0x1234 << 16 | 0b0010_1101;
    for (code, info, expected, details) in [
        (0x72, [0; 2], Exit::Cpuid, [0; 3]),
        (0x7c, [0; 2], Exit::MsrRead, [0; 3]),
        (0x7c, [1, 0], Exit::MsrWrite, [0; 3]),
        (0x7b, [info, 9], Exit::Port, [0x1234 | 2 << 16 | port::IN | port::STRING | port::REPEATED, 0, 0]),
        (0x400, [1 << 32 | 0b10110, 0x5_1000], Exit::Memory, [0x5_1000, access::WRITE | access::FETCH, 0]),
        (0x400, [1 << 33 | 1, 0x1000], Exit::Memory, [0x1000, access::PRESENT | access::WALK, 0]),
        (0x8a, [0; 2], Exit::Forbidden, [0x8a, 0, 0]),
        (0x99, [5, 6], Exit::Other, [0x99, 5, 6]),
    ] {
        [(EXIT_CODE, code), (EXIT_INFO[0], info[0]), (EXIT_INFO[1], info[1])]
            .into_iter()
            .for_each(|(place, value)| m.store(guest.vmcb(place), value));
        assert_eq!(exit(&m, &guest, CONTEXT), Some(expected), "{code:#x}");
        assert_eq!([0, 1, 2].map(|index| m.load(guest.word(word::DETAIL + index))), details, "{code:#x}");
        assert_eq!(m.load(guest.word(word::NEXT_RIP)), if code == 0x7b { 9 } else { 0 });
    }
}

#[test]
fn what_an_exit_cut_short_is_pending_and_what_is_stale_is_not() {
    let (m, guest) = machine();
    m.store(guest.vmcb(EXIT_CODE), 0x400);
    m.store(guest.vmcb(EXIT_EVENT), 0x30);
    assert_eq!(exit(&m, &guest, CONTEXT), Some(Exit::Memory));
    assert_eq!(m.load(guest.word(word::PENDING)), 0);
    m.store(guest.vmcb(EXIT_EVENT), event::interrupt(0x30));
    assert_eq!(exit(&m, &guest, CONTEXT), Some(Exit::Memory));
    assert_eq!(m.load(guest.word(word::PENDING)), event::interrupt(0x30));
    assert_eq!(m.load(guest.vmcb(EXIT_EVENT)), 0);
}

#[test]
fn an_interrupt_is_offered_and_pending_until_the_guest_took_it() {
    let (m, guest) = machine();
    let offered = |inject| {
        m.store(guest.word(word::INJECT), inject);
        load(&m, &guest, CONTEXT);
        let get = |place| m.load(guest.vmcb(place));
        let (inject, interrupt) = offer(get(INJECT), get(INTERCEPTS), get(VIRTUAL_INTERRUPT));
        m.store(guest.vmcb(INJECT), inject);
        m.store(guest.vmcb(VIRTUAL_INTERRUPT), interrupt);
        (inject, interrupt)
    };
    let pending = |taken: u64, event| {
        m.store(guest.vmcb(EXIT_EVENT), event);
        m.store(guest.vmcb(VIRTUAL_INTERRUPT), m.load(guest.vmcb(VIRTUAL_INTERRUPT)) & !taken);
        save(&m, &guest, CONTEXT);
        m.load(guest.word(word::PENDING))
    };
    let waits = MASKING | PENDING | 0xf3 << 32;
    assert_eq!(offered(event::interrupt(0xf3)), (0, waits));
    assert_eq!(offer(0, 0, waits), (0, waits), "the run goes on after an interrupt of the core's");
    assert_eq!(pending(0, 0), event::interrupt(0xf3));
    assert_eq!(pending(0, 0), 0, "it is pending once");
    offered(event::interrupt(0xf3));
    assert_eq!(pending(V_IRQ, 0), 0);
    // Cut short while it was taken: once, under its own name.
    offered(event::interrupt(0xf3));
    assert_eq!(pending(0, event::exception(0xf3, None)), event::interrupt(0xf3));
    // Exceptions and NMIs are injected; an interrupt too where the next one that can be taken has to end the run.
    for event in [event::exception(14, Some(2)), event::VALID | event::NMI | 2] {
        assert_eq!(offered(event), (event, MASKING));
        assert_eq!(pending(0, event), event);
    }
    m.store(guest.word(word::CONTROL), control::WINDOW);
    assert_eq!(offered(event::interrupt(0xf3)), (event::interrupt(0xf3), MASKING | PENDING));
    m.store(guest.vmcb(INJECT), 0);
    assert_eq!(pending(0, 0), 0, "that was no interrupt, but a window");
}

#[test]
fn exceptions_whose_delivery_may_not_end_are_delivered_by_the_core() {
    let (m, guest) = machine();
    m.store(guest.vmcb(EXIT_CODE), EXIT_ALIGNMENT);
    assert_eq!(exit(&m, &guest, CONTEXT), None);
    assert_eq!(m.load(guest.vmcb(INJECT)), event::exception(17, Some(0)));
    m.store(guest.vmcb(EXIT_CODE), EXIT_DEBUG);
    assert_eq!(exit(&m, &guest, CONTEXT), None);
    assert_eq!(m.load(guest.vmcb(INJECT)), event::exception(1, None));
}

#[test]
fn a_state_that_is_refused_shows_nothing_of_the_cores() {
    for code in [0xffff_ffff, u64::MAX] {
        let (m, guest) = machine();
        fill(&m, &guest);
        load(&m, &guest, CONTEXT);
        let before: Vec<u64> = (0..word::CONTROL).map(|word| m.load(guest.word(word))).collect();
        // As the emulators do.
        (SAVE..4096).step_by(8).for_each(|place| m.store(guest.vmcb(place), 0xc0de));
        m.store(guest.vmcb(EXIT_CODE), code);
        assert_eq!(exit(&m, &guest, CONTEXT), Some(Exit::BadState));
        assert_eq!((0..word::CONTROL).map(|word| m.load(guest.word(word))).collect::<Vec<_>>(), before);
        m.store(guest.word(word::CONTROL), 0);
        load(&m, &guest, CONTEXT);
        save(&m, &guest, CONTEXT);
        assert!((0..word::SYSTEM_END).all(|word| m.load(guest.word(word)) != 0xc0de));
    }
}
