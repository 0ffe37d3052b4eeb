//! How long a device may keep a frame.

/// In ns. A frame takes microseconds, but an emulated device on a busy host may not run for seconds.
const PATIENCE_NS: u64 = 4_000_000_000;

/// Since when a device has owed frames, as far as ticks tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Frames it was done with at the last tick.
    seen: u64,
    since: u64,
}

impl Patience {
    /// Whether a device that `owes` frames, and was `done` with so many ever, has kept one for too long.
    pub fn is_over(&mut self, now: u64, owes: bool, done: u64) -> bool {
        let moved = core::mem::replace(&mut self.seen, done) != done;
        if !owes || moved || self.since == 0 {
            self.since = now;
        }
        owes && now.saturating_sub(self.since) > PATIENCE_NS
    }

    /// It was reset and works again.
    pub fn begin(&mut self, now: u64) {
        self.since = now;
    }

    /// Since when it has owed frames, if it does; else the last time when it did not. In ns.
    pub const fn since(&self) -> u64 {
        self.since
    }
}
