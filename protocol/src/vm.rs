//! Virtual machines: the page through which a monitor and the core exchange the state of a virtual CPU.
//!
//! Each vCPU of a domain with a virtual machine has such a page at [`crate::layout::vm_state`]: words of 64 bits, numbered here.
//! [`crate::hypercall::Hypercall::VmRun`] takes the state from it, runs the guest until something happens that is the
//! monitor's matter, and leaves state and [`Exit`] there. The layouts of segments and events are those of the VMCB (AMD64 APM
//! vol. 2, appendix B and section 15.20), which SVM takes as they are and VMX takes with little change.
//!
//! The guest's memory is the monitor's: guest-physical address `g` is the monitor's address
//! [`crate::layout::GUEST_MEMORY`]` + g`, and what is populated there the guest can read, write and execute.

/// Words of the page.
pub mod word {
    /// 16 words: rax rbx rcx rdx rsi rdi rbp rsp r8..r15. Always taken.
    pub const GENERAL: usize = 0;
    /// Instruction pointer. Always taken.
    pub const RIP: usize = 16;
    /// RFLAGS. Always taken.
    pub const RFLAGS: usize = 17;
    /// [`super::control`] bits. Always taken.
    pub const CONTROL: usize = 18;
    /// An event to deliver first, as [`super::event`] packs it; 0 is none. Always taken, and 0 afterwards.
    pub const INJECT: usize = 19;

    /// First of the words that are taken with [`super::control::LOAD`] only.
    pub const SYSTEM: usize = 20;
    /// CR0.
    pub const CR0: usize = 20;
    /// CR2.
    pub const CR2: usize = 21;
    /// CR3.
    pub const CR3: usize = 22;
    /// CR4.
    pub const CR4: usize = 23;
    /// EFER, as the guest sees it.
    pub const EFER: usize = 24;
    /// DR6.
    pub const DR6: usize = 25;
    /// DR7.
    pub const DR7: usize = 26;
    /// IA32_PAT.
    pub const PAT: usize = 27;
    /// IA32_STAR.
    pub const STAR: usize = 28;
    /// IA32_LSTAR.
    pub const LSTAR: usize = 29;
    /// IA32_CSTAR.
    pub const CSTAR: usize = 30;
    /// IA32_FMASK.
    pub const SFMASK: usize = 31;
    /// IA32_KERNEL_GS_BASE.
    pub const KERNEL_GS_BASE: usize = 32;
    /// IA32_SYSENTER_CS.
    pub const SYSENTER_CS: usize = 33;
    /// IA32_SYSENTER_ESP.
    pub const SYSENTER_ESP: usize = 34;
    /// IA32_SYSENTER_EIP.
    pub const SYSENTER_EIP: usize = 35;
    /// XCR0.
    pub const XCR0: usize = 36;
    /// What the guest's time stamp counter is ahead of the machine's, wrapping.
    pub const TSC_OFFSET: usize = 37;
    /// 10 pairs of words: es cs ss ds fs gs ldtr tr gdtr idtr; see [`super::segment`]. FS_BASE and GS_BASE are in there.
    pub const SEGMENTS: usize = 38;
    /// One past the words of the state.
    pub const SYSTEM_END: usize = 58;

    /// Written by the core: [`super::Exit`] as a number.
    pub const EXIT: usize = 58;
    /// Written by the core: 4 words of detail, see [`super::Exit`].
    pub const DETAIL: usize = 59;
    /// Written by the core: the event whose delivery the exit cut short, as [`super::event`] packs it; 0 is none. It has to be
    /// injected again.
    pub const PENDING: usize = 63;
    /// Written by the core: address of the instruction after the one that caused the exit; 0 if the machine does not say.
    pub const NEXT_RIP: usize = 64;
    /// Words in use.
    pub const END: usize = 65;
}

/// Bits of [`word::CONTROL`].
pub mod control {
    /// In: the monitor changed words from [`super::word::SYSTEM`] on. Cleared by the core.
    pub const LOAD: u64 = 1 << 0;
    /// In: exit with [`super::Exit::Window`] as soon as the guest takes interrupts. Cleared by the core.
    pub const WINDOW: u64 = 1 << 1;
    /// In and out: the guest takes no interrupt before the next instruction is done (after STI or MOV SS).
    pub const SHADOW: u64 = 1 << 2;
}

/// Indexes in [`word::SEGMENTS`]. The first word of a pair is the selector (bits 0..16), the attributes (bits 16..28: bits
/// 40..48 and 52..56 of the descriptor, closed up) and the limit in bytes (bits 32..64); the second is the base.
pub mod segment {
    #![allow(missing_docs)]
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    pub const LDTR: usize = 6;
    pub const TR: usize = 7;
    pub const GDTR: usize = 8;
    pub const IDTR: usize = 9;

