//! The values that each kind of argument is tried with.

use alloc::vec::Vec;

use protocol::declaration::Kind;
use protocol::event::PORTS;
use protocol::layout::{CONSOLE, HEAP, HEARTBEAT, IMAGE_BASE, PAGE_SIZE, START_INFO, USER_END};

use super::stage::Given;

/// Numbers at the edges of every type.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    u64::MAX,
    u64::MAX - 1,
    1 << 31,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    1 << 47,
    1 << 63,
    (1 << 63) - 1,
];

/// An argument.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// What is in the register.
    pub number: u64,
    /// No call may accept it.
    pub bad: bool,
}

impl Value {
    /// Some calls may accept it.
    pub const fn fine(number: u64) -> Value {
        Value { number, bad: false }
    }

    const fn bad(number: u64) -> Value {
        Value { number, bad: true }
    }
}

/// A value that a call could accept. `scene` chooses which domain is meant.
pub fn usual(kind: Kind, given: &Given, scene: usize) -> Value {
    Value::fine(match kind {
        Kind::System => given.system,
        Kind::Domain | Kind::AnyDomain | Kind::Live | Kind::Other | Kind::Building => {
            [given.own, given.running, given.building][scene % 3]
        }
        Kind::IoPorts => given.ports,
        Kind::Interrupt => given.interrupt,
        Kind::Device | Kind::Opened => given.device,
        Kind::AnyHandle => given.spare,
        Kind::Port => given.channel,
        Kind::Read | Kind::Write | Kind::ReadWrite => CONSOLE,
        Kind::Length | Kind::Pages => 1,
        Kind::Address => HEAP,
        Kind::Number | Kind::Flags | Kind::Deadline => 0,
    })
}

/// Every value that is tried.
pub fn values(kind: Kind, given: &Given) -> Vec<Value> {
    match kind {
        Kind::System => handles(given, &[given.system]),
        Kind::Domain | Kind::AnyDomain | Kind::Live | Kind::Other | Kind::Building => {
            handles(given, &[given.own, given.running, given.building, given.inspect_only, given.spare])
        }
        Kind::IoPorts => handles(given, &[given.ports]),
        Kind::Interrupt => handles(given, &[given.interrupt]),
        Kind::Device | Kind::Opened => handles(given, &[given.device]),
        Kind::AnyHandle => handles(given, &given.all()),
        Kind::Port => ports(given),
        // Mapped, but not for writing: the start information, and code.
        Kind::Read => pointers(&[START_INFO, IMAGE_BASE]),
        Kind::Write | Kind::ReadWrite => pointers(&[]),
        Kind::Address => {
            // A stack may end where the domain's half of the address space does.
            let mut values: Vec<_> = EDGES.iter().map(|&edge| judged(edge, edge > USER_END)).collect();
            values.extend([IMAGE_BASE, HEAP, HEAP + 1, CONSOLE, USER_END - PAGE_SIZE, USER_END].map(Value::fine));
            values.extend([USER_END + PAGE_SIZE, 0xffff_ffff_8000_0000, !(PAGE_SIZE - 1)].map(Value::bad));
            values
        }
        Kind::Length => {
            let mut values: Vec<_> = EDGES.iter().map(|&edge| judged(edge, edge > u64::from(u16::MAX) + 1)).collect();
            values.extend([64, 65, 257, 65536].map(Value::fine));
            values
        }
        Kind::Flags => EDGES.iter().map(|&edge| judged(edge, edge > 0xff)).collect(),
        Kind::Pages | Kind::Number | Kind::Deadline => EDGES.iter().copied().map(Value::fine).collect(),
    }
}

fn judged(number: u64, bad: bool) -> Value {
    Value { number, bad }
}

/// Handles: those of the right kind may do, all others must not.
fn handles(given: &Given, right: &[u64]) -> Vec<Value> {
    let mut numbers: Vec<u64> = given.all();
    numbers.extend([given.stale, given.foreign]);
    numbers.extend(EDGES);
    // Bits above the 32 of a handle, and a generation that is not there yet.
    numbers.extend(right.iter().flat_map(|number| [number | 1 << 32, number ^ 1 << 31]));
    numbers.iter().map(|number| judged(*number, !right.contains(number))).collect()
}

fn ports(given: &Given) -> Vec<Value> {
    let open = [u64::from(protocol::event::CONTROL_PORT.0), given.channel];
    let mut numbers: Vec<u64> = Vec::from(EDGES);
    numbers.extend(open);
    numbers.extend([PORTS as u64 - 1, PORTS as u64, 1 << 32 | 1]);
    numbers.iter().map(|number| judged(*number, !open.contains(number))).collect()
}

/// Pointers: to nothing, to the core, to what is read-only, across the end of what is mapped; `readable` may do.
fn pointers(readable: &[u64]) -> Vec<Value> {
    let nothing = [HEAP, HEARTBEAT + PAGE_SIZE, USER_END - 1, USER_END - 8, USER_END, 0xffff_ffff_8000_0000];
    let read_only = [START_INFO, IMAGE_BASE];
    let numbers = EDGES.iter().chain(&nothing).chain(&read_only);
    let mut values: Vec<_> = numbers.map(|number| judged(*number, !readable.contains(number))).collect();
    // A record of 8 bytes just fits before the end of the page, a longer one goes on in the next.
    values.extend([CONSOLE, CONSOLE + 1, CONSOLE + 2048, CONSOLE + PAGE_SIZE - 8].map(Value::fine));
    values
}
