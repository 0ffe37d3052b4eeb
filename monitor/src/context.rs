//! The state in which a guest wants a further vCPU to begin (Xen `public/hvm/hvm_vcpu.h`), for guests that start theirs by a
//! hypercall instead of INIT and a start-up IPI.

use protocol::vm::{segment, word};

use crate::msr;
use crate::state::{CR0_PAGING, EFER_LONG_ACTIVE, EFER_LONG_ENABLED, State, StateExt, reset};

/// Bytes of the structure.
const SIZE: usize = 128;
/// Mode: 32-bit code, or 64-bit code.
const MODE_32: u32 = 0;
const MODE_64: u32 = 1;
/// General registers in the order of the structure.
const ORDER: [usize; 8] = [0, 2, 3, 1, 7, 6, 4, 5];

/// A segment: base, limit, attributes.
type Segment = (u32, u32, u16);

/// Such a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// In the order of the structure: rax rcx rdx rbx rsp rbp rsi rdi.
    general: [u64; 8],
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// CS, DS, SS, ES and TR.
    segments: [Segment; 5],
}

/// Attributes of segments: code of 64 bits, flat data, a busy task.
const CODE_64: u16 = 0xa9b;
const DATA: u16 = 0xc93;
const TASK: u16 = 0x8b;

impl Context {
    /// From the structure, unless it asks for what a guest does not have.
    pub fn parse(bytes: &[u8; SIZE]) -> Option<Context> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let wide = match u32_at(0) {
            MODE_32 => false,
            MODE_64 => true,
            _ => return None,
        };
        let field = |index: usize| if wide { u64_at(8 + 8 * index) } else { u32_at(8 + 4 * index).into() };
        let segment = |index: usize| (u32_at(72 + 4 * index), u32_at(92 + 4 * index), u16_at(112 + 2 * index));
        let flat = |attributes| (0, u32::MAX, attributes);
        let context = Context {
            general: core::array::from_fn(field),
            rip: field(8),
            rflags: field(9),
            cr0: field(10),
            cr3: field(11),
            cr4: field(12),
            efer: if wide { field(13) } else { u64_at(64) },
            segments: match wide {
                true => [flat(CODE_64), flat(DATA), flat(DATA), flat(DATA), (0, 0x67, TASK)],
                false => core::array::from_fn(segment),
            },
        };
        context.is_valid(wide).then_some(context)
    }

    /// Whether a processor of the guest can be in this state.
    fn is_valid(&self, long: bool) -> bool {
        let (paging, active) = (self.cr0 & CR0_PAGING != 0, self.efer & EFER_LONG_ACTIVE != 0);
        let consistent = active == (paging && self.efer & EFER_LONG_ENABLED != 0);
        let virtual_8086 = self.rflags & 1 << 17;
        self.efer & !(msr::EFER_WRITABLE | EFER_LONG_ACTIVE) == 0
            && consistent
            && active >= long
            && self.cr0 >> 32 == 0
            && self.cr4 >> 32 == 0
            && virtual_8086 == 0
            && self.segments.iter().all(|(_, _, attributes)| attributes >> 12 == 0)
    }

    /// Puts a vCPU into it.
    pub fn enter(&self, state: &impl State) {
        reset(state);
        for (index, value) in ORDER.into_iter().zip(self.general) {
            state.set_register(index, value);
        }
        // Bit 1 is always set.
        for (word, value) in [
            (word::RIP, self.rip),
            (word::RFLAGS, self.rflags | 2),
            (word::CR0, self.cr0),
            (word::CR3, self.cr3),
            (word::CR4, self.cr4),
            (word::EFER, self.efer),
        ] {
            state.set(word, value);
        }
        let places = [segment::CS, segment::DS, segment::SS, segment::ES, segment::TR];
        for (index, (base, limit, attributes)) in places.into_iter().zip(self.segments) {
            state.set_segment(index, 0, attributes, limit, base.into());
        }
        for index in [segment::FS, segment::GS] {
            state.set_segment(index, 0, DATA, u32::MAX, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Page;

    fn put(bytes: &mut [u8; SIZE], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_vcpu_begins_as_it_is_told() {
        let mut bytes = [0; SIZE];
        bytes[0] = 1;
        (0..8).for_each(|index| put(&mut bytes, 8 + 8 * index, 0x100 + index as u64));
        for (index, value) in [(8, 0x4000), (9, 0), (10, CR0_PAGING | 1), (11, 0x1000), (12, 0x20), (13, 0x500)] {
            put(&mut bytes, 8 + 8 * index, value);
        }
        let state = Page::default();
        Context::parse(&bytes).unwrap().enter(&state);
        // rax rbx rcx rdx rsi rdi rbp rsp.
        let registers = [0, 3, 1, 2, 6, 7, 5, 4].map(|index| 0x100 + index);
        assert_eq!(core::array::from_fn::<u64, 8, _>(|index| state.register(index)), registers);
        assert_eq!((state.get(word::RIP), state.get(word::RFLAGS), state.get(word::CR3)), (0x4000, 2, 0x1000));
        assert!(state.is_64_bit() && state.privilege() == 0);
        put(&mut bytes, 8 + 8 * 13, 0x1500);
        assert_eq!(Context::parse(&bytes), None, "no virtualisation");
        put(&mut bytes, 8 + 8 * 13, 0);
        assert_eq!(Context::parse(&bytes), None, "not in long mode");
        bytes[0] = 2;
        assert_eq!(Context::parse(&bytes), None);
    }

    #[test]
    fn segments_of_32_bits_are_as_they_are_given() {
        let mut bytes = [0; SIZE];
        bytes[8 + 32..8 + 36].copy_from_slice(&0x10_0000u32.to_le_bytes());
        bytes[8 + 40] = 1;
        bytes[72..76].copy_from_slice(&0x5000u32.to_le_bytes());
        bytes[92..112].fill(0xff);
        for at in 0..5 {
            bytes[112 + 2 * at..114 + 2 * at].copy_from_slice(&if at == 0 { 0xc9b } else { DATA }.to_le_bytes());
        }
        let state = Page::default();
        Context::parse(&bytes).unwrap().enter(&state);
        assert_eq!((state.get(word::RIP), state.get(word::CR0)), (0x10_0000, 1));
        let code = word::SEGMENTS + 2 * segment::CS;
        assert_eq!((state.get(code), state.get(code + 1)), (segment::pack(0, 0xc9b, u32::MAX), 0x5000));
        bytes[115] |= 0x10;
        assert_eq!(Context::parse(&bytes), None, "attributes have 12 bits");
    }
}
