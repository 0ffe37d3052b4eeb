//! Runs pieces of guest code in its virtual machine, and checks what each of them exits for.
//!
//! Words of the command line: `exits=`, how many exits to measure instead; `spin=`, how many ms the guest spins for at the end, checked against being mixed up with
//! another machine on the same CPU; `tag=`, what its registers hold meanwhile. It ends by itself with code 0 if all is right.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use core::hint::black_box;
use core::time::Duration;

use protocol::error::Error;
use protocol::event::{CONTROL_PORT, Port};
use protocol::grant::{GrantEntry, PEER_DOM0, PERMIT_ACCESS};
use protocol::layout::PAGE_SIZE;
use protocol::vm::{Exit, access, control, event, port, word};
use test_images::vm::register::{RAX, RBX, RCX, RDX, RSI, RSP};
use test_images::vm::{CODE, Mode, Vm, same};
use test_images::{Context, Outcome, number};
use unikernel::vm::memory::place_grant_table;
use unikernel::{Domain, exit, time};

unikernel::main!(start);

/// Where handlers of interrupts lie.
const HANDLER: u64 = 0x1800;
/// Memory that is populated on demand.
const FAR: u64 = 0x500_0000;
/// Frames of the guest that hold its grant table, and the page it grants.
const GRANT_TABLE: u64 = 0x20;
const GRANTED: u64 = 0x8;

async fn start(domain: Domain) {
    match prove(&domain) {
        Ok(()) => exit::shutdown(0),
        Err(error) => panic!("{error}"),
    }
}

fn prove(domain: &Domain) -> Outcome {
    let mut vm = Vm::new()?;
    let exits = number(domain, "exits", 0);
    if exits > 0 {
        return measure(&mut vm, exits);
    }
    simple_exits(&mut vm)?;
    ports(&mut vm)?;
    msrs(&mut vm)?;
    memory(&mut vm)?;
    interrupts(&mut vm)?;
    long_mode(&mut vm)?;
    vector_state(&mut vm)?;
    refused(&mut vm)?;
    deadlines(&mut vm)?;
    grant(&mut vm)?;
    spin(&mut vm, number(domain, "tag", 1), Duration::from_millis(number(domain, "spin", 100)))?;
    await_event(&mut vm)
}

/// Counts how long the guest takes for CPUID, as the shortest exit that a monitor handles.
fn measure(vm: &mut Vm, exits: u64) -> Outcome {
    // again: cpuid; jmp again
    vm.start(Mode::Flat, &[0x0f, 0xa2, 0xeb, 0xfc])?;
    vm.expect("cpuid", Exit::Cpuid, 0)?;
    let begun = time::ticks();
    for _ in 0..exits {
        vm.cpu.set(word::RIP, CODE + 2);
        let exit = vm.cpu.run(u64::MAX).context("vm_run")?;
        same("the exit", exit as u64, Exit::Cpuid as u64)?;
    }
    log::info!("ticks an exit: {}", (time::ticks() - begun) / exits);
    Ok(())
}

fn simple_exits(vm: &mut Vm) -> Outcome {
    //                     cpuid       hlt   vmmcall           wbinvd      monitor           ud2
    let code = [0x0f, 0xa2, 0xf4, 0x0f, 0x01, 0xd9, 0x0f, 0x09, 0x0f, 0x01, 0xc8, 0x0f, 0x0b];
    vm.start(Mode::Flat, &code)?;
    vm.expect("cpuid", Exit::Cpuid, 0)?;
    vm.set(RAX, 0x1234);
    vm.skip(2);
    vm.expect("hlt", Exit::Halt, 2)?;
    same("eax after cpuid", vm.get(RAX), 0x1234)?;
    vm.skip(1);
    vm.expect("vmmcall", Exit::Hypercall, 3)?;
    vm.skip(3);
    vm.expect("wbinvd", Exit::CacheFlush, 6)?;
    vm.skip(2);
    vm.expect("monitor", Exit::Forbidden, 8)?;
    vm.skip(3);
    vm.limit_gates(0);
    vm.cpu.set(word::CONTROL, control::LOAD);
    vm.expect("a triple fault", Exit::Shutdown, 11)?;
    // mov ax, 0x1234; hlt
    vm.start(Mode::Real, &[0xb8, 0x34, 0x12, 0xf4])?;
    vm.expect("hlt in real mode", Exit::Halt, 3)?;
    same("ax", vm.get(RAX), 0x1234)
}

