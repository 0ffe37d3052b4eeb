//! What adversaries do, except with rings.

use iced_x86::code_asm::*;

use super::machine::*;
use super::rings::*;
use super::{Act, Assembled, End};

/// All acts.
pub const ACTS: &[Act] = &[
    Act {
        name: "hypercalls",
        vcpus: 2,
        end: End::Crash("triple fault"),
        last_words: "every hypercall was answered",
        code: hypercalls,
    },
    Act {
        name: "registers",
        vcpus: 2,
        end: End::Crash("triple fault"),
        last_words: "every register was answered",
        code: registers,
    },
    Act {
        name: "ports",
        vcpus: 2,
        end: End::Crash("triple fault"),
        last_words: "every port was answered",
        code: ports,
    },
    Act {
        name: "instructions",
        vcpus: 2,
        end: End::Crash("triple fault"),
        last_words: "every instruction was answered",
        code: instructions,
    },
    Act { name: "nowhere", vcpus: 2, end: End::Crash("where nothing is"), last_words: "", code: nowhere },
    Act { name: "page-tables", vcpus: 2, end: End::Crash("where nothing is"), last_words: "", code: page_tables },
    Act { name: "control", vcpus: 2, end: End::Crash(", at 0x"), last_words: "", code: control },
    Act { name: "reason", vcpus: 2, end: End::Crash("the guest says that it crashed"), last_words: "", code: reason },
    Act { name: "asleep", vcpus: 2, end: End::PowerOff, last_words: "", code: asleep },
    Act { name: "store", vcpus: 2, end: End::Crash("triple fault"), last_words: "the store had enough", code: store },
    Act {
        name: "console",
        vcpus: 2,
        end: End::Crash("the guest broke its console ring"),
        last_words: "",
        code: console,
    },
    Act { name: "disk", vcpus: 1, end: End::Closed, last_words: "", code: disk },
    Act { name: "events", vcpus: 2, end: End::Never, last_words: "", code: events },
    Act { name: "exits", vcpus: 2, end: End::Never, last_words: "", code: exits },
];

/// Arguments that are no good: numbers at their limits, addresses that are none, that cross into nothing, that are shared.
const ARGUMENTS: [u64; 12] = [
    0,
    1,
    AREA,
    AREA + 0xffc,
    STORE + 0xffc,
    0x8000_0000,
    0xffff_ffff,
    1 << 47,
    1 << 63,
    u64::MAX >> 1,
    u64::MAX - 7,
    u64::MAX,
];
/// The same for the third argument.
const COUNTS: [u64; 4] = [0, 1, AREA, u64::MAX];
/// "Myself".
const SELF: u32 = 0x7ff0;

/// Each hypercall with each command and each of the bad arguments, over memory with different contents.
fn hypercalls(code: &mut Code) -> Assembled {
    let (arguments, counts) = (code.constants(&ARGUMENTS), code.constants(&COUNTS));
    let contents: [[u32; 8]; 4] = [
        [u32::MAX; 8],
        [0; 8],
        // A place for the page with events; a list of frames to give back, or to take.
        [SELF, 0, 0, 0, 0x211, 0, SELF, 0],
        [AREA as u32 + 0x100, 0, 1, 0, 9, 0, SELF, 0],
    ];
    for content in contents {
        code.put(AREA, &content)?;
        code.put(AREA + 0x1000 - 4, &content)?;
        code.put(AREA + 0x100, &[0x800, 0])?;
        code.count(rbx, 0..64, |code| {
            code.count(r12, 0..32, |code| {
                let mut next = code.create_label();
                let mut harmless = code.create_label();
                // Waiting for good and ending are acts of their own: commands 1 to 3 of sched_op.
                code.cmp(ebx, 29)?;
                code.jne(harmless)?;
                code.lea(eax, dword_ptr(r12 - 1))?;
                code.cmp(eax, 3)?;
                code.jb(next)?;
                code.set_label(&mut harmless)?;
                code.count(r13, 0..ARGUMENTS.len() as u64, |code| {
                    code.count(rbp, 0..COUNTS.len() as u64, |code| {
                        code.mov(rax, rbx)?;
                        code.mov(rdi, r12)?;
                        code.mov(rsi, qword_ptr(arguments + r13 * 8))?;
                        code.mov(rdx, qword_ptr(counts + rbp * 8))?;
                        code.vmmcall()
                    })
                })?;
                code.set_label(&mut next)?;
                code.nop()
            })
        })?;
    }
    code.say("every hypercall was answered")
}

