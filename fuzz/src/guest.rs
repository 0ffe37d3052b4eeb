//! A guest that does whatever the script says, and what must be true of it all the same.

use monitor::guest::{Guest, Next};
use monitor::state::State;
use monitor::testing::{AREA, FRAMES, SERVICES, SHARED_INFO};
use monitor::walk::Space;
use protocol::vm::word;

use crate::Script;

/// Frames of its memory that are there: enough for its tables.
pub const POPULATED: u64 = 0x110;

/// The guest writes into its memory: where its arguments lie, or anywhere.
pub fn poke(guest: &Guest, state: &impl State, script: &mut Script<'_>) {
    let how = script.byte();
    let bytes = script.part(usize::from(how & 0x3f));
    let _ = match how & 0xc0 {
        0xc0 => guest.memory.write(u64::from(script.word()) % (POPULATED << 12), bytes),
        _ => Space::new(&guest.memory, state).write(AREA, bytes).map_err(|_| protocol::error::Error::BadAddress),
    };
}

/// Both vCPUs get their turn, and something may have happened. Gives the time.
pub fn take_turns(guest: &mut Guest, state: &impl State, now: u64, script: &mut Script<'_>) -> u64 {
    let now = now.saturating_add(u64::from(script.short()));
    guest.raise(u32::from(script.byte()));
    for index in 0..guest.vcpus.len() as u32 {
        match guest.prepare(index, state, now) {
            // What is due has been dealt with.
            Next::Run(until) | Next::Wait(until) => assert!(until > now),
        }
    }
    now
}

/// What holds whatever a guest does.
pub fn check(guest: &Guest, state: &impl State) {
    // What is told to others goes where the monitor leads it.
    let services = [SERVICES.store, SERVICES.console];
    assert!(guest.outbox.ports.iter().all(|port| services.contains(port)), "{:?}", guest.outbox.ports);
    assert_eq!(guest.outbox.vcpus >> guest.vcpus.len(), 0);
    // Memory stays within what there is, and pages that the monitor holds stay.
    assert!(guest.memory.count() <= FRAMES && guest.memory.populated(SHARED_INFO));
    // The processor is asked for nothing that a guest does not have: virtualisation, a counter of its own, an event that is none.
    assert_eq!((state.get(word::EFER) & 1 << 12, state.get(word::TSC_OFFSET)), (0, 0));
    let inject = state.get(word::INJECT);
    let is_event = match (inject >> 8 & 7, inject & 0xff) {
        _ if inject == 0 => true,
        (0, vector) => vector >= 16,
        (2, vector) => vector == 2,
        (kind, vector) => kind == 3 && matches!(vector, 6 | 13),
    };
    assert!(is_event, "{inject:#x}");
}
