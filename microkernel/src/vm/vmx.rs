//! VMX: the VMCS that the processor runs a guest from, field by field.
//!
//! Intel SDM vol. 3: chapters "Virtual Machine Control Structures" to "VM Exits", encodings in appendix B. A VMCS is reached by
//! instructions only, on the one CPU where it is active. So the core keeps a guest in the same block of memory as with SVM, and
//! this carries it into the VMCS before the guest runs, and out of it when it has exited. What the core relies on is among
//! neither what a monitor can write nor what a guest can.
//!
//! Of the control registers some bits are not the guest's: it sees them as it wrote them, and what is in them is the core's.

use protocol::vm::{Exit, access, event, port, segment, word};

use super::Guest;
use super::svm::*;
use crate::platform::reg;
use crate::prelude::*;

/// The VMCS that is active on this CPU.
pub trait Vmcs {
    /// Reads a field.
    fn read(&self, field: u64) -> u64;
    /// Writes one.
    fn write(&self, field: u64, value: u64);
}

// Fields. Of those of a segment the first one's is named; the others follow in the order of the state page, 2 apart.
const SPACE: u64 = 0x0;
const SELECTORS: u64 = 0x800;
const MSR_MAP: u64 = 0x2004;
const EXIT_STORE: u64 = 0x2006;
const EXIT_LOAD: u64 = 0x2008;
const ENTRY_LOAD: u64 = 0x200a;
const TSC_OFFSET: u64 = 0x2010;
const VIRTUAL_APIC: u64 = 0x2012;
/// Root of the nested tables, with how they are walked.
pub const NESTED_TABLES: u64 = 0x201a;
const GUEST_PHYSICAL: u64 = 0x2400;
const LINK: u64 = 0x2800;
const DEBUG_CONTROL: u64 = 0x2802;
const PAT: u64 = 0x2804;
const EFER: u64 = 0x2806;
const PIN: u64 = 0x4000;
const PRIMARY: u64 = 0x4002;
const EXCEPTIONS: u64 = 0x4004;
const EXIT_CONTROLS: u64 = 0x400c;
const EXIT_STORE_COUNT: u64 = 0x400e;
const EXIT_LOAD_COUNT: u64 = 0x4010;
const ENTRY_CONTROLS: u64 = 0x4012;
const ENTRY_LOAD_COUNT: u64 = 0x4014;
const ENTRY_EVENT: u64 = 0x4016;
const ENTRY_ERROR: u64 = 0x4018;
const SECONDARY: u64 = 0x401e;
/// Why an instruction of VMX failed.
pub const INSTRUCTION_ERROR: u64 = 0x4400;
/// Why the guest is not running any more.
pub const REASON: u64 = 0x4402;
/// The exception or NMI that it exited for.
pub const EXCEPTION: u64 = 0x4404;
const EXCEPTION_ERROR: u64 = 0x4406;
const CUT_SHORT: u64 = 0x4408;
const CUT_SHORT_ERROR: u64 = 0x440a;
const LENGTH: u64 = 0x440c;
const LIMITS: u64 = 0x4800;
const RIGHTS: u64 = 0x4814;
const INTERRUPTIBILITY: u64 = 0x4824;
const ACTIVITY: u64 = 0x4826;
const SYSENTER_CS: u64 = 0x482a;
const CR0_MASK: u64 = 0x6000;
const CR4_MASK: u64 = 0x6002;
const CR0_SHADOW: u64 = 0x6004;
const CR4_SHADOW: u64 = 0x6006;
const QUALIFICATION: u64 = 0x6400;
const CR0: u64 = 0x6800;
const CR3: u64 = 0x6802;
const CR4: u64 = 0x6804;
const BASES: u64 = 0x6806;
const DR7: u64 = 0x681a;
const FIELD_RSP: u64 = 0x681c;
const FIELD_RIP: u64 = 0x681e;
const FIELD_RFLAGS: u64 = 0x6820;
const PENDING_DEBUG: u64 = 0x6822;
const SYSENTER_ESP: u64 = 0x6824;
const SYSENTER_EIP: u64 = 0x6826;