fn ports(vm: &mut Vm) -> Outcome {
    // mov al, 0x41; mov dx, 0x1234; out dx, al; in eax, 0x60; rep insw; hlt
    vm.start(Mode::Flat, &[0xb0, 0x41, 0x66, 0xba, 0x34, 0x12, 0xee, 0xe5, 0x60, 0x66, 0xf3, 0x6d, 0xf4])?;
    vm.set(RCX, 2);
    for (at, next, expected) in [
        (6, 7, 0x1234 | 1 << port::SIZE_SHIFT),
        (7, 9, 0x60 | 4 << port::SIZE_SHIFT | port::IN),
        (9, 12, 0x1234 | 2 << port::SIZE_SHIFT | port::IN | port::STRING | port::REPEATED),
    ] {
        vm.expect("a port", Exit::Port, at)?;
        same("what is done to the port", vm.cpu.detail(0), expected)?;
        same("the next instruction", vm.cpu.get(word::NEXT_RIP), CODE + next)?;
        vm.skip(next - at);
    }
    vm.expect("hlt after ports", Exit::Halt, 12)
}

fn msrs(vm: &mut Vm) -> Outcome {
    // mov ecx, 0x1234; rdmsr; wrmsr; mov ecx, LSTAR; mov eax, 0x1357; xor edx, edx; wrmsr; rdmsr; hlt
    let code = [
        0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32, 0x0f, 0x30, 0xb9, 0x82, 0, 0, 0xc0, 0xb8, 0x57, 0x13, 0, 0, 0x31, 0xd2,
        0x0f, 0x30, 0x0f, 0x32, 0xf4,
    ];
    vm.start(Mode::Flat, &code)?;
    vm.expect("rdmsr", Exit::MsrRead, 5)?;
    same("ecx", vm.get(RCX), 0x1234)?;
    vm.skip(2);
    vm.expect("wrmsr", Exit::MsrWrite, 7)?;
    vm.skip(2);
    vm.expect("hlt after LSTAR", Exit::Halt, 25)?;
    same("LSTAR", vm.cpu.get(word::LSTAR), 0x1357)
}

fn memory(vm: &mut Vm) -> Outcome {
    // mov eax, [FAR]; hlt
    vm.start(Mode::Flat, &[0xa1, 0, 0, 0, 5, 0xf4])?;
    let fault = |vm: &Vm, what: &str, offset, address, how| {
        vm.expect(what, Exit::Memory, offset)?;
        same("the address", vm.cpu.detail(0), address)?;
        same("the access", vm.cpu.detail(1), how)
    };
    fault(vm, "a read", 0, FAR, 0)?;
    vm.memory.populate(FAR / PAGE_SIZE, 1).context("memory_populate")?;
    vm.memory.write(FAR, &[1, 2, 3, 4]).context("writing far")?;
    vm.expect("hlt after a read", Exit::Halt, 5)?;
    same("eax", vm.get(RAX), 0x0403_0201)?;
    vm.memory.release(FAR / PAGE_SIZE).context("memory_release")?;
    vm.cpu.set(word::RIP, CODE);
    fault(vm, "a read of what was taken away", 0, FAR, 0)?;
    // mov [FAR + PAGE_SIZE], eax; hlt
    vm.start(Mode::Flat, &[0xa3, 0, 0x10, 0, 5, 0xf4])?;
    fault(vm, "a write", 0, FAR + PAGE_SIZE, access::WRITE)?;
    // mov eax, FAR + 2 * PAGE_SIZE; jmp eax
    vm.start(Mode::Flat, &[0xb8, 0, 0x20, 0, 5, 0xff, 0xe0])?;
    let far = FAR + 2 * PAGE_SIZE;
    fault(vm, "a fetch", far - CODE, far, access::FETCH)?;
    // The page tables themselves, beyond what is populated.
    vm.start(Mode::Long, &[0xf4])?;
    vm.cpu.set(word::CR3, far);
    vm.expect("a walk", Exit::Memory, 0)?;
    same("the access", vm.cpu.detail(1) & access::WALK, access::WALK)
}

