//! I/O ports: a machine without devices, but for the registers that end it and a port for early text.

use protocol::vm::{port, word};

use crate::acpi::{RESET, SLEEP_CONTROL, SLEEP_OFF, SLEEP_STATUS};
use crate::state::{State, StateExt, register};

/// Text, a byte at a time.
const DEBUG: u16 = 0xe9;
/// System control port B, and counter 2 of the timer. All ones would make a kernel wait for it 50,000 times.
const QUIET: [u16; 2] = [0x61, 0x42];

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Print a byte.
    Text(u8),
    /// Switch off.
    PowerOff,
    /// Start again.
    Reset,
}

fn read(port: u16) -> u32 {
    match port {
        port if QUIET.contains(&port) => 0,
        DEBUG => DEBUG.into(),
        SLEEP_STATUS | SLEEP_CONTROL => 0,
        _ => u32::MAX,
    }
}

fn write(port: u16, value: u32) -> Effect {
    match (port, value as u8) {
        (DEBUG, byte) => Effect::Text(byte),
        (SLEEP_CONTROL, SLEEP_OFF) => Effect::PowerOff,
        (port, value) if (port, value) == RESET => Effect::Reset,
        _ => Effect::None,
    }
}

/// Carries out what exit detail `detail` says. A string instruction moves nothing.
pub fn execute(state: &impl State, detail: u64) -> Effect {
    let (number, size) = (detail as u16, detail >> port::SIZE_SHIFT & 7);
    let mut effect = Effect::None;
    if detail & port::STRING != 0 {
        if detail & port::REPEATED != 0 {
            state.set_register(register::RCX, 0);
        }
    } else if detail & port::IN != 0 {
        let (old, value) = (state.register(register::RAX), u64::from(read(number)));
        state.set_register(
            register::RAX,
            match size {
                1 => old & !0xff | value & 0xff,
                2 => old & !0xffff | value & 0xffff,
                _ => value,
            },
        );
    } else {
        effect = write(number, state.register(register::RAX) as u32);
    }
    state.set_rip(state.get(word::NEXT_RIP));
    effect
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Page;

    fn access(state: &Page, number: u16, size: u64, flags: u64) -> Effect {
        state.set(word::NEXT_RIP, 0x77);
        let effect = execute(state, u64::from(number) | size << port::SIZE_SHIFT | flags);
        assert_eq!(state.get(word::RIP), 0x77);
        effect
    }

    #[test]
    fn reads_fill_as_much_of_the_register_as_they_are_wide() {
        let state = Page::default();
        for (size, result) in [(1, 0x1122_3344_5566_77ff), (2, 0x1122_3344_5566_ffff), (4, 0xffff_ffff)] {
            state.set_register(register::RAX, 0x1122_3344_5566_7788);
            assert_eq!(access(&state, 0x3f8, size, port::IN), Effect::None);
            assert_eq!(state.register(register::RAX), result);
        }
        access(&state, 0x42, 1, port::IN);
        assert_eq!(state.register(register::RAX), 0xffff_ff00);
        state.set_register(register::RCX, 9);
        access(&state, 0x1f0, 2, port::IN | port::STRING | port::REPEATED);
        assert_eq!(state.register(register::RCX), 0);
    }

    #[test]
    fn some_writes_have_an_effect() {
        let state = Page::default();
        for (port, value, effect) in [
            (0xe9, 0x41, Effect::Text(0x41)),
            (0x601, 0x34, Effect::PowerOff),
            (0x601, 0x14, Effect::None),
            (0x600, 1, Effect::Reset),
            (0x80, 0, Effect::None),
        ] {
            state.set_register(register::RAX, value);
            assert_eq!(access(&state, port, 1, 0), effect);
        }
    }
}
