//! What CPUID tells the guest: the machine's own processor, less what a guest does not have, and that it runs on Xen.
//!
//! An allow-list: a leaf that is not named here is zero. Each vCPU is a package of its own, the simplest topology that is
//! consistent.

use protocol::vm::word;

use crate::state::{CR4_OSXSAVE, State, StateExt, register};

/// First leaf of the hypervisor.
pub const XEN: u32 = 0x4000_0000;
/// Last of them.
const XEN_LAST: u32 = XEN + 5;
/// The version of Xen that the ABI is that of: major (bits 16..) and minor.
pub const XEN_VERSION: u32 = 4 << 16 | 17;
/// MSR through which a guest has its hypercall page filled.
pub const XEN_MSR_HYPERCALL: u32 = 0x4000_0000;
/// In leaf 4: EBX is the vCPU's id, and ECX the domain's.
const XEN_HAS_IDS: u32 = 1 << 3 | 1 << 4;

/// Last standard leaf.
const STANDARD_LAST: u32 = 0xd;
/// First extended leaf, and the last one.
const EXTENDED: u32 = 0x8000_0000;
const EXTENDED_LAST: u32 = 0x8000_0021;

/// Leaf 1, ECX: SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND.
const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
/// Leaf 1, ECX: x2APIC, and a hypervisor is there.
const LEAF1_ECX_SET: u32 = 1 << 21 | 1 << 31;
/// Leaf 1, ECX: XSETBV is enabled.
const LEAF1_OSXSAVE: u32 = 1 << 27;
/// Leaf 1, EDX: FPU VME DE PSE TSC MSR PAE CX8 APIC SEP MTRR PGE CMOV PAT PSE36 CLFLUSH MMX FXSR SSE SSE2.
const LEAF1_EDX: u32 =
    0x7f | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 19 | 7 << 23 | 1 << 26;
/// Leaf 7, EBX: FSGSBASE BMI1 AVX2 FDP SMEP BMI2 ERMS INVPCID FCS RDSEED ADX SMAP CLFLUSHOPT CLWB SHA, and AVX-512.
const LEAF7_EBX: u32 = 1
    | 1 << 3
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 13
    | 1 << 16
    | 1 << 17
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 21
    | 1 << 23
    | 1 << 24
    | 1 << 28
    | 1 << 29
    | 1 << 30
    | 1 << 31;
/// Leaf 7, ECX: AVX-512 VBMI, UMIP, VBMI2, GFNI, VAES, VPCLMUL, VNNI, BITALG, VPOPCNT.
const LEAF7_ECX: u32 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
/// Leaf 7, EDX: fast short REP MOV, AVX-512 VP2INTERSECT, SERIALIZE.
const LEAF7_EDX: u32 = 1 << 4 | 1 << 8 | 1 << 14;
/// Leaf 0xd, subleaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX 1. No supervisor states.
const LEAFD_1_EAX: u32 = 1 | 1 << 1 | 1 << 2;
/// Components of XCR0 that a guest can enable: x87, SSE, AVX, AVX-512 (3).
pub const XCR0_ALLOWED: u64 = 0b1110_0111;
/// Leaf 0x80000001, ECX: LAHF, CR8 alias, ABM, SSE4A, misaligned SSE, 3DNow prefetch, XOP, FMA4, TBM.
const EXT1_ECX: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 16 | 1 << 21;
/// Leaf 0x80000001, EDX: those of leaf 1 that AMD repeats, and SYSCALL, NX, extended MMX, fast FXSR, 1 GiB pages, long mode.
const EXT1_EDX: u32 = 0x7f
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26
    | 1 << 29;
/// Leaf 0x80000007, EDX: invariant TSC.
const EXT7_EDX: u32 = 1 << 8;
/// Leaf 0x80000008, EBX: CLZERO, XSAVEERPTR, WBNOINVD.
const EXT8_EBX: u32 = 1 | 1 << 2 | 1 << 9;
/// Leaf 0x80000021, EAX: LFENCE serialises, null selectors clear the base.
const EXT21_EAX: u32 = 1 << 2 | 1 << 6;

/// EAX, EBX, ECX and EDX.
pub type Leaf = [u32; 4];

/// What of a vCPU CPUID depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Its id, which is also its APIC's.
    pub vcpu: u32,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
}

