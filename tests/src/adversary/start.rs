//! From the entry of the kernel to its act: long mode, gates that survive any fault, and a second vCPU if there is one.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::Assembled;
use super::machine::*;

/// Vector of NMI.
const NMI: usize = 2;
/// Vectors of exceptions end here.
const EXCEPTIONS: usize = 32;
/// MSR of the APIC's interrupt command register, and of its end of interrupt.
const COMMAND: u32 = 0x830;
const END_OF_INTERRUPT: u32 = 0x80b;

/// The segments of the kernel: addresses and contents.
pub fn image(act: fn(&mut Code) -> Assembled) -> Result<Vec<(u64, Vec<u8>)>, IcedError> {
    // The first code is of a fixed size, so that the rest has a fixed place.
    const LONG: u64 = CODE + 0x200;
    let mut first = enter(LONG)?;
    first.resize((LONG - CODE) as usize, 0xcc);
    let mut code = Code::new(CodeAssembler::new(64)?);
    let handlers = begin(&mut code)?;
    act(&mut code)?;
    code.triple_fault()?;
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let assembled = code.assemble_options(LONG, options)?;
    let [fault, nmi, interrupt] =
        [assembled.label_ip(&handlers[0])?, assembled.label_ip(&handlers[1])?, assembled.label_ip(&handlers[2])?];
    first.extend(&assembled.inner.code_buffer);
    let mut data = vec![0; (TABLE - TABLES) as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (at - TABLES) as usize;
        data[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let mut table =
        |at: u64, entries: &[u64]| put(at, &entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>());
    table(TABLES, &[TABLES + 0x1003]);
    table(TABLES + 0x1000, &[TABLES + 0x2003, 0, 0, TABLES + 0x3003]);
    for (at, gibibyte) in [(0x2000, 0), (0x3000, 3)] {
        table(TABLES + at, &std::array::from_fn::<u64, 512, _>(|index| gibibyte << 30 | (index as u64) << 21 | 0x83));
    }
    table(DESCRIPTORS, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff]);
    for vector in 0..256 {
        let handler = match vector {
            NMI => nmi,
            0..EXCEPTIONS => fault,
            _ => interrupt,
        };
        let low = handler & 0xffff | u64::from(SELECTORS[0]) << 16 | 0x8e << 40 | handler >> 16 << 48;
        table(GATES + 16 * vector as u64, &[low, handler >> 32]);
    }
    for (index, (limit, base)) in [(31u16, DESCRIPTORS), (0xfff, GATES), (0, 0)].into_iter().enumerate() {
        put(POINTERS + 16 * index as u64, &[limit.to_le_bytes().as_slice(), &base.to_le_bytes()].concat());
    }
    put(TRAMPOLINE, &trampoline()?);
    data.extend(&code.table);
    Ok(vec![(CODE, first), (TABLES, data)])
}

/// The entry point, in 32-bit mode, and that of a second vCPU 128 bytes behind it.
fn enter(long: u64) -> Result<Vec<u8>, IcedError> {
    let mut all = Vec::new();
    for stack in STACKS {
        let mut code = CodeAssembler::new(32)?;
        code.mov(eax, u32::from(SELECTORS[1]))?;
        // A PVH kernel has flat segments already; a second vCPU brings those of its trampoline.
        code.lgdt(ptr(POINTERS as u32))?;
        [ds, es, ss].into_iter().try_for_each(|segment| code.mov(segment, eax))?;
        code.mov(esp, stack as u32)?;
        code.mov(eax, TABLES as u32)?;
        code.mov(cr3, eax)?;
        // Physical address extension, and vector registers.
        code.mov(eax, 0x620)?;
        code.mov(cr4, eax)?;
        code.mov(ecx, 0xc000_0080u32)?;
        code.mov(eax, 1 << 8)?;
        code.xor(edx, edx)?;
        code.wrmsr()?;
        code.mov(eax, 0x8001_0011u32)?;
        code.mov(cr0, eax)?;
        let mut bytes = code.assemble(CODE + all.len() as u64)?;
        // A far jump.
        bytes.push(0xea);
        bytes.extend((long as u32).to_le_bytes());
        bytes.extend(SELECTORS[0].to_le_bytes());
        bytes.resize(128, 0xcc);
        all.extend(bytes);
    }
    Ok(all)
}

/// What a second vCPU does first, in real mode.
fn trampoline() -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(16)?;
    code.xor(ax, ax)?;
    code.mov(ds, ax)?;
    // Behind this code, where its copy has it within reach.
    code.lgdt(ptr((STARTUP_PAGE << 12) as u32 + 0x80))?;
    code.mov(eax, 1)?;
    code.mov(cr0, eax)?;
    let mut bytes = code.assemble(STARTUP_PAGE << 12)?;
    bytes.extend([0x66, 0xea]);
    bytes.extend((CODE as u32 + 128).to_le_bytes());
    bytes.extend(SELECTORS[2].to_le_bytes());
    bytes.resize(0x80, 0xcc);
    bytes.extend(31u16.to_le_bytes());
    bytes.extend((DESCRIPTORS as u32).to_le_bytes());
    Ok(bytes)
}

/// Everything before the act. Gives the handlers of faults, NMIs and interrupts.
fn begin(code: &mut Code) -> Result<[CodeLabel; 3], IcedError> {
    let [mut fault, mut nmi, mut interrupt, mut start, mut second] = std::array::from_fn(|_| code.create_label());
    code.jmp(start)?;
    // What faulted is given up.
    code.set_label(&mut fault)?;
    code.mov(rsp, r15)?;
    code.jmp(r14)?;
    code.set_label(&mut interrupt)?;
    [rax, rcx, rdx].into_iter().try_for_each(|register| code.push(register))?;
    code.mov(byte_ptr(SHARED_INFO), 0)?;
    code.mov(ecx, END_OF_INTERRUPT)?;
    code.xor(eax, eax)?;
    code.xor(edx, edx)?;
    code.wrmsr()?;
    [rdx, rcx, rax].into_iter().try_for_each(|register| code.pop(register))?;
    code.set_label(&mut nmi)?;
    code.iretq()?;
    code.set_label(&mut start)?;
    code.mov(r15, rsp)?;
    code.lea(r14, qword_ptr(fault))?;
    code.lidt(ptr(POINTERS + 16))?;
    code.cmp(r15, STACKS[1] as i32)?;
    code.je(second)?;
    code.mov(rsi, TRAMPOLINE)?;
    code.mov(rdi, STARTUP_PAGE << 12)?;
    code.mov(ecx, 0x100)?;
    code.rep().movsb()?;
    // INIT and start-up for vCPU 1, if there is one.
    for command in [0xc500, 0x600 | STARTUP_PAGE as u32] {
        code.mov(ecx, COMMAND)?;
        code.mov(eax, command)?;
        code.mov(edx, 1)?;
        code.wrmsr()?;
    }
    code.set_label(&mut second)?;
    code.nop()?;
    Ok([fault, nmi, interrupt])
}