/// Fields that hold a word of the state page as it is.
static PLAIN: [(u64, usize); 7] = [
    (CR3, word::CR3),
    (DR7, word::DR7),
    (PAT, word::PAT),
    (SYSENTER_CS, word::SYSENTER_CS),
    (SYSENTER_ESP, word::SYSENTER_ESP),
    (SYSENTER_EIP, word::SYSENTER_EIP),
    (TSC_OFFSET, word::TSC_OFFSET),
];
/// Fields that change all the time.
static RUNNING: [(u64, usize); 3] = [(FIELD_RIP, RIP), (FIELD_RSP, RSP), (FIELD_RFLAGS, RFLAGS)];

/// MSRs that entry and exit switch by lists: STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE.
pub static LISTED: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];
const _: () = assert!(word::STAR + 4 == word::KERNEL_GS_BASE);
/// Where in the block the guest's list lies: 16 bytes for each, number and value.
const LIST: usize = 0x800;
/// Where the exception and the length of the instruction that it exited for are kept.
const EXIT_EXCEPTION: [usize; 2] = [0x3f0, 0x3f8];

const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PROTECTION: u64 = 1 << 0;
/// In CR0, not the guest's: NE, which VMX wants, and NW and CD, which would switch the machine's caches off.
const CR0_OWNED: u64 = CR0_NUMERIC_ERROR | CR0_CACHES;
const CR0_CACHES: u64 = 0b11 << 29;
const CR4_MACHINE_CHECK: u64 = 1 << 6;
const CR4_VMX: u64 = 1 << 13;
/// In CR4, the guest's: VME PVI TSD DE PSE PAE, PGE PCE OSFXSR OSXMMEXCPT UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP. What else there
/// is in it has state that nobody switches.
const CR4_OWNED: u64 = 0xffff_ffff & !(0b1111_1011_1111 | 1 << 16 | 1 << 18 | 1 << 20 | 1 << 21);

const EFER_LONG_ACTIVE: u64 = 1 << 10;
/// In the rights of a segment: it cannot be used.
const UNUSABLE: u64 = 1 << 16;
/// In its attributes: it is present.
const SEGMENT_PRESENT: u64 = 1 << 7;
const FLAG_TRAP: u64 = 1 << 8;
const FLAG_INTERRUPTS: u64 = 1 << 9;
const AFTER_STI: u64 = 1 << 0;
const AFTER_MOV_SS: u64 = 1 << 1;
const IN_NMI: u64 = 1 << 3;
/// In the pending debug exceptions: a single step.
const SINGLE_STEP: u64 = 1 << 14;
/// Mask of the kind in an event, and kinds that an instruction raised, which is executed again instead.
const KIND: u64 = 0b111 << 8;
const KIND_TRAP: u64 = 5 << 8;

/// Exceptions that exit: debug and alignment check, because their delivery can raise them again for ever; machine check, which
/// is the core's.
const INTERCEPTED: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const DEBUG: u8 = 1;
/// Vectors that are the core's.
pub const NMI: u64 = 2;
/// See [`NMI`].
pub const MACHINE_CHECK: u64 = 18;

/// Reasons that are the core's alone.
pub const EXIT_EXCEPTION_OR_NMI: u64 = 0;
/// See [`EXIT_EXCEPTION_OR_NMI`].
pub const EXIT_INTERRUPT: u64 = 1;
const EXIT_CONTROL_REGISTER: u64 = 28;
/// In a reason: the processor did not accept the guest's state.
pub const REFUSED: u64 = 1 << 31;
/// The same if it did not even try; the rest is the error of the instruction.
pub const NOT_TRIED: u64 = 1 << 32;

/// In the secondary controls: cached translations are tagged, so that they outlive an exit.
const TAGGED: u64 = 1 << 5;
/// How the nested tables are walked: four levels, write-back.
const WALK: u64 = 3 << 3 | 6;
const WALK_SUPPORTED: u64 = 1 << 6 | 1 << 14;
/// INVEPT, and that of a single root.
const FLUSH_SUPPORTED: u64 = 1 << 20 | 1 << 25;