fn interrupts(vm: &mut Vm) -> Outcome {
    // mov ebx, 0x77; hlt
    vm.code(HANDLER, &[0xbb, 0x77, 0, 0, 0, 0xf4])?;
    [0x20, 2].into_iter().try_for_each(|vector| vm.gate(vector, HANDLER))?;
    // pop ebx; hlt
    vm.code(HANDLER + 16, &[0x5b, 0xf4])?;
    vm.gate(13, HANDLER + 16)?;
    // nop; sti; nop; nop; hlt
    vm.start(Mode::Flat, &[0x90, 0xfb, 0x90, 0x90, 0xf4])?;
    vm.cpu.set(word::CONTROL, control::LOAD | control::WINDOW);
    // An emulator that is interrupted right behind STI may forget that this takes no interrupt yet.
    vm.expect_within("a window", Exit::Window, 2..=3)?;
    for event in [event::interrupt(0x20), event::NMI | event::VALID | 2] {
        vm.set(RBX, 0);
        vm.cpu.set(word::INJECT, event);
        vm.expect("an interrupt", Exit::Halt, HANDLER + 5 - CODE)?;
        same("ebx", vm.get(RBX), 0x77)?;
        same("what is left to inject", vm.cpu.get(word::INJECT) | vm.cpu.get(word::PENDING), 0)?;
        vm.cpu.set(word::RIP, CODE);
    }
    vm.cpu.set(word::INJECT, event::exception(13, Some(0x1238)));
    vm.expect("an exception", Exit::Halt, HANDLER + 17 - CODE)?;
    same("the error code", vm.get(RBX), 0x1238)?;
    // sti; cpuid; hlt
    vm.start(Mode::Flat, &[0xfb, 0x0f, 0xa2, 0xf4])?;
    vm.expect("cpuid after sti", Exit::Cpuid, 1)?;
    same("the shadow", vm.cpu.get(word::CONTROL), control::SHADOW)?;
    vm.skip(2);
    vm.cpu.set(word::CONTROL, control::WINDOW);
    vm.expect("a window at once", Exit::Window, 3)
}

#[rustfmt::skip]
fn long_mode(vm: &mut Vm) -> Outcome {
    // inc of each but rsp; vmmcall
    let code = [
        0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc1, 0x48, 0xff, 0xc2, 0x48, 0xff, 0xc6, 0x48, 0xff, 0xc7,
        0x48, 0xff, 0xc5, 0x49, 0xff, 0xc0, 0x49, 0xff, 0xc1, 0x49, 0xff, 0xc2, 0x49, 0xff, 0xc3, 0x49, 0xff, 0xc4,
        0x49, 0xff, 0xc5, 0x49, 0xff, 0xc6, 0x49, 0xff, 0xc7, 0x0f, 0x01, 0xd9,
    ];
    vm.start(Mode::Long, &code)?;
    let all = (0..16).filter(|&register| register != RSP);
    let value = |register: usize| 0x1_0000_0001 * (register as u64 + 1);
    all.clone().for_each(|register| vm.set(register, value(register)));
    vm.expect("vmmcall in long mode", Exit::Hypercall, 45)?;
    all.clone().try_for_each(|register| same("a register", vm.get(register), value(register) + 1))?;
    // mov rax, 0x1111; mov dr0, rax; vmmcall; mov rbx, dr0; vmmcall
    let code = [
        0x48, 0xc7, 0xc0, 0x11, 0x11, 0, 0, 0x0f, 0x23, 0xc0, 0x0f, 0x01, 0xd9, 0x0f, 0x21, 0xc3, 0x0f, 0x01, 0xd9,
    ];
    vm.start(Mode::Long, &code)?;
    vm.expect("vmmcall after dr0", Exit::Hypercall, 10)?;
    vm.skip(3);
    vm.expect("vmmcall after dr0", Exit::Hypercall, 16)?;
    same("dr0", vm.get(RBX), 0x1111)
}

