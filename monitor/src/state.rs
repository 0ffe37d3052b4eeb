//! The state of a virtual CPU, as the monitor reads and changes it between two runs.

use protocol::vm::{control, event, segment, word};
use unikernel::vm::VirtualCpu;

/// Words of a state page ([`protocol::vm`]): of the machine's, or of a test's.
pub trait State {
    /// Reads a word.
    fn get(&self, word: usize) -> u64;
    /// Writes one.
    fn set(&self, word: usize, value: u64);
}

impl State for VirtualCpu {
    fn get(&self, word: usize) -> u64 {
        VirtualCpu::get(self, word)
    }

    fn set(&self, word: usize, value: u64) {
        VirtualCpu::set(self, word, value);
    }
}

/// General registers, as indexes from [`word::GENERAL`].
pub mod register {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RBX: usize = 1;
    pub const RCX: usize = 2;
    pub const RDX: usize = 3;
    pub const RSI: usize = 4;
    pub const RDI: usize = 5;
    pub const R8: usize = 8;
    pub const R10: usize = 10;
}

/// RFLAGS: the guest takes interrupts.
pub const FLAG_INTERRUPTS: u64 = 1 << 9;
/// RFLAGS: bit 1 is always set.
pub const FLAGS_NONE: u64 = 2;
/// CR0: paging.
pub const CR0_PAGING: u64 = 1 << 31;
/// CR0: supervisors respect read-only pages.
pub const CR0_WRITE_PROTECT: u64 = 1 << 16;
/// CR4: pages of 4 MiB in tables of 32-bit entries.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4: entries of 64 bits.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: XSETBV and XSAVE are there.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER: long mode is enabled.
pub const EFER_LONG_ENABLED: u64 = 1 << 8;
/// EFER: long mode is active.
pub const EFER_LONG_ACTIVE: u64 = 1 << 10;
/// Vector of #UD.
const INVALID_OPCODE: u8 = 6;
/// Vector of #GP.
const GENERAL_PROTECTION: u8 = 13;

/// What can be done with a state.
pub trait StateExt: State {
    /// A general register.
    fn register(&self, index: usize) -> u64 {
        self.get(word::GENERAL + index)
    }

    /// Writes one.
    fn set_register(&self, index: usize, value: u64) {
        self.set(word::GENERAL + index, value);
    }

    /// EDX:EAX.
    fn edx_eax(&self) -> u64 {
        self.register(register::RDX) << 32 | self.register(register::RAX) & 0xffff_ffff
    }

    /// Goes to the instruction behind the one that caused the exit, which is `length` bytes long.
    fn skip(&self, length: u64) {
        self.set_rip(self.get(word::RIP).wrapping_add(length));
    }

    /// Goes on elsewhere: the instruction that caused the exit counts as done.
    fn set_rip(&self, address: u64) {
        self.set(word::RIP, address);
        self.set(word::CONTROL, self.get(word::CONTROL) & !control::SHADOW);
    }

    /// Changes one of the words that are taken with a flag only.
    fn set_system(&self, word: usize, value: u64) {
        self.set(word, value);
        self.set(word::CONTROL, self.get(word::CONTROL) | control::LOAD);
    }

    /// The instruction has no right to be there.
    fn inject_general_protection(&self) {
        self.set(word::INJECT, event::exception(GENERAL_PROTECTION, Some(0)));
    }

    /// There is no such instruction.
    fn inject_invalid_opcode(&self) {
        self.set(word::INJECT, event::exception(INVALID_OPCODE, None));
    }

    /// Whether the guest takes interrupts.
    fn interrupts_on(&self) -> bool {
        self.get(word::RFLAGS) & FLAG_INTERRUPTS != 0
    }

    /// Privilege level, 0 to 3.
    fn privilege(&self) -> u64 {
        // The DPL of SS, bits 5 and 6 of its attributes.
        self.get(word::SEGMENTS + 2 * segment::SS) >> 21 & 3
    }

