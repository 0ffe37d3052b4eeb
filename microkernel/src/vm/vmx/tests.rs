//! The state page, the block and the VMCS agree, and nothing that the core relies on can be changed through the page.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use protocol::vm::control;

use super::*;
use crate::testing::sim::Sim;
use crate::vm::GUEST;

const BLOCK: u64 = 0x1000;
const PAGE: u64 = 0x2000;
const CONTEXT: Frame = Frame(3);
const ROOT: Frame = Frame(4);
const PLACES: Places = Places { msr_map: 0x7000, core_list: 0x8000 };

/// A VMCS that no processor looks at.
#[derive(Default)]
struct Fields(RefCell<BTreeMap<u64, u64>>);

impl Vmcs for Fields {
    fn read(&self, field: u64) -> u64 {
        *self.0.borrow().get(&field).unwrap_or(&0)
    }

    fn write(&self, field: u64, value: u64) {
        self.0.borrow_mut().insert(field, value);
    }
}

/// Everything a VMCS needs.
struct Machine {
    m: Sim,
    v: Fields,
    guest: Guest,
    controls: Controls,
}

/// What must be set in each of the controls on today's processors, and what may.
fn capabilities(number: u32) -> u64 {
    match number {
        0x480 => 1 << 55 | 6 << 50,
        0x486 => 0x8000_0021,
        0x488 => 1 << 13,
        0x48b => 0xffff_ffff << 32,
        0x48c => 0xf01_0633_4141,
        0x48d => 0x7f_0000_0016,
        0x48e => 0xfff9_fffe_0400_6172,
        0x48f => 0x01ff_ffff_0003_6dfb,
        0x490 => 0x0003_ffff_0000_11fb,
        _ => panic!("{number:#x} is not one of them"),
    }
}

fn machine() -> Machine {
    let m = Sim::new(5, 0);
    let guest = Guest { vmcb: BLOCK, state: PAGE, ..Guest::default() };
    m.put(CONTEXT.at(GUEST), &guest);
    crate::vm::svm::prepare(&m, Phys(BLOCK), ROOT);
    let (v, controls) = (Fields::default(), Controls::choose(capabilities).unwrap());
    prepare(&m, &v, &controls, &guest, CONTEXT, PLACES);
    let segments = (segment::ES..=segment::IDTR).map(|index| word::SEGMENTS + 2 * index);
    segments.for_each(|word| m.store(guest.word(word), segment::pack(8, 0xa93, 0xfffff)));
    m.store(guest.word(word::CONTROL), control::LOAD);
    Machine { m, v, guest, controls }
}

impl Machine {
    fn set(&self, word: usize, value: u64) {
        self.m.store(self.guest.word(word), value);
    }

    fn get(&self, word: usize) -> u64 {
        self.m.load(self.guest.word(word))
    }

    /// From the page to the VMCS.
    fn enter(&self) {
        load(&self.m, &self.guest, CONTEXT);
        self.enter_again();
    }

    fn enter_again(&self) {
        enter(&self.m, &self.v, &self.controls, &self.guest);
    }

    /// And back, for this reason.
    fn exit(&self, fields: &[(u64, u64)]) -> Option<Exit> {
        fields.iter().for_each(|&(field, value)| self.v.write(field, value));
        leave(&self.m, &self.v, &self.guest);
        exit(&self.m, &self.guest, CONTEXT)
    }

    fn field(&self, field: u64) -> u64 {
        self.v.read(field)
    }
}

