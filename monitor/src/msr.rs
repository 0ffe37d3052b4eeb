//! Model-specific registers: those that a kernel needs, and #GP for the rest, which it takes as "not there".

use protocol::vm::word;

use crate::apic::{self, Apic, Fault, Ipi};
use crate::cpuid::XEN_MSR_HYPERCALL;
use crate::state::{CR0_PAGING, EFER_LONG_ACTIVE, EFER_LONG_ENABLED, PAT_RESET, State, StateExt};

/// IA32_APIC_BASE: where it is, enabled; in x2APIC mode; and whether this is the first CPU.
const APIC_BASE: u64 = crate::mmio::APIC | 1 << 11;
const APIC_BASE_X2: u64 = 1 << 10;
const APIC_BASE_FIRST: u64 = 1 << 8;
/// MTRRcap: write-combining exists, no variable and no fixed ranges.
const MTRR_CAPABILITIES: u64 = 1 << 10;
/// MTRRdefType: enabled, everything write-back. Nested paging ignores it, but without it kernels make no use of PAT.
const MTRR_DEFAULT: u64 = 1 << 11 | 6;
/// IA32_MISC_ENABLE, which kernels read on Intel's processors before they can take a fault: fast string instructions.
const MISC_ENABLE: u64 = 1;
/// HWCR: the TSC counts at the rate of P0.
const HWCR: u64 = 1 << 24;
/// DE_CFG: LFENCE serialises.
const DE_CFG: u64 = 1 << 1;
/// EFER: SYSCALL, long mode, no-execute, fast FXSAVE.
pub(crate) const EFER_WRITABLE: u64 = 1 | EFER_LONG_ENABLED | 1 << 11 | 1 << 14;

/// What WRMSR does beside changing a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// An inter-processor interrupt.
    Ipi(Ipi),
    /// Fill the page at this address with the entries of hypercalls.
    HypercallPage(u64),
}

/// The word of the state that holds a register, if it is one of those that are there as they are.
fn plain(msr: u32) -> Option<usize> {
    use protocol::vm::segment::{FS, GS};
    Some(match msr {
        0x174 => word::SYSENTER_CS,
        0x175 => word::SYSENTER_ESP,
        0x176 => word::SYSENTER_EIP,
        0xc000_0081 => word::STAR,
        0xc000_0082 => word::LSTAR,
        0xc000_0083 => word::CSTAR,
        0xc000_0084 => word::SFMASK,
        0xc000_0100 => word::SEGMENTS + 2 * FS + 1,
        0xc000_0101 => word::SEGMENTS + 2 * GS + 1,
        0xc000_0102 => word::KERNEL_GS_BASE,
        _ => return None,
    })
}

fn apic_base(apic: &Apic, vcpu: u32) -> u64 {
    APIC_BASE | if apic.in_memory { 0 } else { APIC_BASE_X2 } | if vcpu == 0 { APIC_BASE_FIRST } else { 0 }
}

/// RDMSR.
pub fn read(state: &impl State, apic: &Apic, vcpu: u32, msr: u32) -> Result<u64, Fault> {
    if let Some(word) = plain(msr) {
        return Ok(state.get(word));
    }
    Ok(match msr {
        apic::FIRST..apic::END if !apic.in_memory => apic.read(msr)?,
        0x10 => unikernel::time::ticks().wrapping_add(state.get(word::TSC_OFFSET)),
        0x1b => apic_base(apic, vcpu),
        0xfe => MTRR_CAPABILITIES,
        0x2ff => MTRR_DEFAULT,
        0x1a0 => MISC_ENABLE,
        0x277 => state.get(word::PAT),
        0xc000_0080 => state.get(word::EFER),
        // Microcode level, SYSCFG, DEBUGCTL, no messages of a chipset's; a guest that reads it back learns nothing of its
        // hypercall page.
        0x8b | 0xc001_0010 | 0xc001_0055 | 0x1d9 | XEN_MSR_HYPERCALL => 0,
        0xc001_0015 => HWCR,
        0xc001_1029 => DE_CFG,
        _ => return Err(Fault),
    })
}

/// WRMSR.
pub fn write(state: &impl State, apic: &mut Apic, vcpu: u32, msr: u32, value: u64) -> Result<Effect, Fault> {
    if let Some(word) = plain(msr) {
        // Addresses have to be canonical; the others do not mind.
        let is_address = !matches!(msr, 0x174 | 0xc000_0081 | 0xc000_0084);
        if is_address && ((value << 16) as i64 >> 16) as u64 != value {
            return Err(Fault);
        }
        state.set_system(word, value);
        return Ok(Effect::None);
    }
    match msr {
        apic::FIRST..apic::END if !apic.in_memory => {
            return Ok(apic.write(msr, value)?.map_or(Effect::None, Effect::Ipi));
        }
        // x2APIC mode can be switched on, for good.
        0x1b if value | APIC_BASE_X2 == apic_base(apic, vcpu) | APIC_BASE_X2
            && (apic.in_memory || value & APIC_BASE_X2 != 0) =>
        {
            apic.in_memory = value & APIC_BASE_X2 == 0;
        }
        0x277 if value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) => {
            state.set_system(word::PAT, value)
        }
        0xc000_0080 => {
            let old = state.get(word::EFER);
            let paging = state.get(word::CR0) & CR0_PAGING != 0;
            let new = value & EFER_WRITABLE | old & EFER_LONG_ACTIVE;
            if value & !(EFER_WRITABLE | EFER_LONG_ACTIVE) != 0 || paging && (old ^ new) & EFER_LONG_ENABLED != 0 {
                return Err(Fault);
            }
            state.set_system(word::EFER, new);
        }
        XEN_MSR_HYPERCALL => return Ok(Effect::HypercallPage(value)),
        // Kernels disable and enable them while they change others.
        0x2ff if value & !0xcff == 0 => {}
        0x1d9 if value == 0 => {}
        // The counter is the machine's; HWCR and DE_CFG are as they are; microcode is not the guest's.
        0x10 | 0x8b | 0x79 | 0xc001_0020 | 0xc001_0015 | 0xc001_1029 => {}
        _ => return Err(Fault),
    }
    Ok(Effect::None)
}

