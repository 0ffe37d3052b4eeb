//! The page in which the two of a pair speak: granted by the one that answers, mapped by the one that asks.
//!
//! Its reference is the first a domain can give, so it need not be told.

use protocol::grant::{GrantRef, REF_FIRST_FREE};
use protocol::ring::Shared;

/// Where the mailbox is.
pub const REFERENCE: GrantRef = REF_FIRST_FREE;
/// Further pages granted, with the references after that.
pub const PAGES: usize = 32;

/// Says that everything is granted.
const READY: u32 = 0x0ec4_0001;
/// Offset: [`READY`], written by the one that answers.
const STATE: usize = 0;
/// Offset: the CPU of the one that answers.
const CPU: usize = 4;
/// Offset: rounds wanted, written by the one that asks.
const WANTED: usize = 64;
/// Offset: counter of the one that answers when it woke last.
const WOKEN: usize = 128;

/// Says that everything is granted, from this CPU.
pub fn set_ready(page: &impl Shared, cpu: u32) {
    page.store_u32(CPU, cpu);
    page.store_u32(STATE, READY);
}

/// The CPU of the other one, once everything is granted.
pub fn ready(page: &impl Shared) -> Option<u32> {
    (page.load_u32(STATE) == READY).then(|| page.load_u32(CPU))
}

/// Asks for so many rounds of events.
pub fn want(page: &impl Shared, rounds: u32) {
    page.store_u32(WANTED, rounds);
}

/// Takes note of the rounds asked for.
pub fn take_wanted(page: &impl Shared) -> u32 {
    let rounds = page.load_u32(WANTED);
    page.store_u32(WANTED, 0);
    rounds
}

/// Leaves the counter for the one that asks.
pub fn set_woken(page: &impl Shared, ticks: u64) {
    page.write(WOKEN, &ticks.to_le_bytes());
}

/// The counter of the other one when it woke last.
pub fn woken(page: &impl Shared) -> u64 {
    let mut bytes = [0; 8];
    page.read(WOKEN, &mut bytes);
    u64::from_le_bytes(bytes)
}