#[test]
fn every_word_goes_in_and_comes_back() {
    let t = machine();
    for word in (0..word::SYSTEM_END).filter(|word| !(word::SEGMENTS..).contains(word) || word % 2 == 1) {
        t.set(word, 0x0001_0000_0000_0001 * (word as u64 + 3));
    }
    [(word::CONTROL, control::LOAD), (word::INJECT, 0)].into_iter().for_each(|(word, value)| t.set(word, value));
    // Attributes of every shape: a stack of ring 3, and a segment that is not there.
    t.set(word::SEGMENTS + 2 * segment::SS, segment::pack(0x1b, 0xcf3, u32::MAX));
    t.set(word::SEGMENTS + 2 * segment::FS, segment::pack(0, 0xa13, 0x1234));
    let tables = [segment::GDTR, segment::IDTR].map(|index| word::SEGMENTS + 2 * index);
    tables.into_iter().for_each(|word| t.set(word, segment::pack(0, 0, 0xffff)));
    let before: Vec<u64> = (0..word::SYSTEM_END).map(|word| t.get(word)).collect();
    t.enter();
    assert_eq!((t.field(SELECTORS + 4), t.field(RIGHTS + 4), t.field(LIMITS + 4)), (0x1b, 0xc0f3, 0xffff_ffff));
    assert_eq!((t.field(RIGHTS + 8), t.field(LIMITS + 18)), (0xa013 | UNUSABLE, 0xffff));
    (0..word::SYSTEM_END).for_each(|word| t.set(word, u64::MAX));
    assert_eq!(t.exit(&[(REASON, 10), (LENGTH, 2)]), Some(Exit::Cpuid));
    for (word, before) in before.iter().enumerate().filter(|(word, _)| *word != word::CONTROL) {
        let expected = match word {
            word::INJECT => u64::MAX,
            word::EFER => before & !SVME,
            _ => *before,
        };
        assert_eq!(t.get(word), expected, "word {word}");
    }
    assert_eq!(t.get(word::NEXT_RIP), before[word::RIP] + 2);
    // No two words share a field.
    let mut fields: Vec<u64> = PLAIN.iter().chain(&RUNNING).map(|&(field, _)| field).collect();
    fields.extend([CR0, CR4, EFER]);
    let places = |first, count| (0..count).map(move |index| first + 2 * index);
    fields.extend(places(SELECTORS, 8).chain(places(RIGHTS, 8)).chain(places(LIMITS, 10)).chain(places(BASES, 10)));
    let count = fields.len();
    fields.sort_unstable();
    fields.dedup();
    assert_eq!(fields.len(), count);
}

#[test]
fn a_monitor_cannot_change_what_the_core_relies_on() {
    let t = machine();
    let own =
        [PIN, SECONDARY, EXIT_CONTROLS, EXCEPTIONS, CR0_MASK, CR4_MASK, MSR_MAP, ENTRY_LOAD, EXIT_STORE, EXIT_LOAD];
    let own = own.into_iter().chain([VIRTUAL_APIC, NESTED_TABLES, LINK, 0x4006, 0x4008, 0x400a, 0x401c]);
    let before: Vec<_> = own.map(|field| (field, t.field(field))).collect();
    assert_eq!(t.field(NESTED_TABLES), ROOT.at(0).0 | 0x1e);
    for value in [0, u64::MAX] {
        (0..512).for_each(|word| t.set(word, value));
        t.set(word::CONTROL, value | control::LOAD);
        t.enter();
        before.iter().for_each(|&(field, value)| assert_eq!(t.field(field), value, "{field:#x}"));
        assert_eq!(t.field(PRIMARY) | 1 << 2, t.controls.primary | 1 << 2);
        assert_eq!(t.field(CR0) & (CR0_CACHES | CR0_NUMERIC_ERROR), CR0_NUMERIC_ERROR);
        assert_eq!(t.field(CR4) & (CR4_VMX | CR4_MACHINE_CHECK), CR4_VMX | CR4_MACHINE_CHECK);
        for (index, number) in LISTED.iter().enumerate() {
            assert_eq!(t.m.load(t.guest.vmcb(LIST + 16 * index)), (*number).into());
        }
    }
}

#[test]
fn a_processor_must_have_everything() {
    let chosen = Controls::choose(capabilities).unwrap();
    assert_eq!((chosen.pin, chosen.secondary), (0x3f, 0x10e2));
    assert_eq!((chosen.exit, chosen.entry, chosen.primary), (0x3f_6fff, 0xd1ff, 0xb520_6dfa));
    // Without tags and INVPCID it works too.
    let few = |number| if number == 0x48b { 0xc2 << 32 } else { capabilities(number) };
    assert_eq!(Controls::choose(few).unwrap().secondary, 0xc2);
    for (register, lacking) in [
        (0x480, 1 << 55),
        (0x48b, 1 << 33),
        (0x48b, 1 << 39),
        (0x48c, 1 << 6),
        (0x48c, 1 << 20),
        (0x48c, 1 << 25),
        (0x48d, 1 << 37),
        (0x48e, 1 << 53),
        (0x48f, 1 << 53),
        (0x490, 1 << 47),
    ] {
        let lacks = |number| capabilities(number) & if number == register { !lacking } else { u64::MAX };
        assert_eq!(Controls::choose(lacks), None, "{register:#x} without {lacking:#x}");
    }
    let wants = |number| capabilities(number) | if number == 0x488 { 1 << 22 } else { 0 };
    assert_eq!(Controls::choose(wants), None);
}