fn vector_state(vm: &mut Vm) -> Outcome {
    // movq xmm0, rax; movq xmm15, rbx; ldmxcsr [rcx]; vmmcall; movq rax, xmm0; movq rbx, xmm15; stmxcsr [rcx]; vmmcall
    let code = [
        0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x66, 0x4c, 0x0f, 0x6e, 0xfb, 0x0f, 0xae, 0x11, 0x0f, 0x01, 0xd9, 0x66, 0x48,
        0x0f, 0x7e, 0xc0, 0x66, 0x4c, 0x0f, 0x7e, 0xfb, 0x0f, 0xae, 0x19, 0x0f, 0x01, 0xd9,
    ];
    vm.start(Mode::Long, &code)?;
    let (first, second) = (0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00);
    let exceptions_on = 0_u32;
    vm.memory.write(0x5000, &exceptions_on.to_le_bytes()).context("writing MXCSR")?;
    [(RAX, first), (RBX, second), (RCX, 0x5000)].into_iter().for_each(|(register, value)| vm.set(register, value));
    vm.expect("vmmcall with vector state", Exit::Hypercall, 13)?;
    // With the guest's MXCSR this would be an exception.
    let infinite = black_box(1.0_f64) / black_box(0.0);
    if infinite.is_finite() || black_box([first, second]).map(black_box) != [first, second] {
        return Err("a division by zero is finite".into());
    }
    [RAX, RBX].into_iter().for_each(|register| vm.set(register, 0));
    vm.memory.write(0x5000, &[0xff; 4]).context("writing MXCSR")?;
    vm.skip(3);
    vm.expect("vmmcall with vector state", Exit::Hypercall, 29)?;
    same("xmm0", vm.get(RAX), first)?;
    same("xmm15", vm.get(RBX), second)?;
    same("MXCSR", vm.memory.load_u64(0x5000).context("reading MXCSR")? as u32, exceptions_on)
}

fn refused(vm: &mut Vm) -> Outcome {
    vm.start(Mode::Flat, &[0xf4])?;
    let cr0 = vm.cpu.get(word::CR0);
    vm.cpu.set(word::CR0, cr0 | 1 << 32);
    vm.expect("a refused state", Exit::BadState, 0)?;
    same("CR0", vm.cpu.get(word::CR0), cr0 | 1 << 32)?;
    vm.cpu.set(word::CR0, cr0);
    vm.cpu.set(word::CONTROL, control::LOAD);
    vm.expect("hlt after a refused state", Exit::Halt, 0)
}

fn deadlines(vm: &mut Vm) -> Outcome {
    vm.start_spin(Mode::Flat, &[0xeb, 0xfe])?;
    loop {
        vm.cpu.set(word::INJECT, event::interrupt(0x20));
        match vm.cpu.run(0).context("vm_run")? {
            Exit::Event => _ = unikernel::event::take(Port(0)),
            Exit::Deadline => break,
            exit => return Err(format!("with a deadline of before: {exit:?}")),
        }
    }
    same("what was not injected", vm.cpu.get(word::PENDING), event::interrupt(0x20))?;
    for _ in 0..3 {
        let deadline = time::after(Duration::from_millis(5));
        let exit = loop {
            match vm.cpu.run(deadline).context("vm_run")? {
                Exit::Event => _ = unikernel::event::take(Port(0)),
                exit => break exit,
            }
        };
        same("the exit at the deadline", exit as u64, Exit::Deadline as u64)?;
        same("the instruction that spins", vm.cpu.get(word::RIP), CODE)?;
        if time::clock() < deadline {
            return Err("it came before the deadline".into());
        }
    }
    Ok(())
}

