//! A guest that dies in the way its command line says: what the core has to survive, and to report.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

use protocol::hypercall::Hypercall;
use unikernel::{Domain, control, exit, println, provoke, time};

unikernel::main!(run);

/// An address of the core's half.
const CORE_ADDRESS: u64 = 0xffff_ffff_8000_0000;
/// An address that no x86-64 CPU with 48 bits takes.
const NONCANONICAL: u64 = 0x8000_0000_0000_0000;
/// COM2, which this guest is never given.
const FOREIGN_PORT: u16 = 0x2f8;
/// Calls of a flood: a second or two in an emulator.
const FLOOD_CALLS: u32 = 200_000;

/// Calls that would end the flood early: waiting for an event that never comes, and exit.
const ENDINGS: [u64; 2] = [Hypercall::EventWait as u64, Hypercall::DomainExit as u64];

type Act = fn();

/// What it can be told, and what it then does.
const ACTS: &[(&str, Act)] = &[
    ("null", || provoke::read(0)),
    ("write-rodata", provoke::write_constant),
    ("execute-data", provoke::execute_data),
    ("stack", provoke::overflow_stack),
    ("illegal", provoke::illegal_instruction),
    ("divide", provoke::divide_by_zero),
    ("privileged", provoke::privileged_instruction),
    ("port", || provoke::read_port(FOREIGN_PORT)),
    ("noncanonical", || provoke::read(NONCANONICAL)),
    ("core", || provoke::read(CORE_ADDRESS)),
    ("panic", || panic!("as told")),
    ("exit", || exit::shutdown(7)),
    ("reboot", || exit::reboot()),
    ("hypercall-flood", flood),
];

async fn run(domain: Domain) {
    for word in domain.words() {
        if let Some((name, act)) = ACTS.iter().find(|(name, _)| *name == word) {
            println!("{}: {name}", domain.name());
            act();
            println!("{}: survived {name}", domain.name());
        }
    }
    println!("{}: still alive; the command line can say one of:", domain.name());
    for (name, _) in ACTS {
        println!("  {name}");
    }
    control::serve(control::refuse).await;
}

/// Makes calls with numbers and arguments out of a hat: small numbers, large ones, addresses, handles.
fn flood() {
    let mut state = time::ticks() | 1;
    let mut random = move || {
        // xorshift64: enough variety, no dependency.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..FLOOD_CALLS {
        // Some numbers beyond the last, too.
        let number = random() % 48;
        if ENDINGS.contains(&number) {
            continue;
        }
        let arguments = [(); 5].map(|()| {
            let value = random();
            match value >> 61 {
                0 => value,
                1 => value % 8,
                2 => value % 4096,
                3 => 1 << (value % 64),
                4 => CORE_ADDRESS + value % 4096,
                5 => NONCANONICAL,
                6 => value % (1 << 39),
                _ => u64::MAX,
            }
        });
        provoke::hypercall(number, arguments);
    }
}