#[test]
fn exits_have_names_and_details() {
    let t = machine();
    t.enter();
    for (reason, qualification, expected, details) in [
        (2, 0, Exit::Shutdown, [0; 3]),
        (7, 0, Exit::Window, [0; 3]),
        (12, 0, Exit::Halt, [0; 3]),
        (13, 0, Exit::CacheFlush, [0; 3]),
        (18, 0, Exit::Hypercall, [0; 3]),
        (19, 0, Exit::Forbidden, [19, 0, 0]),
        (30, 0x1234_0039, Exit::Port, [0x1234 | 2 << 16 | port::IN | port::STRING | port::REPEATED, 0, 0]),
        (30, 0x60_0003, Exit::Port, [0x60 | 4 << 16, 0, 0]),
        (31, 0, Exit::MsrRead, [0; 3]),
        (32, 0, Exit::MsrWrite, [0; 3]),
        (48, 0x184, Exit::Memory, [0x5_1000, access::FETCH, 0]),
        (48, 0x1aa, Exit::Memory, [0x5_1000, access::WRITE | access::PRESENT, 0]),
        (48, 0x81, Exit::Memory, [0x5_1000, access::WALK, 0]),
        (55, 0, Exit::Xsetbv, [0; 3]),
        (9, 5, Exit::Other, [9, 5, 0x5_1000]),
        (28, 0x13, Exit::Other, [28, 0x13, 0x5_1000]),
    ] {
        let fields = [(REASON, reason), (QUALIFICATION, qualification), (GUEST_PHYSICAL, 0x5_1000), (LENGTH, 3)];
        assert_eq!(t.exit(&fields), Some(expected), "{reason}");
        assert_eq!([0, 1, 2].map(|index| t.get(word::DETAIL + index)), details, "{reason}");
    }
}

#[test]
fn the_caches_and_what_nobody_switches_are_not_the_guests() {
    let t = machine();
    t.set(word::CR0, 0x31);
    t.set(word::GENERAL + 3, 0x6000_0011);
    t.enter();
    // mov cr0, rdx: it sees what it writes, and does it again.
    let write = |register: u64, from: u64| [(REASON, 28), (QUALIFICATION, register | from << 8)];
    assert_eq!(t.exit(&write(0, 2)), None);
    t.enter_again();
    assert_eq!((t.field(CR0), t.field(CR0_SHADOW)), (0x31, 0x6000_0011));
    // mov cr4, r9, with a machine check that is not switched off, and then with protection keys.
    t.m.store(CONTEXT.at(9 * 8), CR4_MACHINE_CHECK);
    assert_eq!(t.exit(&write(4, 9)), None);
    t.enter_again();
    assert_eq!((t.field(CR4_SHADOW), t.field(ENTRY_EVENT)), (CR4_MACHINE_CHECK, 0));
    t.m.store(CONTEXT.at(9 * 8), 1 << 22);
    assert_eq!(t.exit(&write(4, 9)), None);
    t.enter_again();
    let event = t.field(ENTRY_EVENT) | t.field(ENTRY_ERROR) << 32;
    assert_eq!((t.field(CR4_SHADOW), event), (CR4_MACHINE_CHECK, event::exception(13, Some(0))));
    // What it reads is what it wrote.
    assert_eq!(t.exit(&[(REASON, 10)]), Some(Exit::Cpuid));
    assert_eq!((t.get(word::CR0), t.get(word::CR4)), (0x6000_0011, CR4_MACHINE_CHECK));
}