/// Each model-specific register of the ranges that there are is read, and written: nothing, everything, what it was but for a bit.
fn registers(code: &mut Code) -> Assembled {
    for (first, count) in [(0u32, 0x2000), (0x4000_0000, 0x100), (0xc000_0000, 0x2000), (0xc001_0000, 0x2000)] {
        code.count(rbx, 0..count, |code| {
            code.lea(ecx, dword_ptr(rbx + first.cast_signed()))?;
            code.attempt(|code| code.rdmsr())?;
            for values in [Some((0u32, 0u32)), Some((u32::MAX, u32::MAX)), Some((0, 0x8000_0000)), None] {
                code.attempt(|code| {
                    code.lea(ecx, dword_ptr(rbx + first.cast_signed()))?;
                    match values {
                        Some((low, high)) => {
                            code.mov(eax, low)?;
                            code.mov(edx, high)?;
                        }
                        None => {
                            code.rdmsr()?;
                            code.xor(eax, 0x400)?;
                        }
                    }
                    code.wrmsr()
                })?;
            }
            Ok(())
        })?;
    }
    code.say("every register was answered")
}

/// Each I/O port is read and written in every width, and by string instructions.
fn ports(code: &mut Code) -> Assembled {
    code.count(rbx, 0..0x1_0000, |code| {
        code.mov(edx, ebx)?;
        code.in_(al, dx)?;
        code.in_(eax, dx)?;
        code.xor(eax, eax)?;
        code.out(dx, ax)
    })?;
    code.count(rbx, 0..0x400, |code| {
        code.mov(edx, ebx)?;
        code.mov(rdi, AREA)?;
        code.mov(rsi, 0x3fff_fff0u64)?;
        code.mov(ecx, u32::MAX)?;
        code.rep().insb()?;
        code.mov(rcx, u64::MAX)?;
        code.rep().outsd()
    })?;
    code.say("every port was answered")
}

/// Leaves of CPUID, instructions that a guest does not have, hypercalls where none is expected.
fn instructions(code: &mut Code) -> Assembled {
    for first in [0u32, 0x4000_0000, 0x8000_0000, 0xc000_0000, 0xffff_ff00] {
        code.count(r12, 0..0x100, |code| {
            code.count(r13, 0..4, |code| {
                code.mov(eax, first)?;
                code.add(eax, r12d)?;
                code.mov(ecx, r13d)?;
                code.cpuid()
            })
        })?;
    }
    let absent: [fn(&mut Code) -> Assembled; 16] = [
        |code| code.vmrun(),
        |code| code.vmload(),
        |code| code.vmsave(),
        |code| code.stgi(),
        |code| code.clgi(),
        |code| code.invlpga(),
        |code| code.skinit(),
        |code| code.monitor(),
        |code| code.mwait(),
        |code| code.rdpmc(),
        |code| code.rsm(),
        |code| code.vmcall(),
        |code| code.vmxoff(),
        |code| code.xsetbv(),
        |code| code.wbinvd(),
        |code| code.invd(),
    ];
    for value in [0, AREA, CODE, u64::MAX, 1 << 63] {
        for instruction in absent {
            code.attempt(|code| {
                [rax, rcx, rdx].into_iter().try_for_each(|register| code.mov(register, value))?;
                instruction(code)
            })?;
        }
        code.attempt(|code| {
            code.mov(rax, value)?;
            code.mov(cr8, rax)
        })?;
        code.attempt(|code| {
            code.mov(rax, value)?;
            code.mov(dr7, rax)
        })?;
    }
    // A hypercall in the shadow of a load of SS, and one that is traced.
    code.attempt(|code| {
        code.mov(eax, u32::from(SELECTORS[1]))?;
        code.mov(ss, eax)?;
        code.hypercall(17, [0, 0, 0])
    })?;
    code.attempt(|code| {
        code.pushfq()?;
        code.or(dword_ptr(rsp), 0x100)?;
        code.popfq()?;
        code.hypercall(17, [6, u64::MAX, 0])
    })?;
    code.say("every instruction was answered")?;
    // A fault for which there is no stack.
    code.mov(rsp, 1u64 << 63)?;
    code.hypercall(17, [1, AREA, 0])?;
    code.int3()
}

