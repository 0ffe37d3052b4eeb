//! What adversaries do with the rings that they share with their monitor and with driver domains.

use iced_x86::code_asm::*;

use super::Assembled;
use super::machine::*;

/// Where the indexes of the guest's end of a ring are: requests to the store; text for the console.
const STORE_PRODUCER: u64 = STORE + 2052;
const STORE_ANSWERS: (u64, u64) = (STORE + 2056, STORE + 2060);
const CONSOLE_PRODUCER: u64 = CONSOLE + 3084;
/// Ports of the guest to store and console, and the first that it gets beside.
const STORE_PORT: u32 = 1;
const CONSOLE_PORT: u32 = 2;
const DISK_PORT: u32 = 3;
/// Where their numbers lie for whoever sends.
const PORTS: [u64; 3] = [AREA + 0x1f00, AREA + 0x1f10, AREA + 0x1f20];
/// Bytes of the request ring of the store.
const RING: u64 = 1024;

fn name_ports(code: &mut Code) -> Assembled {
    PORTS.into_iter().zip([STORE_PORT, CONSOLE_PORT, DISK_PORT]).try_for_each(|(at, port)| code.put(at, &[port]))
}

fn notify(code: &mut Code, port: usize) -> Assembled {
    code.hypercall(32, [4, PORTS[port], 0])
}

/// Messages to the store that are none, then indexes that cannot be.
pub fn store(code: &mut Code) -> Assembled {
    name_ports(code)?;
    // Numbers that look random, and are the same each time; small ones now and then, as types and lengths.
    let noise: Vec<u64> = (1..=512u64)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .map(|n| if n >> 60 < 9 { n & 0x17_0000_0017 } else { n })
        .collect();
    let noise = code.constants(&noise);
    code.count(rbx, 0..3000, |code| {
        code.lea(rsi, qword_ptr(rbx + noise))?;
        code.mov(rdi, STORE)?;
        code.mov(ecx, RING as u32)?;
        code.rep().movsb()?;
        code.mov(rdi, STORE_PRODUCER)?;
        code.mov(eax, ebx)?;
        code.and(eax, 0x1ff)?;
        code.add(dword_ptr(rdi), eax)?;
        // Answers are taken, or not.
        code.mov(rdi, STORE_ANSWERS.1)?;
        code.mov(eax, dword_ptr(rdi))?;
        code.mov(rdi, STORE_ANSWERS.0)?;
        code.mov(dword_ptr(rdi), eax)?;
        notify(code, 0)
    })?;
    for (at, value) in [(STORE_PRODUCER, u32::MAX), (STORE_ANSWERS.0, 0x8000_0000), (STORE + 2048, 77)] {
        code.put(at, &[value])?;
        code.count(rbx, 0..100, |code| notify(code, 0))?;
    }
    code.say("the store had enough")
}

/// More text than a ring holds.
pub fn console(code: &mut Code) -> Assembled {
    name_ports(code)?;
    code.put(CONSOLE_PRODUCER, &[0x8000_0000])?;
    code.forever(|code| notify(code, 1))
}

/// A frontend without manners: its ring has more requests than places, its grants lead anywhere.
pub fn disk(code: &mut Code) -> Assembled {
    name_ports(code)?;
    // The first page of the grant table, outside RAM; everything is granted that there is and is not.
    const GRANTS: u64 = 0xfeff_9000;
    code.put(AREA, &[0x7ff0, 1, 0, 0, (GRANTS >> 12) as u32, 0])?;
    code.hypercall(12, [7, AREA, 0])?;
    code.mov(rdi, GRANTS)?;
    code.mov(ecx, 1024)?;
    code.mov(eax, u32::MAX)?;
    code.rep().stosd()?;
    // Grant 8, to the disk domain: the page at AREA + 1 MiB.
    const PAGE: u64 = AREA + 0x10_0000;
    code.put(GRANTS + 8 * 8, &[1 | PEER_DISK << 16, (PAGE >> 12) as u32])?;
    code.put(PAGE, &[0x8000_0000, 1, 0, 1])?;
    // A port for it.
    code.put(AREA, &[0x7ff0 | PEER_DISK << 16, 0])?;
    code.hypercall(32, [6, AREA, 0])?;
    let node = |key: &str, value: &str| message(&format!("device/vbd/51712/{key}"), value);
    let wishes =
        [node("ring-ref", "8"), node("event-channel", "3"), node("protocol", "x86_64-abi"), node("state", "3")]
            .concat();
    let length = wishes.len() as u32;
    assert!(u64::from(length) <= RING, "they are written at once");
    let wishes = code.bytes(&wishes);
    code.mov(rsi, wishes)?;
    code.mov(rdi, STORE)?;
    code.mov(ecx, length)?;
    code.rep().movsb()?;
    code.put(STORE_PRODUCER, &[length])?;
    notify(code, 0)?;
    code.forever(|code| {
        code.mov(rdi, STORE_ANSWERS.1)?;
        code.mov(eax, dword_ptr(rdi))?;
        code.mov(rdi, STORE_ANSWERS.0)?;
        code.mov(dword_ptr(rdi), eax)?;
        notify(code, 0)?;
        notify(code, 2)
    })
}

/// Number of the peer that serves disks.
const PEER_DISK: u32 = 2;

/// A request to write a node of the store.
fn message(path: &str, value: &str) -> Vec<u8> {
    const WRITE: u32 = 11;
    let length = (path.len() + 1 + value.len()) as u32;
    [[WRITE, 1, 0, length].map(u32::to_le_bytes).as_flattened(), path.as_bytes(), &[0], value.as_bytes()].concat()
}