/// Grants a page to dom0 from the guest's table.
fn grant(vm: &mut Vm) -> Outcome {
    let refused = [(8, 0x30, Error::Invalid), (0, 0x8, Error::Exists)];
    for (index, frame, error) in refused {
        if place_grant_table(index, frame) != Err(error) {
            return Err(format!("page {index} of the grant table at {frame:#x} is not refused as {error:?}"));
        }
    }
    // mov eax, [GRANT_TABLE]; hlt
    let table = GRANT_TABLE * PAGE_SIZE;
    for frame in [GRANT_TABLE + 1, GRANT_TABLE] {
        place_grant_table(0, frame).context("vm_grant_table")?;
    }
    vm.memory.write(GRANTED * PAGE_SIZE, b"from a guest").context("writing the granted page")?;
    let entry = GrantEntry { flags: PERMIT_ACCESS, peer: PEER_DOM0, frame: GRANTED as u32 };
    let [flags, peer] = [entry.flags, entry.peer].map(u64::from);
    // mov [rcx], rax; mov rdx, [rcx + PAGE_SIZE]: the place before the present one is empty.
    vm.start(Mode::Long, &[0x48, 0x89, 0x01, 0x48, 0x8b, 0x91, 0, 0x10, 0, 0])?;
    vm.set(RAX, flags | peer << 16 | u64::from(entry.frame) << 32);
    vm.set(RCX, table + 8 * 8);
    vm.set(RDX, 5);
    vm.expect("the former place of the grant table", Exit::Memory, 3)?;
    same("its address", vm.cpu.detail(0), table + PAGE_SIZE + 8 * 8)
}

/// Lets the guest compare its registers for a while.
fn spin(vm: &mut Vm, tag: u64, span: Duration) -> Outcome {
    // movq xmm3, rax; mov rsi, 0; again: movq rbx, xmm3; inc rsi; cmp rbx, rax; je again; hlt
    let code = [
        0x66, 0x48, 0x0f, 0x6e, 0xd8, 0x48, 0xc7, 0xc6, 0, 0, 0, 0, 0x66, 0x48, 0x0f, 0x7e, 0xdb, 0x48, 0xff, 0xc6,
        0x48, 0x39, 0xc3, 0x74, 0xf3, 0xf4,
    ];
    vm.start_spin(Mode::Long, &code)?;
    vm.set(RAX, tag * 0x0101_0101_0101_0101);
    let (end, mut rounds) = (time::after(span), 0);
    while time::now() < end {
        match vm.cpu.run(time::after(Duration::from_micros(300))).context("vm_run")? {
            Exit::Event => _ = unikernel::event::take(Port(0)),
            Exit::Deadline => rounds += 1,
            exit => return Err(format!("spinning: {exit:?}, rbx {:#x}", vm.get(RBX))),
        }
        same("rax", vm.get(RAX), tag * 0x0101_0101_0101_0101)?;
    }
    let (turns, behind) = (vm.get(RSI), time::clock().abs_diff(time::now()));
    log::info!("machine {tag}: {rounds} deadlines, {turns} turns, clocks apart by {behind} ns");
    if turns == 0 { Err("it does not turn".into()) } else { Ok(()) }
}

/// Spins until dom0 sends an event.
fn await_event(vm: &mut Vm) -> Outcome {
    vm.start_spin(Mode::Flat, &[0xeb, 0xfe])?;
    let deadline = time::after(Duration::from_secs(20));
    loop {
        match vm.cpu.run(deadline).context("vm_run")? {
            Exit::Event if unikernel::event::take(CONTROL_PORT) => {
                return same("the instruction that spins", vm.cpu.get(word::RIP), CODE);
            }
            Exit::Event => {}
            exit => return Err(format!("waiting for an event: {exit:?}")),
        }
    }
}
