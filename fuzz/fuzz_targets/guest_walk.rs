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

/// The walk by the book, from the top: `levels` below this one.
fn walk(memory: &GuestMemory, state: &impl State, address: u64, write: bool) -> Result<u64, BadPointer> {
    let (cr0, mut base) = (state.get(word::CR0), state.get(word::CR3));
    if cr0 >> 31 & 1 == 0 {
        return Ok(address);
    }
    if !matches!(address >> 47, 0 | 0x1_ffff) {
        return Err(BadPointer);
    }
    for shift in [39, 30, 21, 12] {
        let entry =
            memory.load_u64((base & 0x000f_ffff_ffff_f000) + (address >> shift) % 512 * 8).map_err(|_| BadPointer)?;
        if entry & 1 == 0 || write && cr0 >> 16 & 1 == 1 && entry & 2 == 0 {
            return Err(BadPointer);
        }
        let large = entry >> 7 & 1 == 1 && matches!(shift, 21 | 30);
        if large || shift == 12 {
            let below = (1u64 << shift) - 1;
            return Ok(entry & 0x000f_ffff_ffff_f000 & !below | address & below);
        }
        base = entry;
    }
    Err(BadPointer)
}
