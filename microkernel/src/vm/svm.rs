//! SVM: the state page and the VMCB that the processor runs a guest from, word by word.
//!
//! AMD64 APM vol. 2: chapter 15, layout in appendix B. Words go from memory to memory; nobody but the core and the processor
//! reaches a VMCB. What the core relies on - nested paging, the intercepts, SVME - is not among what a monitor can write.
//!
//! Where there is no SVM the VMCB is all the same what the core keeps a guest in: [`super::vmx`] has its content from it.

use protocol::vm::{Exit, access, control, event, word};

use super::Guest;
use crate::platform::reg;
use crate::prelude::*;

// Control area.
/// Exceptions (bits 0..32), and instructions and interrupts (bits 32..), that exit.
pub const INTERCEPTS: usize = 0x08;
const INTERCEPTS_2: usize = 0x10;
/// Physical address of the map of I/O ports that exit: all.
pub const PORT_MAP: usize = 0x40;
/// Physical address of the map of MSRs that exit.
pub const MSR_MAP: usize = 0x48;
const TSC_OFFSET: usize = 0x50;
/// Address space number (bits 0..32) and what to flush (bits 32..).
pub const ASID: usize = 0x58;
/// The interrupt that waits for the guest: task priority (bits 0..8), V_IRQ (8), how it is ranked, vector (32..40).
pub const VIRTUAL_INTERRUPT: usize = 0x60;
pub(super) const SHADOW: usize = 0x68;
/// Why the guest is not running any more.
pub const EXIT_CODE: usize = 0x70;
pub(super) const EXIT_INFO: [usize; 2] = [0x78, 0x80];
/// The event that the exit cut short.
pub const EXIT_EVENT: usize = 0x88;
const NESTED_PAGING: usize = 0x90;
/// The event to deliver first.
pub const INJECT: usize = 0xa8;
pub(super) const NESTED_ROOT: usize = 0xb0;
const NEXT_RIP: usize = 0xc8;
/// In the part that belongs to software: XCR0 of the guest.
pub const XCR0: usize = 0x3e0;
/// There too: not 0 if words from [`word::SYSTEM`] on were taken since the guest ran.
pub const CHANGED: usize = 0x3e8;

// State save area.
const SAVE: usize = 0x400;
const SS: usize = SAVE + 0x20;
/// The byte with the privilege level is the fourth of this word.
pub(super) const CPL: usize = SAVE + 0xc8;
const EFER: usize = SAVE + 0xd0;
pub(super) const RFLAGS: usize = SAVE + 0x170;
pub(super) const RIP: usize = SAVE + 0x178;
pub(super) const RSP: usize = SAVE + 0x1d8;
/// RAX, which the processor takes from here.
pub const RAX: usize = SAVE + 0x1f8;

/// Where the words of the state page from [`word::SYSTEM`] on lie, in their order.
#[rustfmt::skip]
const SYSTEM: [usize; word::SYSTEM_END - word::SYSTEM] = [
    // CR0, CR2, CR3, CR4, EFER, DR6, DR7, PAT
    SAVE + 0x158, SAVE + 0x240, SAVE + 0x150, SAVE + 0x148, EFER, SAVE + 0x168, SAVE + 0x160, SAVE + 0x268,
    // STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP
    SAVE + 0x200, SAVE + 0x208, SAVE + 0x210, SAVE + 0x218, SAVE + 0x220, SAVE + 0x228, SAVE + 0x230, SAVE + 0x238,
    XCR0, TSC_OFFSET,
    // es cs ss ds fs gs
    SAVE, SAVE + 0x8, SAVE + 0x10, SAVE + 0x18, SS, SS + 8, SAVE + 0x30, SAVE + 0x38, SAVE + 0x40, SAVE + 0x48,
    SAVE + 0x50, SAVE + 0x58,
    // ldtr tr gdtr idtr
    SAVE + 0x70, SAVE + 0x78, SAVE + 0x90, SAVE + 0x98, SAVE + 0x60, SAVE + 0x68, SAVE + 0x80, SAVE + 0x88,
];

/// Where such a word lies.
pub const fn place(word: usize) -> usize {
    SYSTEM[word - word::SYSTEM]
}

/// In EFER: SVM is on. A guest never sees it.
pub(super) const SVME: u64 = 1 << 12;
/// In attributes, in the first word of a segment: the privilege level.
pub(super) const DPL_SHIFT: u32 = 16 + 5;

