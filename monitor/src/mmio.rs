//! The APIC's registers in memory, for guests that do not know x2APIC mode.
//!
//! An access is an exit at a place where no memory is. What is to be read or written says only the instruction, so it is fetched and
//! decoded: the few forms of MOV and XCHG that compilers make for a register in memory.

use protocol::vm::{segment, word};

use crate::guest::Guest;
use crate::state::{State, StateExt, register};
use crate::walk::Space;

/// Where the registers are.
pub const APIC: u64 = 0xfee0_0000;
/// Bytes of them.
pub const APIC_SIZE: u64 = 0x1000;
/// Longest instruction.
const LONGEST: usize = 15;

/// What an instruction does with the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Reads it into this general register.
    Read(usize),
    /// Writes this value.
    Write(u32),
    /// Writes what is in the general register, and reads into it.
    Exchange(usize),
}

/// Instruction bytes, taken one by one.
struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*first))
    }

    /// Skips what belongs to a ModRM byte that names memory; gives its register field.
    fn memory(&mut self) -> Option<usize> {
        let modrm = self.next()?;
        let (mode, mut base) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return None;
        }
        let mut displacement = [0, 1, 4][usize::from(mode)];
        if base == 4 {
            base = self.next()? & 7;
        }
        if mode == 0 && base == 5 {
            displacement = 4;
        }
        self.0 = self.0.get(displacement..)?;
        Some(usize::from(modrm >> 3 & 7))
    }
}

/// What an instruction does, and its length. `long`: it is 64-bit code.
fn decode(code: &[u8], long: bool, registers: impl Fn(usize) -> u64) -> Option<(Access, u64)> {
    let mut bytes = Bytes(code);
    let mut opcode = bytes.next()?;
    // Segments do not matter: the address is known.
    while matches!(opcode, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65) {
        opcode = bytes.next()?;
    }
    let mut extend = 0;
    if long && opcode & 0xf0 == 0x40 {
        // REX with W would be 8 bytes at once, which the APIC does not have.
        if opcode & 8 != 0 {
            return None;
        }
        extend = usize::from(opcode & 4) << 1;
        opcode = bytes.next()?;
    }
    let access = match opcode {
        0x87 => Access::Exchange(bytes.memory()? | extend),
        0x89 => Access::Write(registers(bytes.memory()? | extend) as u32),
        0x8b => Access::Read(bytes.memory()? | extend),
        // The accumulator; the address is in the instruction.
        0xa1 | 0xa3 => {
            bytes.0 = bytes.0.get(if long { 8 } else { 4 }..)?;
            match opcode {
                0xa1 => Access::Read(register::RAX),
                _ => Access::Write(registers(register::RAX) as u32),
            }
        }
        0xc7 if bytes.memory()? == 0 => Access::Write(bytes.u32()?),
        _ => return None,
    };
    Some((access, (code.len() - bytes.0.len()) as u64))
}