/// Bytes of an entry in a hypercall page.
const ENTRY: usize = 32;
/// Number of a hypercall that no guest here can make.
const IRET: usize = 23;

/// The page of entries, one for each hypercall: `mov eax, n; vmmcall; ret`. The core takes VMMCALL and VMCALL alike.
pub fn hypercall_page(amd: bool) -> [u8; 4096] {
    let mut page = [0xcc; 4096];
    for (number, entry) in page.chunks_exact_mut(ENTRY).enumerate() {
        let code = [0xb8, number as u8, 0, 0, 0, 0x0f, 0x01, if amd { 0xd9 } else { 0xc1 }, 0xc3];
        // `iret` is one of paravirtual guests only: UD2.
        let code: &[u8] = if number == IRET { &[0x0f, 0x0b] } else { &code };
        entry[..code.len()].copy_from_slice(code);
    }
    page
}

const _: () = assert!(PAT_RESET == 0x0007_0406_0007_0406);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Page;
    use proptest::prelude::*;

    #[test]
    fn efer_keeps_what_the_processor_decides() {
        let (state, mut apic) = (Page::default(), Apic::new(0));
        let write = |state: &Page, apic: &mut Apic, value| write(state, apic, 0, 0xc000_0080, value);
        assert_eq!(write(&state, &mut apic, EFER_LONG_ENABLED), Ok(Effect::None));
        assert_eq!(state.get(word::EFER), EFER_LONG_ENABLED);
        state.set(word::CR0, CR0_PAGING | 1);
        state.set(word::EFER, EFER_LONG_ENABLED | EFER_LONG_ACTIVE);
        assert_eq!(write(&state, &mut apic, EFER_LONG_ENABLED | EFER_LONG_ACTIVE | 1 << 11), Ok(Effect::None));
        assert_eq!(state.get(word::EFER), EFER_LONG_ENABLED | EFER_LONG_ACTIVE | 1 << 11);
        assert_eq!(write(&state, &mut apic, 1), Err(Fault), "long mode cannot end while paging is on");
        assert_eq!(write(&state, &mut apic, 1 << 12 | EFER_LONG_ENABLED), Err(Fault), "no SVM");
    }

    #[test]
    fn what_is_there_reads_back_and_the_rest_is_not_there() {
        let (state, mut apic) = (Page::default(), Apic::new(1));
        assert_eq!(read(&state, &apic, 0, 0x1b), Ok(0xfee0_0d00));
        assert_eq!(read(&state, &apic, 1, 0x1b), Ok(0xfee0_0c00));
        assert_eq!(write(&state, &mut apic, 1, 0x1b, 0xfee0_0800), Err(Fault));
        // An APIC whose registers are in memory has no MSRs until x2APIC mode is switched on, for good.
        apic.in_memory = true;
        assert_eq!((read(&state, &apic, 1, 0x1b), read(&state, &apic, 1, 0x802)), (Ok(0xfee0_0800), Err(Fault)));
        assert_eq!(write(&state, &mut apic, 1, 0x1b, 0), Err(Fault));
        assert_eq!(write(&state, &mut apic, 1, 0x1b, 0xfee0_0c00), Ok(Effect::None));
        assert_eq!(read(&state, &apic, 1, 0x802), Ok(1));
        assert_eq!(write(&state, &mut apic, 1, 0x1b, 0xfee0_0800), Err(Fault));
        write(&state, &mut apic, 1, 0xc000_0101, 0xffff_8000_0000_1000).unwrap();
        assert_eq!(read(&state, &apic, 1, 0xc000_0101), Ok(0xffff_8000_0000_1000));
        assert_eq!(write(&state, &mut apic, 1, 0xc000_0101, 0x8000_0000_0000_0000), Err(Fault));
        assert_eq!(write(&state, &mut apic, 1, 0x277, 0x0808), Err(Fault));
        for absent in [0x3a, 0x48, 0x49, 0x17, 0xda0, 0xc000_0103, 0xc001_0117, 0x200, 0xffff_ffff] {
            assert_eq!(read(&state, &apic, 1, absent), Err(Fault), "{absent:#x}");
            assert_eq!(write(&state, &mut apic, 1, absent, 0), Err(Fault), "{absent:#x}");
        }
        assert_eq!(write(&state, &mut apic, 1, XEN_MSR_HYPERCALL, 0x5000), Ok(Effect::HypercallPage(0x5000)));
        assert_eq!(hypercall_page(false)[23 * 32..23 * 32 + 3], [0x0f, 0x0b, 0xcc]);
        assert_eq!(hypercall_page(true)[17 * 32..17 * 32 + 9], [0xb8, 17, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
    }

    proptest! {
        /// No write makes a state that differs where a guest may not reach, and none panics.
        #[test]
        fn any_write_is_survived(msr in prop_oneof![any::<u32>(), 0u32..0x1000, 0xc000_0080u32..0xc000_0104], value: u64) {
            let (state, mut apic) = (Page::default(), Apic::new(0));
            let _ = write(&state, &mut apic, 0, msr, value);
            let _ = read(&state, &apic, 0, msr);
            prop_assert_eq!(state.get(word::EFER) & 1 << 12, 0);
            prop_assert_eq!(state.get(word::TSC_OFFSET), 0);
        }
    }
}