/// What a leaf says; `machine` is what it says on the machine itself.
pub fn leaf(leaf: u32, subleaf: u32, context: &Context, machine: impl Fn(u32, u32) -> Leaf) -> Leaf {
    if (XEN..=XEN + 0xff).contains(&leaf) {
        return xen(leaf, subleaf, context);
    }
    let [a, b, c, d] = machine(leaf, subleaf);
    match (leaf, subleaf) {
        (0, _) => [a.min(STANDARD_LAST), b, c, d],
        (1, _) => {
            let enabled = if context.cr4 & CR4_OSXSAVE != 0 { LEAF1_OSXSAVE } else { 0 };
            let ecx = c & LEAF1_ECX | LEAF1_ECX_SET | if c & 1 << 26 != 0 { enabled } else { 0 };
            [a, context.vcpu << 24 | 1 << 16 | b & 0xff00, ecx, d & LEAF1_EDX]
        }
        // Caches, as they are; what shares them is one CPU.
        (2, _) => [a, b, c, d],
        (4, _) => [a & 0x3fff, b, c, d],
        // Time runs in every power state.
        (6, _) => [1 << 2, 0, 0, 0],
        (7, 0) => [0, b & LEAF7_EBX, c & LEAF7_ECX, d & LEAF7_EDX],
        (0xd, 0) => [
            a & XCR0_ALLOWED as u32,
            saved_size(context.xcr0, &machine),
            saved_size(XCR0_ALLOWED & u64::from(a), &machine),
            0,
        ],
        (0xd, 1) => [a & LEAFD_1_EAX, 0, 0, 0],
        (0xd, component) if component < 64 && XCR0_ALLOWED >> component & 1 == 1 => [a, b, c, d],
        (EXTENDED, _) => [a.min(EXTENDED_LAST), b, c, d],
        (0x8000_0001, _) => [a, b, c & EXT1_ECX, d & EXT1_EDX],
        (0x8000_0002..=0x8000_0006, _) => [a, b, c, d],
        (0x8000_0007, _) => [0, 0, 0, d & EXT7_EDX],
        (0x8000_0008, _) => [a, b & EXT8_EBX, 0, 0],
        (0x8000_0021, _) => [a & EXT21_EAX, 0, 0, 0],
        _ => [0; 4],
    }
}

/// Bytes of the XSAVE area with these components: the legacy area and header, or the end of the highest component.
fn saved_size(components: u64, machine: &impl Fn(u32, u32) -> Leaf) -> u32 {
    let end = |component| {
        let [size, offset, ..] = machine(0xd, component);
        size.saturating_add(offset)
    };
    (2..64).filter(|component| components >> component & 1 == 1).map(end).fold(576, u32::max)
}

fn xen(leaf: u32, subleaf: u32, context: &Context) -> Leaf {
    match (leaf - XEN, subleaf) {
        (0, _) => [XEN_LAST, u32::from_le_bytes(*b"XenV"), u32::from_le_bytes(*b"MMXe"), u32::from_le_bytes(*b"nVMM")],
        (1, _) => [XEN_VERSION, 0, 0, 0],
        (2, _) => [1, XEN_MSR_HYPERCALL, 0, 0],
        // The TSC is the machine's, and is never emulated.
        (3, 0) => [1 << 1, 2, context.tsc_khz, 0],
        (3, 1) => {
            let (scale, shift) = crate::time::scale(u64::from(context.tsc_khz) * 1000);
            [0, 0, scale, shift as u8 as u32]
        }
        (3, 2) => [context.tsc_khz, 0, 0, 0],
        (4, 0) => [XEN_HAS_IDS, context.vcpu, crate::store::GUEST.into(), 0],
        _ => [0; 4],
    }
}

/// Carries the instruction out.
pub fn execute(state: &impl State, vcpu: u32, tsc_khz: u32) {
    let context = Context { vcpu, cr4: state.get(word::CR4), xcr0: state.get(word::XCR0), tsc_khz };
    let (number, subleaf) = (state.register(register::RAX) as u32, state.register(register::RCX) as u32);
    let [a, b, c, d] = leaf(number, subleaf, &context, unikernel::vm::cpuid);
    for (register, value) in [(register::RAX, a), (register::RBX, b), (register::RCX, c), (register::RDX, d)] {
        state.set_register(register, value.into());
    }
    state.skip(2);
}