/// Memory where nothing is.
fn nowhere(code: &mut Code) -> Assembled {
    code.mov(rax, 0x3000_0000u64)?;
    code.mov(qword_ptr(rax), rax)
}

/// Page tables outside the guest's memory.
fn page_tables(code: &mut Code) -> Assembled {
    code.mov(rax, 0x3000_0000u64)?;
    code.mov(cr3, rax)?;
    code.nop()
}

/// Control registers with bits that there are not. A processor faults, or refuses to go on.
fn control(code: &mut Code) -> Assembled {
    for value in [u64::MAX, 1 << 63, 1 << 31, 0] {
        for register in [cr4, cr3, cr0] {
            code.attempt(|code| {
                code.mov(rax, value)?;
                code.mov(register, rax)
            })?;
        }
    }
    Ok(())
}

/// A crash that the guest reports itself, by a reason that crosses two pages.
fn reason(code: &mut Code) -> Assembled {
    code.put(AREA + 0xffe, &[3])?;
    code.hypercall(29, [2, AREA + 0xffe, 0])
}

/// All vCPUs stop for good.
fn asleep(code: &mut Code) -> Assembled {
    code.forever(|code| code.hlt())
}

/// Events that come as fast as they can: to the monitor, to itself, by timers that are due, by the APIC.
fn events(code: &mut Code) -> Assembled {
    code.put(AREA, &[SELF, 0, 0, 0, SHARED_INFO as u32 >> 12, 0])?;
    code.hypercall(12, [7, AREA, 0])?;
    code.put(AREA, &[SELF, 0, 0xf3, 2 << 24])?;
    code.hypercall(34, [0, AREA, 0])?;
    // An interrupt between vCPUs, and the timer; the APIC is switched on.
    code.put(AREA, &[0, 0])?;
    code.hypercall(32, [7, AREA, 0])?;
    code.put(AREA + 0x10, &[0, 0, 0])?;
    code.hypercall(32, [1, AREA + 0x10, 0])?;
    code.mov(ecx, 0x80f)?;
    code.mov(eax, 0x1ff)?;
    code.xor(edx, edx)?;
    code.wrmsr()?;
    // Nothing is masked: the words of the mask are 0. Deadlines in the past, ports of store and console.
    code.put(AREA + 0x20, &[0; 4])?;
    code.put(AREA + 0x40, &[1])?;
    code.put(AREA + 0x50, &[2])?;
    code.sti()?;
    code.forever(|code| {
        code.hypercall(32, [4, AREA + 4, 0])?;
        code.hypercall(32, [4, AREA + 0x40, 0])?;
        code.hypercall(32, [4, AREA + 0x50, 0])?;
        code.hypercall(24, [8, 0, AREA + 0x20])?;
        code.hypercall(24, [8, 1, AREA + 0x20])?;
        code.hypercall(24, [11, 0, 0])?;
        code.hypercall(24, [11, 1, 0])?;
        code.mov(ecx, 0x830)?;
        // To everybody.
        code.mov(eax, 0x8_00f0)?;
        code.xor(edx, edx)?;
        code.wrmsr()?;
        code.mov(qword_ptr(SHARED_INFO + 0x800), 0)?;
        code.mov(qword_ptr(SHARED_INFO + 8), 0)
    })
}

/// Exits that come as fast as they can.
fn exits(code: &mut Code) -> Assembled {
    code.forever(|code| {
        code.cpuid()?;
        code.in_(al, 0x80)?;
        code.hypercall(17, [0, 0, 0])?;
        // Text that nobody waits for.
        code.hypercall(18, [0, 0x4000, CODE])?;
        code.attempt(|code| {
            code.mov(ecx, 0x3au32)?;
            code.rdmsr()
        })?;
        code.attempt(|code| code.vmrun())?;
        code.wbinvd()
    })
}