/// What the processor is told to do, in five words of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    pin: u64,
    primary: u64,
    secondary: u64,
    exit: u64,
    entry: u64,
}

impl Controls {
    /// For a processor with these capability MSRs; nothing if it lacks something.
    pub fn choose(read: impl Fn(u32) -> u64) -> Option<Controls> {
        // Its lower half has the bits that must be set, its upper half those that may be.
        let choose = |msr, wanted: u64, optional: u64| {
            let capability = read(msr);
            let (must, may) = (capability & 0xffff_ffff, capability >> 32);
            let chosen = wanted | must | optional & may;
            (chosen & !may == 0).then_some(chosen)
        };
        // IA32_VMX_BASIC: what must be set is told exactly (bit 55).
        if read(0x480) >> 55 & 1 == 0 {
            return None;
        }
        // CR0 and CR4: bits that must be set, but for PE and PG, of which unrestricted guests are free.
        if read(0x486) & !(CR0_NUMERIC_ERROR | 1 << 31 | 1) != 0 || read(0x488) & !CR4_VMX != 0 {
            return None;
        }
        Some(Controls {
            // External interrupts, NMIs; the guest's own NMIs.
            pin: choose(0x48d, 1 << 0 | 1 << 3 | 1 << 5, 0)?,
            // TSC offset; HLT, MWAIT, RDPMC; a task priority of its own; I/O, MSRs by a map, MONITOR; secondary controls.
            primary: choose(0x48e, 1 << 3 | 1 << 7 | 0b11 << 10 | 1 << 21 | 1 << 24 | 0b11 << 28 | 1 << 31, 0)?,
            // Nested paging, WBINVD, unrestricted guest; translations tagged, INVPCID.
            secondary: choose(0x48b, 1 << 1 | 0b11 << 6, TAGGED | 1 << 12)?,
            // 64-bit core; debug registers saved, PAT and EFER saved and loaded.
            exit: choose(0x48f, 1 << 2 | 1 << 9 | 0b1111 << 18, 0)?,
            // The same loaded.
            entry: choose(0x490, 1 << 2 | 0b11 << 14, 0)?,
        })
        .filter(|_| !read(0x48c) & (WALK_SUPPORTED | FLUSH_SUPPORTED) == 0)
    }
}

/// Where in physical memory things lie that the core has once.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Which MSRs exit.
    pub msr_map: u64,
    /// The core's own values of [`LISTED`].
    pub core_list: u64,
}

/// Makes a fresh VMCS one that only misses the guest's state, and what is the CPU's.
pub fn prepare(m: &impl Memory, v: &impl Vmcs, controls: &Controls, guest: &Guest, context: Frame, places: Places) {
    if controls.secondary & TAGGED != 0 {
        v.write(SPACE, 1);
    }
    let list = guest.vmcb(LIST).0;
    for (field, value) in [
        (PIN, controls.pin),
        (SECONDARY, controls.secondary),
        (EXIT_CONTROLS, controls.exit),
        (EXCEPTIONS, INTERCEPTED),
        (CR0_MASK, CR0_OWNED),
        (CR4_MASK, CR4_OWNED),
        (MSR_MAP, places.msr_map),
        (ENTRY_LOAD, list),
        (EXIT_STORE, list),
        (EXIT_LOAD, places.core_list),
        // The task priority lies where a context has an instruction pointer, which those of guests have no use for.
        (VIRTUAL_APIC, context.at(0).0),
        (NESTED_TABLES, m.load(guest.vmcb(NESTED_ROOT)) | WALK),
        (LINK, u64::MAX),
        (DEBUG_CONTROL, 0),
        (ACTIVITY, 0),
        (INTERRUPTIBILITY, 0),
        (PENDING_DEBUG, 0),
    ] {
        v.write(field, value);
    }
    [EXIT_STORE_COUNT, EXIT_LOAD_COUNT, ENTRY_LOAD_COUNT]
        .into_iter()
        .for_each(|field| v.write(field, LISTED.len() as u64));
    // The page-fault mask and match, CR3 targets, the threshold of the task priority.
    [0x4006, 0x4008, 0x400a, 0x401c].into_iter().for_each(|field| v.write(field, 0));
}

