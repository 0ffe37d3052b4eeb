//! Whole pages outside the heap, to be shared with peers.
//!
//! A page that a peer can write must never hold a Rust object, so these come from their own half of the heap window and are
//! reached as [`Area`] only. Freed pages are kept for the next user until the control plane wants memory back.

use alloc::vec::Vec;

use protocol::error::{Error, Result};
use protocol::layout::{HEAP_END, PAGE_SIZE};
use protocol::ring::Shared;

use crate::area::Area;
use crate::index::Indexes;
use crate::memory::{ALLOCATOR_END, populate, release};
use crate::vcpu::Mutex;

/// Where page number 0 lies.
const BASE: u64 = ALLOCATOR_END;
/// Pages there can be: 4 GiB of address space.
const PAGES: u32 = 1 << 20;

/// End of these places; behind it lies what devices reach.
pub(crate) const PAGES_END: u64 = BASE + PAGES as u64 * PAGE_SIZE;

const _: () = assert!(PAGES_END < HEAP_END);

struct Pool {
    /// Numbers whose place is populated or in use.
    numbers: Indexes,
    /// Populated pages nobody uses.
    free: Vec<u32>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { numbers: Indexes::new(PAGES), free: Vec::new() });

/// A page of one's own that can be granted.
#[derive(Debug)]
pub struct Page {
    number: u32,
    area: Area,
}

impl Page {
    /// A zeroed page.
    pub fn new() -> Result<Page> {
        let mut pool = POOL.lock();
        let (number, fresh) = match pool.free.pop() {
            Some(number) => (number, false),
            None => (pool.numbers.take().ok_or(Error::NoMemory)?, true),
        };
        let address = BASE + u64::from(number) * PAGE_SIZE;
        if fresh && let Err(error) = populate(address, 1) {
            pool.numbers.give_back(number);
            return Err(error);
        }
        // SAFETY: populated, and nothing but this `Page` knows of it; `Drop` puts it back among the unused.
        let area = unsafe { Area::page(address) };
        if !fresh {
            area.write(0, &[0; PAGE_SIZE as usize]);
        }
        Ok(Page { number, area })
    }

    /// Keeps it for as long as the domain lives.
    pub fn into_area(self) -> Area {
        let page = core::mem::ManuallyDrop::new(self);
        // SAFETY: never dropped, the page stays populated, and its number is never given to another.
        unsafe { Area::page(page.area.address()) }
    }

    /// Its memory.
    #[inline(always)]
    pub fn area(&self) -> &Area {
        // SAFETY: made so in `new`.
        unsafe { self.area.known_page() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        POOL.lock().free.push(self.number);
    }
}

/// Gives the pages that nobody uses back to the core.
pub(crate) fn release_free() {
    let mut pool = POOL.lock();
    for number in core::mem::take(&mut pool.free) {
        // SAFETY: nobody uses the page, so nobody holds its area.
        match unsafe { release(BASE + u64::from(number) * PAGE_SIZE, 1) } {
            Ok(()) => pool.numbers.give_back(number),
            // A peer still has it mapped.
            Err(_) => pool.free.push(number),
        }
    }
}