/// Exceptions that exit, because their delivery can raise them again for ever: debug and alignment check.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17;
/// INTR, NMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR, SHUTDOWN.
const BASE: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 24 | 0b111 << 26 | 1 << 31;
pub(super) const WINDOW: u64 = 1 << 4;
/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD, MONITOR, MWAIT (both), XSETBV.
const MORE: u64 = 0x7f | 0b1_1111 << 9;
/// The guest's interrupt flag masks its own interrupts only.
const MASKING: u64 = 1 << 24;
/// An interrupt of the highest priority is pending, whatever the guest's task priority.
const PENDING: u64 = V_IRQ | 0xf << 16 | 1 << 20;
const V_IRQ: u64 = 1 << 8;
/// In an event: kind and validity.
const KIND: u64 = event::VALID | 7 << 8;

/// Exit codes that are the core's alone: a physical interrupt, an NMI.
pub const EXIT_INTERRUPT: u64 = 0x60;
const EXIT_DEBUG: u64 = 0x41;
const EXIT_ALIGNMENT: u64 = 0x51;

/// Makes a zeroed VMCB one that only misses the guest's state.
pub fn prepare(m: &impl Memory, vmcb: Phys, root: Frame) {
    let set = |offset, value| m.store(Phys(vmcb.0 + offset as u64), value);
    set(INTERCEPTS_2, MORE);
    set(NESTED_PAGING, 1);
    set(NESTED_ROOT, root.at(0).0);
    set(EFER, SVME);
}

/// What is injected, and the word of the virtual interrupt, for what was to be injected. An interrupt becomes one that waits for
/// the guest, unless that it can take one is to end its run. QEMU's software emulation delivers an injected interrupt once more when
/// its CPU is next asked to stop, whatever the guest's interrupt flag says: `helper_vmrun` leaves it in `exception_index`
/// (`target/i386/tcg/sysemu/svm_helper.c`). A processor does the same for both.
pub const fn offer(inject: u64, intercepts: u64, interrupt: u64) -> (u64, u64) {
    if inject & KIND == event::VALID | event::INTERRUPT && intercepts >> 32 & WINDOW == 0 {
        (0, interrupt & 0xff | MASKING | PENDING | (inject & 0xff) << 32)
    } else {
        (inject, interrupt)
    }
}

/// Takes the state of a guest from its page; `context` has its general registers.
pub fn load(m: &impl Memory, guest: &Guest, context: Frame) {
    let get = |word| m.load(guest.word(word));
    let set = |offset, value| m.store(guest.vmcb(offset), value);
    for register in 0..16 {
        m.store(context.at(register * 8), get(word::GENERAL + register));
    }
    set(RAX, m.load(context.at(reg::RAX * 8)));
    set(RSP, m.load(context.at(reg::RSP * 8)));
    set(RIP, get(word::RIP));
    set(RFLAGS, get(word::RFLAGS));
    let wanted = get(word::CONTROL);
    if wanted & control::LOAD != 0 {
        load_system(m, guest);
    }
    let (window, pending) = if wanted & control::WINDOW != 0 { (WINDOW, PENDING) } else { (0, 0) };
    set(INTERCEPTS, EXCEPTIONS | (BASE | window) << 32);
    // Bits 0..8 are the guest's task priority.
    set(VIRTUAL_INTERRUPT, m.load(guest.vmcb(VIRTUAL_INTERRUPT)) & 0xff | MASKING | pending);
    set(SHADOW, (wanted & control::SHADOW != 0).into());
    set(INJECT, get(word::INJECT));
    m.store(guest.word(word::INJECT), 0);
}

fn load_system(m: &impl Memory, guest: &Guest) {
    for (word, &place) in (word::SYSTEM..).zip(&SYSTEM) {
        m.store(guest.vmcb(place), m.load(guest.word(word)));
    }
    m.store(guest.vmcb(EFER), m.load(guest.vmcb(EFER)) | SVME);
    m.store(guest.vmcb(CHANGED), 1);
    let privilege = m.load(guest.vmcb(SS)) >> DPL_SHIFT & 3;
    m.store(guest.vmcb(CPL), privilege << 24);
}