/// Carries a guest that is about to run into its VMCS.
pub fn enter(m: &impl Memory, v: &impl Vmcs, controls: &Controls, guest: &Guest) {
    let get = |place| m.load(guest.vmcb(place));
    if get(CHANGED) != 0 {
        m.store(guest.vmcb(CHANGED), 0);
        enter_system(m, v, controls, guest);
    }
    RUNNING.iter().for_each(|&(field, place)| v.write(field, get(place)));
    // Interrupt-window exiting is bit 2.
    v.write(PRIMARY, controls.primary | if get(INTERCEPTS) >> 32 & WINDOW != 0 { 1 << 2 } else { 0 });
    // What an interrupt of the core's kept from being delivered comes first.
    let event = [EXIT_EVENT, INJECT].map(get).into_iter().find(|event| event & event::VALID != 0).unwrap_or(0);
    m.store(guest.vmcb(EXIT_EVENT), 0);
    // In real mode there are no error codes.
    let no_code = if get(place(word::CR0)) & CR0_PROTECTION == 0 { event::ERROR_CODE } else { 0 };
    v.write(ENTRY_EVENT, event & 0xffff_ffff & !no_code);
    v.write(ENTRY_ERROR, event >> 32);
    let flags = get(RFLAGS);
    let is = |kind| event & (event::VALID | KIND) == event::VALID | kind;
    let shadow = match get(SHADOW) & 1 {
        // The processor refuses what does not respect it; a monitor knows what it does.
        _ if is(event::INTERRUPT) || is(event::NMI) => 0,
        0 => 0,
        _ if flags & FLAG_INTERRUPTS != 0 => AFTER_STI,
        _ => AFTER_MOV_SS,
    };
    let in_nmi = if is(event::NMI) { 0 } else { v.read(INTERRUPTIBILITY) & IN_NMI };
    v.write(INTERRUPTIBILITY, shadow | in_nmi);
    if shadow != 0 {
        // The processor insists that both agree.
        v.write(PENDING_DEBUG, if flags & FLAG_TRAP != 0 { SINGLE_STEP } else { 0 });
    }
}

fn enter_system(m: &impl Memory, v: &impl Vmcs, controls: &Controls, guest: &Guest) {
    let get = |word| m.load(guest.vmcb(place(word)));
    PLAIN.iter().for_each(|&(field, word)| v.write(field, get(word)));
    let (cr0, cr4, efer) = (get(word::CR0), get(word::CR4), get(word::EFER) & !SVME);
    v.write(CR0, cr0 & !CR0_CACHES | CR0_NUMERIC_ERROR);
    v.write(CR0_SHADOW, cr0);
    v.write(CR4, cr4 | CR4_MACHINE_CHECK | CR4_VMX);
    v.write(CR4_SHADOW, cr4);
    v.write(EFER, efer);
    v.write(ENTRY_CONTROLS, controls.entry | if efer & EFER_LONG_ACTIVE != 0 { 1 << 9 } else { 0 });
    for (index, number) in LISTED.iter().enumerate() {
        m.store(guest.vmcb(LIST + 16 * index), (*number).into());
        m.store(guest.vmcb(LIST + 16 * index + 8), get(word::STAR + index));
    }
    for index in segment::ES..=segment::IDTR {
        let (first, base) = (get(word::SEGMENTS + 2 * index), get(word::SEGMENTS + 2 * index + 1));
        let field = 2 * index as u64;
        v.write(LIMITS + field, first >> 32);
        v.write(BASES + field, base);
        if index < segment::GDTR {
            let attributes = first >> 16 & 0xfff;
            let unusable = if attributes & SEGMENT_PRESENT == 0 { UNUSABLE } else { 0 };
            v.write(SELECTORS + field, first & 0xffff);
            v.write(RIGHTS + field, attributes & 0xff | (attributes & 0xf00) << 4 | unusable);
        }
    }
}

