//! A guest's exits: every reason with any registers and details, and any state that the guest can have brought about.
#![no_main]

use fuzz::Script;
use fuzz::guest::{check, poke, take_turns};
use libfuzzer_sys::fuzz_target;
use monitor::exit::handle;
use monitor::state::{State, StateExt, register};
use monitor::testing::guest;
use protocol::vm::{Exit, event, segment, word};

/// Groups of MSRs of which some are there, and how many to try.
const MSRS: [(u32, u32); 7] = [
    (0, 0x400),
    (0x800, 0x100),
    (0xc000_0080, 0x20),
    (0xc000_0100, 4),
    (0xc001_0000, 0x30),
    (0xc001_1029, 1),
    (0x4000_0000, 2),
];
/// Words that a guest changes by itself.
const WORDS: [usize; 8] = [
    word::RIP,
    word::RFLAGS,
    word::CR0,
    word::CR3,
    word::CR4,
    word::NEXT_RIP,
    word::SEGMENTS + 2 * segment::CS,
    word::SEGMENTS + 2 * segment::SS,
];

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (mut guest, state) = guest(2, fuzz::guest::POPULATED);
    let mut now = 1;
    while !script.is_empty() {
        let vcpu = u32::from(script.byte() & 1);
        match script.byte() {
            0..=0x0f => poke(&guest, &state, &mut script),
            0x10..=0x1f => now = take_turns(&mut guest, &state, now, &mut script),
            0x20..=0x2f => state.set(WORDS[usize::from(script.byte()) % WORDS.len()], script.long()),
            0x30..=0x33 => state.set(word::PENDING, event::interrupt(script.byte() | 16)),
            how => {
                for index in 0..usize::from(how & 3) {
                    state.set_register(index, script.long());
                    state.set(word::DETAIL + index, script.long());
                }
                if how & 4 != 0 {
                    let (first, count) = MSRS[usize::from(script.byte()) % MSRS.len()];
                    state.set_register(register::RCX, (first + u32::from(script.short()) % count).into());
                }
                let Some(exit) = Exit::from_number(u64::from(script.byte()) % 16) else { continue };
                if handle(&mut guest, &state, vcpu, exit, now).is_err() {
                    return;
                }
            }
        }
        check(&guest, &state);
    }
});
