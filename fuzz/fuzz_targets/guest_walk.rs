//! A guest's page tables: whatever they hold, a walk ends, and finds what a second walk, written another way, finds.
#![no_main]

use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use monitor::state::State;
use monitor::testing::{TABLES, memory};
use monitor::walk::{BadPointer, Space};
use protocol::vm::word;
use unikernel::vm::GuestMemory;

/// Bits of an entry that say something, beside the address.
const BITS: u64 = 1 << 63 | 0xfff;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (memory, state) = memory(fuzz::guest::POPULATED);
    let how = script.byte();
    state.set(word::CR0, 1 | u64::from(how & 1 == 0) << 31 | u64::from(how & 2 != 0) << 16);
    let write = how & 4 != 0;
    // Four levels, three or two.
    state.set(word::EFER, u64::from(how & 0x60 != 0x60) << 10);
    state.set(word::CR4, u64::from(how & 0x80 != 0) << 5 | u64::from(script.byte() & 1) << 4);
    if how & 8 != 0 {
        state.set(word::CR3, script.long());
    }
    let address = match how & 0x10 {
        0 => u64::from(script.word() & 0xff_ffff),
        _ => script.long(),
    };
    while !script.is_empty() {
        let at = TABLES + u64::from(script.short() % 2048) * 8;
        let value = match script.byte() {
            // Most lead to some table.
            0..=0xdf => script.long() & (BITS | 0x3000) | TABLES | 1,
            _ => script.long(),
        };
        memory.write(at, &value.to_le_bytes()).expect("the tables are there");
    }
    let space = Space::new(&memory, &state);
    let found = space.translate(address, write);
    assert_eq!(found, walk(&memory, &state, address, write), "{address:#x}");
    let length = usize::from(how) * 64;
    let mut bytes = vec![0; length];
    let read = space.read(address, &mut bytes);
    if found.is_err() && length > 0 && !write {
        assert_eq!(read, Err(BadPointer));
    }
    let _ = space.write(address, &bytes);
});

/// The walk by the book, from the top.
fn walk(memory: &GuestMemory, state: &impl State, address: u64, write: bool) -> Result<u64, BadPointer> {
    let (cr0, cr4, mut base) = (state.get(word::CR0), state.get(word::CR4), state.get(word::CR3));
    let long = state.get(word::EFER) >> 10 & 1 == 1;
    if cr0 >> 31 & 1 == 0 {
        return Ok(address);
    }
    let reaches = if long { matches!(address >> 47, 0 | 0x1_ffff) } else { address >> 32 == 0 };
    if !reaches {
        return Err(BadPointer);
    }
    // For each level: the lowest bit of the address that it looks at, its bits, whether it has rights, whether it has large pages.
    let (levels, bytes): (&[_], u64) = match (long, cr4 >> 5 & 1) {
        (true, _) => (&[(39, 9, true, false), (30, 9, true, true), (21, 9, true, true), (12, 9, true, false)], 8),
        (false, 1) => (&[(30, 2, false, false), (21, 9, true, true), (12, 9, true, false)], 8),
        _ => (&[(22, 10, true, true), (12, 10, true, false)], 4),
    };
    base &= match (long, levels.len()) {
        (true, _) => 0x000f_ffff_ffff_f000,
        (_, 3) => 0xffff_ffe0,
        _ => 0xffff_f000,
    };
    for &(shift, bits, rights, can_be_large) in levels {
        let mut entry = [0; 8];
        let at = base + (address >> shift & ((1 << bits) - 1)) * bytes;
        memory.read(at, &mut entry[..bytes as usize]).map_err(|_| BadPointer)?;
        let entry = u64::from_le_bytes(entry);
        if entry & 1 == 0 || rights && write && cr0 >> 16 & 1 == 1 && entry & 2 == 0 {
            return Err(BadPointer);
        }
        let large = can_be_large && entry >> 7 & 1 == 1 && (bytes == 8 || cr4 >> 4 & 1 == 1);
        let below = (1u64 << shift) - 1;
        let frame = match (bytes, large) {
            (4, true) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            (4, false) => entry & 0xffff_f000,
            _ => entry & 0x000f_ffff_ffff_f000,
        };
        if large || shift == 12 {
            return Ok(frame & !below | address & below);
        }
        base = frame;
    }
    Err(BadPointer)
}