    /// Whether 64-bit code runs.
    fn is_64_bit(&self) -> bool {
        // The L bit is bit 9 of the attributes of CS.
        let long = self.get(word::SEGMENTS + 2 * segment::CS) >> 25 & 1 == 1;
        self.get(word::EFER) & EFER_LONG_ACTIVE != 0 && long
    }

    /// Writes a segment.
    fn set_segment(&self, index: usize, selector: u16, attributes: u16, limit: u32, base: u64) {
        self.set_system(word::SEGMENTS + 2 * index, segment::pack(selector, attributes, limit));
        self.set_system(word::SEGMENTS + 2 * index + 1, base);
    }
}

impl<T: State + ?Sized> StateExt for T {}

/// Reset value of IA32_PAT.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// What is the same after every reset of a CPU.
pub(crate) fn reset(state: &impl State) {
    (word::GENERAL..=word::RIP).for_each(|word| state.set(word, 0));
    // TSC_OFFSET stays 0: the guest's counter is the machine's.
    (word::SYSTEM..word::SYSTEM_END).for_each(|word| state.set(word, 0));
    state.set(word::CONTROL, control::LOAD);
    [word::INJECT, word::PENDING].into_iter().for_each(|word| state.set(word, 0));
    state.set(word::RFLAGS, FLAGS_NONE);
    state.set(word::DR6, 0xffff_0ff0);
    state.set(word::DR7, 0x400);
    state.set(word::PAT, PAT_RESET);
    state.set(word::XCR0, 1);
    state.set_segment(segment::TR, 0, 0x08b, 0x67, 0);
    state.set_segment(segment::LDTR, 0, 0x082, 0, 0);
}

/// The state in which a kernel expects to be entered by its PVH entry point: 32-bit code, no paging.
pub fn enter_pvh(state: &impl State, entry: u32, start_info: u64) {
    reset(state);
    state.set(word::RIP, entry.into());
    state.set_register(register::RBX, start_info);
    state.set(word::CR0, 0x11);
    for index in [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS] {
        state.set_segment(index, 0, 0xc93, u32::MAX, 0);
    }
    state.set_segment(segment::CS, 0, 0xc9b, u32::MAX, 0);
}

/// The state after a start-up IPI: real mode, at the beginning of page `page`.
pub fn enter_startup(state: &impl State, page: u8) {
    reset(state);
    state.set(word::CR0, 0x6000_0010);
    for index in [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS] {
        state.set_segment(index, 0, 0x093, 0xffff, 0);
    }
    state.set_segment(segment::CS, u16::from(page) << 8, 0x09b, 0xffff, u64::from(page) << 12);
    state.set_segment(segment::GDTR, 0, 0, 0xffff, 0);
    state.set_segment(segment::IDTR, 0, 0, 0xffff, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Page;

    #[test]
    fn an_instruction_that_is_skipped_ends_the_shadow() {
        let page = Page::default();
        page.set(word::CONTROL, control::SHADOW);
        page.set(word::RIP, 0x1000);
        page.skip(3);
        assert_eq!((page.get(word::RIP), page.get(word::CONTROL)), (0x1003, 0));
    }

    #[test]
    fn kernels_start_at_the_highest_privilege_in_32_bits() {
        let page = Page::default();
        enter_pvh(&page, 0x100_0850, 0x6000);
        assert_eq!((page.get(word::RIP), page.register(register::RBX)), (0x100_0850, 0x6000));
        assert_eq!((page.privilege(), page.is_64_bit(), page.interrupts_on()), (0, false, false));
        assert_eq!(page.get(word::CONTROL), control::LOAD);
        enter_startup(&page, 0x9a);
        assert_eq!(page.get(word::SEGMENTS + 2 * segment::CS) & 0xffff, 0x9a00);
        assert_eq!(page.get(word::SEGMENTS + 2 * segment::CS + 1), 0x9_a000);
        assert_eq!(page.get(word::RIP), 0);
    }
}