    /// The first word of a pair.
    pub const fn pack(selector: u16, attributes: u16, limit: u32) -> u64 {
        selector as u64 | (attributes as u64) << 16 | (limit as u64) << 32
    }
}

/// Events to inject: vector (bits 0..8), kind (bits 8..11), whether there is an error code (bit 11), validity (bit 31), and the
/// error code (bits 32..64).
pub mod event {
    /// Kind: an interrupt from outside.
    pub const INTERRUPT: u64 = 0 << 8;
    /// Kind: NMI; the vector is 2.
    pub const NMI: u64 = 2 << 8;
    /// Kind: an exception.
    pub const EXCEPTION: u64 = 3 << 8;
    /// There is an error code.
    pub const ERROR_CODE: u64 = 1 << 11;
    /// There is an event.
    pub const VALID: u64 = 1 << 31;

    /// An interrupt with this vector.
    pub const fn interrupt(vector: u8) -> u64 {
        VALID | INTERRUPT | vector as u64
    }

    /// An exception with this vector and, perhaps, error code.
    pub const fn exception(vector: u8, error: Option<u32>) -> u64 {
        let event = VALID | EXCEPTION | vector as u64;
        match error {
            Some(error) => event | ERROR_CODE | (error as u64) << 32,
            None => event,
        }
    }
}

/// In the first detail of [`Exit::Port`], beside the port (bits 0..16).
pub mod port {
    /// Mask and shift of the size in bytes: 1, 2 or 4.
    pub const SIZE_SHIFT: u32 = 16;
    /// IN; else OUT.
    pub const IN: u64 = 1 << 24;
    /// INS or OUTS.
    pub const STRING: u64 = 1 << 25;
    /// With a REP prefix.
    pub const REPEATED: u64 = 1 << 26;
}

/// In the second detail of [`Exit::Memory`].
pub mod access {
    /// The page is there, but not for this.
    pub const PRESENT: u64 = 1 << 0;
    /// It was written to.
    pub const WRITE: u64 = 1 << 1;
    /// An instruction was fetched from it.
    pub const FETCH: u64 = 1 << 2;
    /// The processor came there walking the guest's page tables.
    pub const WALK: u64 = 1 << 3;
}

macro_rules! exits {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal,)*) => {
        /// Why the guest is not running any more: also the result of [`crate::hypercall::Hypercall::VmRun`]. RIP is that of the
        /// instruction that caused it, which had no effect yet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Exit { $($(#[doc = $doc])* $name = $number,)* }

        impl Exit {
            /// The exit with this number.
            pub const fn from_number(number: u64) -> Option<Exit> {
                match number { $($number => Some(Exit::$name),)* _ => None }
            }
        }
    };
}

exits! {
    /// Something is pending in the event page for this vCPU.
    Event = 0,
    /// The deadline has passed.
    Deadline = 1,
    /// VMMCALL or VMCALL.
    Hypercall = 2,
    /// CPUID.
    Cpuid = 3,
    /// RDMSR.
    MsrRead = 4,
    /// WRMSR.
    MsrWrite = 5,
    /// IN, OUT, INS or OUTS; detail 0 is [`port`]'s.
    Port = 6,
    /// HLT.
    Halt = 7,
    /// Nothing is populated at guest-physical address detail 0; detail 1 are bits of [`access`].
    Memory = 8,
    /// The guest takes interrupts now, as [`control::WINDOW`] asked.
    Window = 9,
    /// Triple fault.
    Shutdown = 10,
    /// XSETBV.
    Xsetbv = 11,
    /// INVD or WBINVD: nothing to do.
    CacheFlush = 12,
    /// An instruction that a guest does not have (virtualisation, MONITOR, MWAIT, RDPMC, SKINIT): detail 0 is the processor's
    /// code for it.
    Forbidden = 13,
    /// The processor refuses the state: detail 0 is its code. The state is as the monitor left it.
    BadState = 14,
    /// Anything else: detail 0 is the processor's code, details 1 and 2 what it adds.
    Other = 15,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_overlap_and_fit_the_page() {
        const { assert!(word::SEGMENTS + 20 == word::SYSTEM_END && word::DETAIL + 4 == word::PENDING) };
        const { assert!(word::GENERAL + 16 == word::RIP && word::END * 8 <= crate::layout::PAGE_SIZE as usize) };
    }

    #[test]
    fn events_are_packed_as_the_processor_wants_them() {
        assert_eq!(event::interrupt(0xf3), 0x8000_00f3);
        assert_eq!(event::exception(6, None), 0x8000_0306);
        assert_eq!(event::exception(13, Some(0)), 0x8000_0b0d);
        assert_eq!(event::exception(14, Some(2)), 0x2_8000_0b0e);
    }
}
