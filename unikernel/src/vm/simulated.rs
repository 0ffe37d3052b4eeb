//! Guest memory on the host: allocated pages that stand for those of a machine.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use protocol::layout::PAGE_SIZE;
use spin::Mutex;

use crate::area::Area;

type Page = &'static [AtomicU64; PAGE_SIZE as usize / 8];

/// Pages that nobody has. They are used again but never freed, because somebody may still hold an area of them.
static SPARE: Mutex<Vec<Page>> = Mutex::new(Vec::new());

/// The pages of a guest, by their frames.
#[derive(Debug, Default)]
pub(super) struct Pages(BTreeMap<u64, Page>);

impl Pages {
    pub(super) fn place(&mut self, first: u64, count: u64) {
        let new = || &*Box::leak(Box::new([const { AtomicU64::new(0) }; PAGE_SIZE as usize / 8]));
        for frame in first..first + count {
            let page = SPARE.lock().pop().unwrap_or_else(new);
            page.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            self.0.insert(frame, page);
        }
    }

    pub(super) fn remove(&mut self, frame: u64) {
        SPARE.lock().extend(self.0.remove(&frame));
    }

    pub(super) fn area(&self, frame: u64) -> Option<Area> {
        let page = self.0.get(&frame)?;
        // SAFETY: never freed, and reached by areas only while a guest has it.
        Some(unsafe { Area::page(page.as_ptr() as u64) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        SPARE.lock().extend(self.0.values());
    }
}