#[test]
fn events_are_delivered_as_the_processor_wants_them() {
    let t = machine();
    t.set(word::INJECT, event::exception(13, Some(0x10)));
    t.enter();
    // In real mode without its code.
    assert_eq!(t.field(ENTRY_EVENT), event::exception(13, None));
    [
        (word::CR0, 1),
        (word::CONTROL, control::LOAD | control::WINDOW),
        (word::INJECT, event::exception(13, Some(0x10))),
    ]
    .into_iter()
    .for_each(|(word, value)| t.set(word, value));
    t.enter();
    assert_eq!((t.field(ENTRY_EVENT), t.field(ENTRY_ERROR)), (event::exception(13, Some(0)), 0x10));
    assert_eq!(t.field(PRIMARY), t.controls.primary | 1 << 2);
    // An NMI is not refused because of one before it, and anything else leaves that alone.
    t.v.write(INTERRUPTIBILITY, IN_NMI);
    t.set(word::INJECT, event::VALID | event::NMI | 2);
    t.set(word::CONTROL, control::SHADOW);
    t.enter();
    assert_eq!(t.field(INTERRUPTIBILITY), 0);
    t.v.write(INTERRUPTIBILITY, IN_NMI);
    [(word::RFLAGS, FLAG_INTERRUPTS | FLAG_TRAP), (word::CONTROL, control::SHADOW)]
        .into_iter()
        .for_each(|(word, value)| t.set(word, value));
    t.enter();
    assert_eq!((t.field(INTERRUPTIBILITY), t.field(PENDING_DEBUG)), (IN_NMI | AFTER_STI, SINGLE_STEP));
    assert_eq!(t.exit(&[(REASON, 48)]), Some(Exit::Memory));
    assert_eq!(t.get(word::CONTROL), control::SHADOW);
}

#[test]
fn what_an_exit_cut_short_is_pending_unless_its_instruction_is_done_again() {
    let t = machine();
    t.enter();
    let cut_short = |info| {
        assert_eq!(t.exit(&[(REASON, 48), (CUT_SHORT, info), (CUT_SHORT_ERROR, 6)]), Some(Exit::Memory));
        t.get(word::PENDING)
    };
    assert_eq!(cut_short(0x30), 0);
    assert_eq!(cut_short(event::VALID | 0x1b0e), event::exception(14, Some(6)), "bit 12 means nothing");
    assert_eq!(cut_short(event::VALID | 4 << 8 | 0x80), 0);
    // An interrupt of the core's does not make it forgotten.
    for (field, value) in [(REASON, EXIT_INTERRUPT), (CUT_SHORT, event::interrupt(0x30)), (CUT_SHORT_ERROR, 0)] {
        t.v.write(field, value);
    }
    leave(&t.m, &t.v, &t.guest);
    t.enter_again();
    assert_eq!(t.field(ENTRY_EVENT), event::interrupt(0x30));
    assert_eq!(t.m.load(t.guest.vmcb(EXIT_EVENT)), 0);
}

#[test]
fn exceptions_whose_delivery_may_not_end_are_delivered_by_the_core() {
    let t = machine();
    [(word::CR0, 1), (word::DR6, 0xffff_0ff2), (word::DR7, 0x2400)]
        .into_iter()
        .for_each(|(word, value)| t.set(word, value));
    t.enter();
    let exception = |info, error| {
        let fields = [(REASON, 0), (EXCEPTION, event::VALID | info), (EXCEPTION_ERROR, error), (QUALIFICATION, 0x4001)];
        assert_eq!(t.exit(&fields), None);
        t.enter_again();
        t.field(ENTRY_EVENT) | t.field(ENTRY_ERROR) << 32
    };
    assert_eq!(exception(0xb11, 0), event::exception(17, Some(0)));
    assert_eq!(t.m.load(t.guest.vmcb(place(word::DR6))), 0xffff_0ff2);
    assert_eq!(exception(0x301, 0), event::exception(1, None));
    assert_eq!((t.m.load(t.guest.vmcb(place(word::DR6))), t.field(DR7)), (0xffff_4ff1, 0x400));
    // INT1 has been executed when it raises it.
    [(FIELD_RIP, 0x1000), (LENGTH, 1)].into_iter().for_each(|(field, value)| t.v.write(field, value));
    assert_eq!(exception(0x501, 0), event::exception(1, None));
    assert_eq!(t.field(FIELD_RIP), 0x1001);
}

#[test]
fn a_state_that_is_refused_is_as_it_was() {
    for reason in [REFUSED | 33, NOT_TRIED | 7] {
        let t = machine();
        t.set(word::CR3, 0x1234);
        t.set(word::INJECT, event::interrupt(9));
        t.enter();
        refuse(&t.m, &t.guest, reason);
        assert_eq!(exit(&t.m, &t.guest, CONTEXT), Some(Exit::BadState));
        let words = [word::CR3, word::DETAIL, word::PENDING, word::CONTROL].map(|word| t.get(word));
        assert_eq!(words, [0x1234, reason, 0, 0]);
        t.enter();
        assert_eq!((t.field(CR3), t.field(ENTRY_EVENT)), (0x1234, 0));
    }
}
