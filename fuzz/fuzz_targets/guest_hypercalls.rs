//! A guest's hypercalls: every number and command with any arguments and any memory, from two vCPUs, between events and timers.
#![no_main]

use fuzz::Script;
use fuzz::guest::{check, poke, take_turns};
use libfuzzer_sys::fuzz_target;
use monitor::hypercall::execute;
use monitor::state::{StateExt, register};
use monitor::testing::{AREA, guest};
use protocol::vm::segment;

/// Hypercalls that do something, and one that does not.
const NUMBERS: [u64; 11] = [12, 15, 17, 18, 20, 21, 24, 29, 32, 34, 47];
/// Commands, and a few beyond.
const COMMANDS: u64 = 32;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (mut guest, state) = guest(2, fuzz::guest::POPULATED);
    let mut now = 1;
    // 64-bit code, or code whose words have 32 bits.
    let wide = script.byte() & 3 != 0;
    if !wide {
        state.set_segment(segment::CS, 8, 0xc9b, u32::MAX, 0);
    }
    let [command_register, first_register] =
        if wide { [register::RDI, register::RSI] } else { [register::RBX, register::RCX] };
    while !script.is_empty() {
        let vcpu = u32::from(script.byte() & 1);
        match script.byte() {
            0..=0x0f => poke(&guest, &state, &mut script),
            0x10..=0x1f => now = take_turns(&mut guest, &state, now, &mut script),
            how => {
                let number = match how & 1 {
                    0 => NUMBERS[usize::from(script.byte()) % NUMBERS.len()],
                    _ => script.long(),
                };
                let command = u64::from(script.byte()) % COMMANDS;
                let [first, second] = match how & 6 {
                    // A structure of the guest's, where it points.
                    0 | 2 => {
                        poke(&guest, &state, &mut script);
                        [AREA, u64::from(script.byte() & 1)]
                    }
                    // A vCPU, and a structure.
                    4 => {
                        poke(&guest, &state, &mut script);
                        [u64::from(script.byte()), AREA]
                    }
                    _ => [script.long(), script.long()],
                };
                let arguments = [(register::RAX, number), (command_register, command), (first_register, first)];
                arguments.into_iter().for_each(|(index, value)| state.set_register(index, value));
                state.set_register(register::RDX, second);
                if execute(&mut guest, &state, vcpu, now).is_err() {
                    return;
                }
            }
        }
        check(&guest, &state);
    }
});