/// Carries a guest that exited out of its VMCS.
pub fn leave(m: &impl Memory, v: &impl Vmcs, guest: &Guest) {
    let set = |at, value| m.store(guest.vmcb(at), value);
    let shown = |register, shadow, owned: u64| v.read(register) & !owned | v.read(shadow) & owned;
    RUNNING.iter().for_each(|&(field, at)| set(at, v.read(field)));
    PLAIN.iter().for_each(|&(field, word)| set(place(word), v.read(field)));
    set(place(word::CR0), shown(CR0, CR0_SHADOW, CR0_OWNED));
    set(place(word::CR4), shown(CR4, CR4_SHADOW, CR4_OWNED));
    set(place(word::EFER), v.read(EFER) | SVME);
    for index in 0..LISTED.len() {
        set(place(word::STAR + index), m.load(guest.vmcb(LIST + 16 * index + 8)));
    }
    for index in segment::ES..=segment::IDTR {
        let field = 2 * index as u64;
        let mut first = v.read(LIMITS + field) << 32;
        if index < segment::GDTR {
            let rights = v.read(RIGHTS + field);
            let absent = if rights & UNUSABLE != 0 { SEGMENT_PRESENT } else { 0 };
            first |= v.read(SELECTORS + field) | (rights & 0xff & !absent | rights >> 4 & 0xf00) << 16;
        }
        if index == segment::SS {
            set(CPL, (first >> DPL_SHIFT & 3) << 24);
        }
        set(place(word::SEGMENTS + 2 * index), first);
        set(place(word::SEGMENTS + 2 * index + 1), v.read(BASES + field));
    }
    set(SHADOW, (v.read(INTERRUPTIBILITY) & (AFTER_STI | AFTER_MOV_SS) != 0).into());
    set(INJECT, 0);
    let event = |field, code| v.read(field) & (event::VALID | 0xfff) | v.read(code) << 32;
    // The address is still that of an instruction that raised it, which will do so again.
    let cut_short = event(CUT_SHORT, CUT_SHORT_ERROR);
    set(EXIT_EVENT, if cut_short & KIND < 4 << 8 { cut_short } else { 0 });
    set(EXIT_CODE, v.read(REASON));
    set(EXIT_INFO[0], v.read(QUALIFICATION));
    set(EXIT_INFO[1], v.read(GUEST_PHYSICAL));
    set(EXIT_EXCEPTION[0], event(EXCEPTION, EXCEPTION_ERROR));
    set(EXIT_EXCEPTION[1], v.read(LENGTH));
}

/// The processor did not let the guest run, for this reason: it is as it was.
pub fn refuse(m: &impl Memory, guest: &Guest, reason: u64) {
    m.store(guest.vmcb(EXIT_CODE), reason);
    [INJECT, EXIT_EVENT].into_iter().for_each(|place| m.store(guest.vmcb(place), 0));
}