/// General registers in the order of instructions, as indexes of the state page's.
const ORDER: [usize; 16] = [0, 2, 3, 1, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// Carries out the access of a vCPU to this address. `false`: it is not one that can be.
pub fn access(guest: &mut Guest, state: &impl State, vcpu: u32, address: u64) -> bool {
    let base = if state.is_64_bit() { 0 } else { state.get(word::SEGMENTS + 2 * segment::CS + 1) };
    let start = base.wrapping_add(state.get(word::RIP));
    let mut code = [0; LONGEST];
    let space = Space::new(&guest.memory, state);
    // The last instruction of a page ends there.
    let fetched =
        (0..LONGEST).take_while(|&at| space.read(start.wrapping_add(at as u64), &mut code[at..=at]).is_ok()).count();
    let general = |index: usize| state.register(ORDER[index & 15]);
    let Some((access, length)) = decode(&code[..fetched], state.is_64_bit(), general) else { return false };
    let Some(this) = guest.vcpus.get_mut(vcpu as usize) else { return false };
    let offset = (address - APIC) as u32;
    let (read, write) = match access {
        Access::Read(register) => (Some(register), None),
        Access::Write(value) => (None, Some(value)),
        Access::Exchange(register) => (Some(register), Some(general(register) as u32)),
    };
    if let Some(index) = read {
        state.set_register(ORDER[index & 15], this.apic.load(offset).into());
    }
    let ipi = write.and_then(|value| this.apic.store(offset, value));
    if let Some(ipi) = ipi {
        guest.signal(vcpu, ipi);
    }
    state.skip(length);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AREA, FRAMES, Page, guest};
    use proptest::prelude::*;

    fn run(guest: &mut Guest, state: &Page, code: &[u8], offset: u64) -> u64 {
        Space::new(&guest.memory, state).write(AREA + 0xffc, code).unwrap();
        state.set(word::RIP, AREA + 0xffc);
        if access(guest, state, 0, APIC + offset) { state.get(word::RIP) - AREA - 0xffc } else { 0 }
    }

    #[test]
    fn registers_are_reached_by_every_form_that_compilers_make() {
        let (mut guest, state) = guest(2, FRAMES);
        let g = &mut guest;
        state.set(word::GENERAL + 9, 0x1ff);
        // mov [rip + 1], r9d; mov r9d, [rbx + rcx * 4 + 8]; mov dword [0xfee000f0], 0x10f; mov eax, fs:[moffs].
        assert_eq!(run(g, &state, &[0x44, 0x89, 0x0d, 1, 0, 0, 0], 0xf0), 7);
        assert_eq!(g.vcpus[0].apic.load(0xf0), 0x1ff);
        assert_eq!(run(g, &state, &[0x44, 0x8b, 0x4c, 0x8b, 8], 0x30), 5);
        assert_eq!(state.get(word::GENERAL + 9), 0x0005_0014);
        assert_eq!(run(g, &state, &[0xc7, 0x04, 0x25, 0xf0, 0, 0xe0, 0xfe, 0x0f, 1, 0, 0], 0xf0), 11);
        assert_eq!(run(g, &state, &[0x64, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0], 0xf0), 10);
        assert_eq!(state.register(register::RAX), 0x10f);
        state.set_register(register::RDX, 0x30);
        assert_eq!((run(g, &state, &[0x87, 0x12], 0x80), state.register(register::RDX)), (2, 0));
        assert_eq!(g.vcpus[0].apic.load(0x80), 0x30);
        // The other vCPU, by its physical number, in two halves.
        state.set_register(register::RAX, 1 << 24);
        assert_eq!(run(g, &state, &[0x89, 0x02], 0x310), 2);
        state.set_register(register::RAX, 0x69a);
        assert_eq!(run(g, &state, &[0x89, 0x02], 0x300), 2);
        assert_eq!(g.vcpus[1].activity, crate::guest::Activity::Startup(0x9a));
        // Addition, 8 bytes at once, a register instead of memory, and no bytes at all.
        for code in [&[0x01, 0x02][..], &[0x48, 0x8b, 0x02], &[0x89, 0xc2], &[0xc7, 0x08, 0, 0, 0, 0]] {
            assert_eq!(run(g, &state, code, 0xf0), 0, "{code:x?}");
        }
        state.set(word::RIP, 1 << 40);
        assert!(!access(g, &state, 0, APIC));
    }

    #[test]
    fn in_32_bits_there_are_no_prefixes_for_registers() {
        // inc eax is no prefix there; mov [0xfee000b0], eax.
        assert_eq!(decode(&[0x44, 0x89, 0x0d, 0, 0, 0, 0], false, |_| 7), None);
        assert_eq!(decode(&[0xa3, 0xb0, 0, 0xe0, 0xfe, 0x90], false, |_| 7), Some((Access::Write(7), 5)));
    }

    proptest! {
        /// Whatever lies where the instruction should be.
        #[test]
        fn any_code_is_survived(code in prop::collection::vec(any::<u8>(), 0..20), offset in 0u64..0x1000, long: bool) {
            let (mut guest, state) = guest(2, 0x110);
            let _ = decode(&code, long, |index| index as u64);
            let taken = run(&mut guest, &state, &code, offset);
            prop_assert!(taken <= LONGEST as u64);
        }
    }
}
