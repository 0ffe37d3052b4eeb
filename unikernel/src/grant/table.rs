//! The granter's side: entries in the domain's own grant table.
//!
//! An entry can be taken back only while the peer does not use it; the core marks that in the entry. A page whose grant ends
//! too early waits, with its reference, until the peer has let go.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use protocol::error::{Error, Result};
use protocol::grant::{
    ENTRIES_PER_PAGE, GrantEntry, GrantRef, INVALID, MAX_GRANT_FRAMES, PERMIT_ACCESS, READING, REF_FIRST_FREE, WRITING,
};
use protocol::layout::{GRANT_TABLE, PAGE_SHIFT, PAGE_SIZE};
use protocol::ring::Shared;

use super::Access;
use crate::area::{Area, shared_by_area};
use crate::index::Indexes;
use crate::pages::Page;
use crate::vcpu::Mutex;

struct Table {
    area: Area,
    /// References from [`REF_FIRST_FREE`] on.
    free: Indexes,
    /// Grants that ended while the peer used the page.
    ending: Vec<(GrantRef, Page)>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn open() -> Table {
    let frames = (crate::start::info().spec.grant_frames as usize).min(MAX_GRANT_FRAMES);
    let entries = (frames * ENTRIES_PER_PAGE) as u32;
    Table {
        // SAFETY: the core maps so many pages there for the life of the domain, and no object is in them.
        area: unsafe { Area::new(GRANT_TABLE, frames * PAGE_SIZE as usize) },
        free: Indexes::new(entries.saturating_sub(REF_FIRST_FREE)),
        ending: Vec::new(),
    }
}

/// Writes an entry; the flags last, which is what makes it valid.
fn publish(area: &Area, reference: GrantRef, entry: GrantEntry) {
    let offset = reference as usize * size_of::<GrantEntry>();
    area.word(offset + 4).store(entry.frame, Ordering::Relaxed);
    area.store_u32(offset, u32::from(entry.flags) | u32::from(entry.peer) << 16);
}

/// Makes an entry invalid; `false` if the peer uses it.
fn revoke(area: &Area, reference: GrantRef) -> bool {
    const IN_USE: u32 = (READING | WRITING) as u32;
    let word = area.word(reference as usize * size_of::<GrantEntry>());
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |flags| (flags & IN_USE == 0).then_some(INVALID.into()))
        .is_ok()
}

/// A page of one's own that a peer may use.
#[derive(Debug)]
pub struct Granted {
    reference: GrantRef,
    /// Taken out only by `drop`.
    page: ManuallyDrop<Page>,
}

impl Granted {
    /// Lets the peer with index `peer` use `page`.
    pub fn new(page: Page, peer: u16, access: Access) -> Result<Granted> {
        let mut guard = TABLE.lock();
        let Table { area, free, ending } = guard.get_or_insert_with(open);
        ending.retain(|(reference, _)| {
            let over = revoke(area, *reference);
            if over {
                free.give_back(*reference - REF_FIRST_FREE);
            }
            !over
        });
        let reference = REF_FIRST_FREE + free.take().ok_or(Error::TableFull)?;
        let frame = (page.area().address() >> PAGE_SHIFT) as u32;
        publish(area, reference, GrantEntry { flags: PERMIT_ACCESS | access.flags(), peer, frame });
        Ok(Granted { reference, page: ManuallyDrop::new(page) })
    }

    /// What the peer calls it.
    pub fn reference(&self) -> GrantRef {
        self.reference
    }

    /// Its memory.
    pub fn area(&self) -> &Area {
        self.page.area()
    }
}

shared_by_area!(Granted);

impl Drop for Granted {
    fn drop(&mut self) {
        let mut guard = TABLE.lock();
        let table = guard.get_or_insert_with(open);
        // SAFETY: nobody uses the field after this: the value is being dropped.
        let page = unsafe { ManuallyDrop::take(&mut self.page) };
        if revoke(&table.area, self.reference) {
            table.free.give_back(self.reference - REF_FIRST_FREE);
        } else {
            table.ending.push((self.reference, page));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn an_entry_in_use_is_not_taken_back() {
        let mut memory = vec![0u64; 512];
        // SAFETY: the vector outlives the area and is not touched otherwise.
        let area = unsafe { Area::page(memory.as_mut_ptr() as u64) };
        publish(&area, 9, GrantEntry { flags: PERMIT_ACCESS, peer: 3, frame: 77 });
        assert_eq!((area.load_u32(72), area.load_u32(76)), (3 << 16 | 1, 77));
        area.store_u32(72, 3 << 16 | u32::from(PERMIT_ACCESS | READING));
        assert!(!revoke(&area, 9));
        area.store_u32(72, 3 << 16 | u32::from(PERMIT_ACCESS));
        assert!(revoke(&area, 9));
        assert_eq!(area.load_u32(72), 0);
        assert_eq!((area.load_u32(64), area.load_u32(80)), (0, 0));
    }
}