/// Whether a guest may write this to XCR0: components of the machine that are allowed, x87 always, no component without those
/// it is built on.
pub fn xcr0_is_valid(value: u64, machine: impl Fn(u32, u32) -> Leaf) -> bool {
    let supported = u64::from(machine(0xd, 0)[0]) & XCR0_ALLOWED;
    let (avx, avx512) = (value >> 1 & 3, value >> 5 & 7);
    value & !supported == 0 && value & 1 == 1 && avx != 2 && (avx512 == 0 || avx512 == 7 && avx == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(_: u32, _: u32) -> Leaf {
        [u32::MAX; 4]
    }

    fn says(number: u32, context: &Context) -> Leaf {
        leaf(number, 0, context, everything)
    }

    #[test]
    fn what_a_guest_does_not_have_is_hidden() {
        let context = Context::default();
        let [_, _, c, d] = says(1, &context);
        for hidden in [2, 3, 5, 6, 7, 8, 15, 17, 18, 24, 27] {
            assert_eq!(c >> hidden & 1, 0, "leaf 1, ECX bit {hidden}");
        }
        for hidden in [7, 14, 21, 22, 28, 29, 31] {
            assert_eq!(d >> hidden & 1, 0, "leaf 1, EDX bit {hidden}");
        }
        let [_, b, c, d] = says(7, &context);
        assert!(
            b & (1 << 1 | 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25) == 0 && c & (1 << 16 | 1 << 5 | 1 << 30 | 1 << 22) == 0
        );
        assert_eq!(d >> 26, 0);
        let [_, _, c, d] = says(0x8000_0001, &context);
        assert!(
            c & (1 << 2 | 1 << 3 | 1 << 22 | 1 << 29) == 0 && d & 1 << 27 == 0,
            "RDTSCP has a register nobody switches"
        );
        for hidden in [
            3,
            5,
            8,
            9,
            0xa,
            0xb,
            0xe,
            0x10,
            0x14,
            0x1f,
            0x8000_000a,
            0x8000_001e,
            0x8000_001f,
            0x8000_0022,
            0xc000_0000,
        ] {
            assert_eq!(says(hidden, &context), [0; 4], "{hidden:#x}");
        }
    }

    #[test]
    fn a_vcpu_knows_itself_and_its_hypervisor() {
        let context = Context { vcpu: 3, cr4: CR4_OSXSAVE, xcr0: 7, tsc_khz: 2_000_000 };
        assert_eq!(says(1, &context)[1] >> 16, 3 << 8 | 1);
        assert_eq!(says(1, &context)[2] & (LEAF1_OSXSAVE | LEAF1_ECX_SET), LEAF1_OSXSAVE | LEAF1_ECX_SET);
        assert_eq!(leaf(1, 0, &context, |_, _| [0; 4])[2], LEAF1_ECX_SET);
        let xen = says(XEN, &context);
        assert!(xen[0] >= XEN + 4);
        assert_eq!(xen[1..].iter().flat_map(|word| word.to_le_bytes()).collect::<std::vec::Vec<_>>(), b"XenVMMXenVMM");
        assert_eq!(says(XEN + 4, &context)[1], 3);
        assert_eq!(leaf(XEN + 3, 1, &context, everything)[2..], [0x8000_0000, 0]);
    }

    #[test]
    fn the_size_of_saved_state_follows_what_is_enabled() {
        let machine = |leaf, subleaf| match (leaf, subleaf) {
            (0xd, 0) => [0x2e7, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0xd, 5..8) => [512, 1024 * subleaf, 0, 0],
            _ => [0; 4],
        };
        let size = |xcr0| leaf(0xd, 0, &Context { xcr0, ..Context::default() }, machine);
        assert_eq!(size(1), [0xe7, 576, 7 * 1024 + 512, 0]);
        assert_eq!(size(7)[1], 832);
        for (value, valid) in [
            (1, true),
            (3, true),
            (7, true),
            (0xe7, true),
            (0, false),
            (5, false),
            (0x27, false),
            (0xe3, false),
            (0x207, false),
            (u64::MAX, false),
        ] {
            assert_eq!(xcr0_is_valid(value, machine), valid, "{value:#x}");
        }
    }
}