/// Puts the state of a guest that exited into its page.
pub fn save(m: &impl Memory, guest: &Guest, context: Frame) {
    let get = |offset| m.load(guest.vmcb(offset));
    let set = |word, value| m.store(guest.word(word), value);
    for register in 0..16 {
        set(word::GENERAL + register, m.load(context.at(register * 8)));
    }
    set(word::GENERAL + reg::RAX, get(RAX));
    set(word::GENERAL + reg::RSP, get(RSP));
    set(word::RIP, get(RIP));
    set(word::RFLAGS, get(RFLAGS));
    m.store(guest.vmcb(SS), get(SS) & !(3 << DPL_SHIFT) | (get(CPL) >> 24 & 3) << DPL_SHIFT);
    // SVME is the core's matter; it is out of the way while everything is copied.
    m.store(guest.vmcb(EFER), get(EFER) & !SVME);
    for (word, &place) in (word::SYSTEM..).zip(&SYSTEM) {
        set(word, get(place));
    }
    m.store(guest.vmcb(EFER), get(EFER) | SVME);
    set(word::CONTROL, if get(SHADOW) & 1 != 0 { control::SHADOW } else { 0 });
    // What was to be injected, or was offered, and never was delivered is as pending as what an exit cut short.
    let offered = get(VIRTUAL_INTERRUPT);
    let waits = offered & V_IRQ != 0 && get(INTERCEPTS) >> 32 & WINDOW == 0;
    let waiting = if waits { event::interrupt((offered >> 32) as u8) } else { 0 };
    let pending = [named(get(EXIT_EVENT)), get(INJECT), waiting];
    [EXIT_EVENT, INJECT].into_iter().for_each(|place| m.store(guest.vmcb(place), 0));
    m.store(guest.vmcb(VIRTUAL_INTERRUPT), offered & (0xff | MASKING));
    set(word::PENDING, pending.into_iter().find(|event| event & event::VALID != 0).unwrap_or(0));
    set(word::NEXT_RIP, 0);
}

/// An event that was cut short, as a processor would name it: there are no exceptions from 32 on, but QEMU's software emulation says
/// so of an interrupt that waited for the guest.
const fn named(event: u64) -> u64 {
    if event & KIND == event::VALID | event::EXCEPTION && event & 0xff >= 32 {
        event & !(7 << 8) | event::INTERRUPT
    } else {
        event
    }
}

/// What a guest exited for, with its state and the details in its page; nothing if it is to go on.
pub fn exit(m: &impl Memory, guest: &Guest, context: Frame) -> Option<Exit> {
    let get = |offset| m.load(guest.vmcb(offset));
    let (code, info) = (get(EXIT_CODE), EXIT_INFO.map(get));
    if let EXIT_DEBUG | EXIT_ALIGNMENT = code {
        // It takes the exception as if it had not been intercepted.
        let error = (code == EXIT_ALIGNMENT).then_some(info[0] as u32);
        m.store(guest.vmcb(INJECT), event::exception((code - 0x40) as u8, error));
        m.store(guest.vmcb(EXIT_EVENT), 0);
        return None;
    }
    let mut next = get(NEXT_RIP);
    let (exit, details) = match code {
        0x64 => (Exit::Window, [0; 3]),
        0x72 => (Exit::Cpuid, [0; 3]),
        0x76 | 0x89 => (Exit::CacheFlush, [0; 3]),
        0x78 => (Exit::Halt, [0; 3]),
        0x7b => {
            next = info[1];
            // IN is bit 0, INS and REP bits 2 and 3, the size bits 4 to 6.
            let kind = (info[0] & 1) << 24 | (info[0] >> 2 & 3) << 25 | (info[0] >> 4 & 7) << 16;
            (Exit::Port, [info[0] >> 16 & 0xffff | kind, 0, 0])
        }
        0x7c if info[0] & 1 != 0 => (Exit::MsrWrite, [0; 3]),
        0x7c => (Exit::MsrRead, [0; 3]),
        0x7f => (Exit::Shutdown, [0; 3]),
        0x81 => (Exit::Hypercall, [0; 3]),
        0x6f | 0x7a | 0x80..=0x86 | 0x8a..=0x8c => (Exit::Forbidden, [code, 0, 0]),
        0x8d => (Exit::Xsetbv, [0; 3]),
        0x400 => {
            let bit = |from: u32, to| if info[0] >> from & 1 != 0 { to } else { 0 };
            let how = bit(0, access::PRESENT) | bit(1, access::WRITE) | bit(4, access::FETCH) | bit(33, access::WALK);
            (Exit::Memory, [info[1], how, 0])
        }
        // Negative: refused. The save area may then hold the core's own state, so it is not shown, and is replaced.
        _ if (code as i32) < 0 => (Exit::BadState, [code, 0, 0]),
        _ => (Exit::Other, [code, info[0], info[1]]),
    };
    report(m, guest, context, exit, next, details);
    Some(exit)
}

/// Puts the state of a guest that exited into its page, with the details and the address of the next instruction.
pub(super) fn report(m: &impl Memory, guest: &Guest, context: Frame, exit: Exit, next: u64, details: [u64; 3]) {
    let set = |word, value| m.store(guest.word(word), value);
    if exit == Exit::BadState {
        load_system(m, guest);
        [word::CONTROL, word::PENDING, word::NEXT_RIP].into_iter().for_each(|word| set(word, 0));
    } else {
        save(m, guest, context);
        set(word::NEXT_RIP, next);
    }
    (word::DETAIL..).zip(details).for_each(|(word, detail)| set(word, detail));
}

#[cfg(test)]
mod tests;
