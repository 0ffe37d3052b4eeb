//! Interrupts and vCPUs of a guest.

use super::*;
use crate::events::VIRQ_TIMER;
use crate::state::FLAG_INTERRUPTS;
use crate::testing::{FRAMES, guest};
use protocol::vm::segment;

const UPCALL: u64 = 2 << 56 | 0xf3;

#[test]
fn an_upcall_is_injected_when_the_guest_takes_it() {
    let (mut guest, state) = guest(1, FRAMES);
    let port = guest.events.bind_ipi(0).unwrap();
    guest.raise(port);
    assert_eq!(guest.prepare(0, &state, 0), Next::Run(u64::MAX));
    assert_eq!(state.get(word::INJECT), 0, "the guest has not said where it wants it");
    guest.callback = UPCALL;
    guest.prepare(0, &state, 0);
    assert_eq!((state.get(word::INJECT), state.get(word::CONTROL) & control::WINDOW), (0, control::WINDOW));
    state.set(word::RFLAGS, FLAG_INTERRUPTS);
    state.set(word::CONTROL, control::SHADOW);
    guest.prepare(0, &state, 0);
    assert_eq!((state.get(word::INJECT), state.get(word::CONTROL)), (0, control::WINDOW | control::SHADOW));
    state.set(word::CONTROL, 0);
    guest.prepare(0, &state, 0);
    assert_eq!(state.get(word::INJECT), event::interrupt(0xf3));
    state.set(word::INJECT, 0);
    state.set(word::PENDING, event::interrupt(0xf3));
    guest.prepare(0, &state, 0);
    assert_eq!((state.get(word::INJECT), state.get(word::CONTROL)), (event::interrupt(0xf3), 0), "the same upcall");
    state.set(word::INJECT, event::exception(14, Some(0)));
    guest.prepare(0, &state, 0);
    assert_eq!(state.get(word::INJECT), event::exception(14, Some(0)), "one at a time");
    state.set(word::INJECT, 0);
    state.set(word::PENDING, event::exception(13, Some(0)));
    guest.prepare(0, &state, 0);
    assert_eq!(state.get(word::INJECT), event::exception(13, Some(0)), "what was cut short comes first");
}

#[test]
fn a_halted_vcpu_wakes_for_its_timer() {
    let (mut guest, state) = guest(1, FRAMES);
    guest.callback = UPCALL;
    guest.events.bind_virq(VIRQ_TIMER, 0).unwrap();
    guest.vcpus[0].timer = Some(100);
    state.set(word::RFLAGS, FLAG_INTERRUPTS);
    guest.halt(0, true).unwrap();
    assert_eq!(guest.prepare(0, &state, 50), Next::Wait(100));
    assert_eq!(guest.prepare(0, &state, 100), Next::Run(u64::MAX));
    assert_eq!(state.get(word::INJECT), event::interrupt(0xf3));
    assert_eq!(guest.halt(0, false), Err(End::PowerOff));
}

#[test]
fn a_vcpu_is_started_by_init_and_startup() {
    let (mut guest, state) = guest(2, FRAMES);
    let mut apic = Apic::new(0);
    let mut send = |guest: &mut Guest, low: u64| guest.signal(0, apic.write(0x830, 1 << 32 | low).unwrap().unwrap());
    assert_eq!(guest.prepare(1, &state, 0), Next::Wait(u64::MAX));
    send(&mut guest, 0xc500);
    send(&mut guest, 0x69a);
    assert_eq!(guest.outbox.vcpus, 2);
    assert_eq!(guest.prepare(1, &state, 0), Next::Run(u64::MAX));
    assert_eq!(state.get(word::SEGMENTS + 2 * segment::CS + 1), 0x9_a000);
    state.set(word::RIP, 7);
    send(&mut guest, 0x69a);
    guest.prepare(1, &state, 0);
    assert_eq!(state.get(word::RIP), 7, "it runs already");
    send(&mut guest, 0xc500);
    state.set(word::PENDING, event::interrupt(0x40));
    send(&mut guest, 0x69a);
    guest.prepare(1, &state, 0);
    assert_eq!([word::INJECT, word::PENDING].map(|word| state.get(word)), [0; 2], "what was before is over");
    assert_eq!(guest.halt(1, false), Ok(()), "another one runs");
}