/// What a guest exited for, with its state and the details in its page; nothing if it is to go on.
pub fn exit(m: &impl Memory, guest: &Guest, context: Frame) -> Option<Exit> {
    let get = |place| m.load(guest.vmcb(place));
    let (code, [info, address]) = (get(EXIT_CODE), EXIT_INFO.map(get));
    let next = get(RIP).wrapping_add(get(EXIT_EXCEPTION[1]));
    let (exit, next, details) = match code {
        _ if code & (REFUSED | NOT_TRIED) != 0 => (Exit::BadState, 0, [code, 0, 0]),
        EXIT_EXCEPTION_OR_NMI => {
            deliver(m, guest, info);
            return None;
        }
        EXIT_CONTROL_REGISTER if write_control(m, guest, context, info) => return None,
        2 => (Exit::Shutdown, 0, [0; 3]),
        7 => (Exit::Window, 0, [0; 3]),
        10 => (Exit::Cpuid, next, [0; 3]),
        12 => (Exit::Halt, next, [0; 3]),
        13 | 54 => (Exit::CacheFlush, next, [0; 3]),
        18 => (Exit::Hypercall, next, [0; 3]),
        // GETSEC; RDPMC; VMCLEAR to VMXON; MWAIT; MONITOR; INVEPT; INVVPID.
        11 | 15 | 19..=27 | 36 | 39 | 50 | 53 => (Exit::Forbidden, next, [code, 0, 0]),
        30 => {
            let bit = |from: u32, to| if info >> from & 1 != 0 { to } else { 0 };
            let kind = bit(3, port::IN) | bit(4, port::STRING) | bit(5, port::REPEATED);
            (Exit::Port, next, [info >> 16 & 0xffff | ((info & 7) + 1) << port::SIZE_SHIFT | kind, 0, 0])
        }
        31 => (Exit::MsrRead, next, [0; 3]),
        32 => (Exit::MsrWrite, next, [0; 3]),
        48 => {
            let bits = |mask, to| if info & mask != 0 { to } else { 0 };
            // Bits 3 to 5 are what the page is there for; bit 7 without bit 8 is a walk.
            let walk = if info >> 7 & 0b11 == 1 { access::WALK } else { 0 };
            let how = bits(1 << 1, access::WRITE) | bits(1 << 2, access::FETCH) | bits(0b111 << 3, access::PRESENT);
            (Exit::Memory, 0, [address, how | walk, 0])
        }
        55 => (Exit::Xsetbv, next, [0; 3]),
        _ => (Exit::Other, 0, [code, info, address]),
    };
    report(m, guest, context, exit, next, details);
    Some(exit)
}

/// Lets the guest take the exception that it exited for, as if it had not been intercepted.
fn deliver(m: &impl Memory, guest: &Guest, info: u64) {
    let get = |place| m.load(guest.vmcb(place));
    let set = |place, value| m.store(guest.vmcb(place), value);
    let [exception, length] = EXIT_EXCEPTION.map(get);
    if exception as u8 == DEBUG {
        // The processor leaves to us what delivery would do to the debug registers: B0 to B3, BD and BS; GD.
        set(place(word::DR6), get(place(word::DR6)) & !0xf | info & (0xf | 0b11 << 13));
        set(place(word::DR7), get(place(word::DR7)) & !(1 << 13));
        set(CHANGED, 1);
        if exception & KIND == KIND_TRAP {
            set(RIP, get(RIP).wrapping_add(length));
        }
    }
    let error = (exception & event::ERROR_CODE != 0).then_some((exception >> 32) as u32);
    set(INJECT, event::exception(exception as u8, error));
    set(EXIT_EVENT, 0);
}

/// Lets the guest see what it is about to write to bits of CR0 or CR4 that are not its own, so that it is not stopped when it
/// does the same again; or tells it that it must not. False if it does something else.
fn write_control(m: &impl Memory, guest: &Guest, context: Frame, info: u64) -> bool {
    /// Registers by the processor's numbers.
    const ORDER: [usize; 8] = [0, 2, 3, 1, reg::RSP, reg::RBP, 4, 5];
    let get = |place| m.load(guest.vmcb(place));
    let number = (info >> 8 & 15) as usize;
    let value = match ORDER.get(number).copied().unwrap_or(number) {
        reg::RAX => get(RAX),
        reg::RSP => get(RSP),
        register => m.load(context.at(register * 8)),
    };
    let (register, bits) = match info & 0x3f {
        0 => (place(word::CR0), CR0_OWNED),
        4 => (place(word::CR4), CR4_MACHINE_CHECK),
        _ => return false,
    };
    if info & 0x3f == 4 && (value ^ get(register)) & CR4_OWNED & !CR4_MACHINE_CHECK != 0 {
        m.store(guest.vmcb(INJECT), event::exception(13, Some(0)));
    } else {
        m.store(guest.vmcb(register), get(register) & !bits | value & bits);
        m.store(guest.vmcb(CHANGED), 1);
    }
    true
}

#[cfg(test)]
mod tests;
