//! A guest without a machine: what tests and fuzzers run the monitor against.

use core::cell::RefCell;

use protocol::arguments::GuestBoot;
use protocol::event::Port;
use protocol::vm::{segment, word};
use unikernel::vm::GuestMemory;

use crate::guest::{Guest, Services};
use crate::layout::Ram;
use crate::state::{CR0_PAGING, CR0_WRITE_PROTECT, EFER_LONG_ACTIVE, State, StateExt, enter_pvh};
use crate::time::Clock;

/// Frames of the guest's RAM.
pub const FRAMES: u64 = 2048;
/// Where its page tables lie: four pages.
pub const TABLES: u64 = 0x10_0000;
/// Virtual address of 16 pages that can be written; they lie in memory the other way round.
pub const AREA: u64 = 0x40_0000;
/// Virtual address of a large page that cannot.
pub const READ_ONLY: u64 = 0x60_0000;
/// Frame of the page with its events.
pub const SHARED_INFO: u64 = 16;
/// Ports of the monitor to which its own ports for store and console lead.
pub const SERVICES: Services = Services { store: Port(11), console: Port(12) };
/// A counter of 2 GHz, at its start.
pub const CLOCK: Clock = Clock { tsc: 0, ns: 0, tsc_hz: 2_000_000_000, start_utc: 1 << 31 };

/// A state page that no processor looks at.
#[derive(Debug)]
pub struct Page(RefCell<[u64; word::END]>);

impl Default for Page {
    fn default() -> Self {
        let page = Page(RefCell::new([0; word::END]));
        enter_pvh(&page, 0, 0);
        page
    }
}

impl State for Page {
    fn get(&self, word: usize) -> u64 {
        self.0.borrow()[word]
    }

    fn set(&self, word: usize, value: u64) {
        self.0.borrow_mut()[word] = value;
    }
}

/// Memory of which the first `populated` frames are there, and a vCPU in long mode with page tables in it.
pub fn memory(populated: u64) -> (GuestMemory, Page) {
    let mut memory = GuestMemory::take(&[(0, FRAMES)]).expect("on the host it can be taken any number of times");
    memory.populate(0, populated).expect("it is empty");
    let put = |at: u64, value: u64| memory.write(at, &value.to_le_bytes()).expect("the tables are populated");
    put(TABLES, (TABLES + 0x1000) | 3);
    put(TABLES + 0x1000, (TABLES + 0x2000) | 3);
    put(TABLES + 0x2000 + (AREA >> 21) * 8, (TABLES + 0x3000) | 3);
    put(TABLES + 0x2000 + (READ_ONLY >> 21) * 8, 0x20_0000 | 0x81);
    for page in 0..16 {
        put(TABLES + 0x3000 + page * 8, (0x8_f000 - (page << 12)) | 3);
    }
    let state = Page::default();
    state.set(word::CR0, CR0_PAGING | CR0_WRITE_PROTECT | 1);
    state.set(word::CR3, TABLES | 5);
    state.set(word::EFER, EFER_LONG_ACTIVE);
    state.set_segment(segment::CS, 8, 0xa9b, u32::MAX, 0);
    (memory, state)
}

/// A guest of which that much memory is there, and that may come to have `most` frames by touching them.
pub fn guest_supplied(populated: u64, most: u64) -> (Guest, Page) {
    let (mut guest, state) = guest(2, populated);
    guest.begin_with(most);
    (guest, state)
}

/// A guest with that much memory, and its first vCPU.
pub fn guest(vcpus: u32, populated: u64) -> (Guest, Page) {
    let (mut memory, state) = memory(populated);
    let page = memory.pin(SHARED_INFO).expect("it is populated");
    let ram = Ram::new(&GuestBoot { memory_pages: FRAMES, ..GuestBoot::default() });
    let mut guest = Guest::new(memory, ram, vcpus, 8, CLOCK, SERVICES);
    guest.events.set_shared(page, &CLOCK);
    (guest, state)
}
