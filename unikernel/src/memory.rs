//! The domain's own memory: the pages behind the heap, and how much of everything it may use.
//!
//! The core counts every frame that a domain uses, page tables and contexts included, against those set aside for it. dom0
//! can ask for fewer ([`shrink_to`]); the heap then gives back what it does not use and grows no further than that.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::domain::DomainInfo;
use protocol::error::{Error, Result};
use protocol::handle::Handle;
use protocol::hypercall::protection;
use protocol::layout::{HEAP, HEAP_END, PAGE_SIZE};
use talc::TalcLock;

use crate::heap::{Growth, Pages, trim};
use crate::hypercall::{raw, to_the_end};

/// Pages that one hypercall populates or releases; so many, from a multiple on, can be a large page.
pub(crate) const PAGES_PER_CALL: u64 = 512;

/// End of the part of the heap window that the allocator may fill; [`crate::pages`] has the rest.
pub(crate) const ALLOCATOR_END: u64 = HEAP + (HEAP_END - HEAP) / 2;

/// The allocator behind `Box`, `Vec` and all others.
#[cfg_attr(freestanding, global_allocator)]
static ALLOCATOR: TalcLock<spin::mutex::SpinMutex<(), crate::vcpu::Yield>, Growth<OwnPages>> =
    TalcLock::new(Growth::new(OwnPages, HEAP, ALLOCATOR_END));

/// Frames that the heap may make the domain use.
static TARGET: AtomicU64 = AtomicU64::new(u64::MAX);

/// Pages of this domain, by hypercall.
#[derive(Debug)]
struct OwnPages;

impl Pages for OwnPages {
    fn populate(&mut self, address: u64, count: u64) -> bool {
        let target = TARGET.load(Ordering::Relaxed);
        if target != u64::MAX && used_pages().is_none_or(|used| used + count > target) {
            return false;
        }
        populate(address, count).is_ok()
    }

    fn release(&mut self, address: u64, count: u64) -> bool {
        // SAFETY: only `trim` calls this, for pages that it has just taken from the allocator.
        unsafe { release(address, count) }.is_ok()
    }
}

/// Of `count` pages from `page` on, those for the next hypercall: none of a large page and of the next one too.
pub(crate) const fn to_the_next(page: u64, count: u64) -> u64 {
    let left = PAGES_PER_CALL - page % PAGES_PER_CALL;
    if count < left { count } else { left }
}

/// Puts zeroed writable pages at an address where there are none; all of them or none.
pub(crate) fn populate(address: u64, count: u64) -> Result<()> {
    let mut done = 0;
    while done < count {
        let at = address + done * PAGE_SIZE;
        let now = to_the_next(at / PAGE_SIZE, count - done);
        // SAFETY: the core refuses places where there is something, so no object's memory changes.
        let result = to_the_end(|| unsafe { raw::memory_populate(Handle::SELF.0.into(), at, now, protection::WRITE) });
        if let Err(error) = result {
            // SAFETY: nobody knows of these pages yet.
            let _ = unsafe { release(address, done) };
            return Err(error);
        }
        done += now;
    }
    Ok(())
}

/// Takes pages away.
///
/// # Safety
/// Nothing may use them any more.
pub(crate) unsafe fn release(address: u64, count: u64) -> Result<()> {
    let mut done = 0;
    while done < count {
        let at = address + done * PAGE_SIZE;
        let now = to_the_next(at / PAGE_SIZE, count - done);
        // SAFETY: the caller's condition.
        to_the_end(|| unsafe { raw::memory_release(at, now) })?;
        done += now;
    }
    Ok(())
}

/// What the core says about this domain.
pub fn info() -> Result<DomainInfo> {
    crate::domain::DomainHandle::SELF.info()
}

fn used_pages() -> Option<u64> {
    info().ok().map(|info| info.used_pages)
}

/// Bytes that the heap has pages for.
pub fn heap_size() -> u64 {
    ALLOCATOR.lock().source.size()
}

/// Gives free pages at the end of the heap back; gives their number.
pub fn trim_heap() -> u64 {
    trim(&mut ALLOCATOR.lock())
}

/// Makes the domain use at most `pages` frames from now on. `Err(NoMemory)` if it needs more; it then goes on as before.
pub fn shrink_to(pages: u64) -> Result<()> {
    let before = TARGET.swap(pages, Ordering::Relaxed);
    crate::pages::release_free();
    trim_heap();
    let used = info()?.used_pages;
    if used > pages {
        TARGET.store(before, Ordering::Relaxed);
        return Err(Error::NoMemory);
    }
    Ok(())
}
