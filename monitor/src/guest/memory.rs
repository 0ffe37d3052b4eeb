//! How much memory the guest has, and may have.
//!
//! A guest that is told of more than it may have is supplied with what it touches, until its balloon has given back the difference.

use unikernel::vm::memory::LARGE_PAGE;

use super::Guest;

/// Places for its grant table outside of its RAM: two are enough for a table that lies in one piece, and one more for the next kernel.
const GRANT_PLACES: usize = 3;

impl Guest {
    /// Frames of RAM that it has.
    pub fn pages(&self) -> u64 {
        self.memory.count_in(&self.ram.frames())
    }

    /// Those, and the page tables that there are because it gave back parts of large pages, unless such tables were set aside.
    pub fn pages_and_tables(&self) -> u64 {
        self.pages() + if self.has_tables { 0 } else { self.memory.split() }
    }

    /// Frames of RAM, and of page tables for what it gives back in part, that it may have.
    pub fn pages_max(&self) -> u64 {
        self.memory.most()
    }

    /// Lets it have that many from now on.
    pub fn allow(&mut self, pages: u64) {
        self.memory.allow(&self.ram.frames(), pages);
        self.supply_rest();
    }

    /// Lets it begin with that much of its RAM, which is supplied as it is touched, and with page tables for all of it set aside.
    pub fn begin_with(&mut self, pages: u64) {
        self.has_tables = true;
        self.allow(pages);
    }

    /// Frames of RAM that it neither touched nor gave back. While there are some, it was told of more than it may have.
    pub fn untouched(&self) -> u64 {
        self.memory.untouched_in(&self.ram.frames())
    }

    /// Once what it never touched fits in what it may have, it gets all of it: those who share its memory cannot wait for frames, and
    /// its devices are held up until then.
    pub fn supply_rest(&mut self) {
        let untouched = self.untouched();
        if untouched == 0 || self.pages() + untouched > self.pages_max() {
            return;
        }
        // The frames were set aside for that; what cannot be had now comes when it is touched.
        if self.memory.supply_all(&self.ram.frames()).is_ok() {
            self.outbox.ports.push(self.store);
        }
    }

    /// Whether a page of its grant table can lie at a frame: in RAM, or at one of a few places beside it, because each of those takes
    /// page tables for good.
    pub fn has_place(&mut self, frame: u64) -> bool {
        let place = frame / LARGE_PAGE;
        let known = self.ram.holds_frame(frame) || self.grant_places.contains(&place);
        if !known && self.grant_places.len() < GRANT_PLACES {
            self.grant_places.push(place);
            return true;
        }
        known
    }
}
