//! The machine, and what the domain remembers beside its connections: kill points, and whether it has served yet.

use core::cell::Cell;

use protocol::connection::KillPoint;
use protocol::heartbeat;

use super::Machine;

/// The machine as services see it.
#[derive(Debug)]
pub struct Host<M> {
    /// The machine.
    pub machine: M,
    armed: Cell<Option<(KillPoint, u32)>>,
    served: Cell<bool>,
    beats: Cell<u64>,
}

impl<M: Machine> Host<M> {
    /// A domain that has just started.
    pub const fn new(machine: M) -> Host<M> {
        Host { machine, armed: Cell::new(None), served: Cell::new(false), beats: Cell::new(0) }
    }

    /// Makes the domain die at the `after`-th passage of a point, 1 being the next.
    pub(super) fn arm(&self, point: KillPoint, after: u32) {
        self.armed.set((after > 0).then_some((point, after)));
    }

    /// Whether it is to die at some point. Who passes points for every request asks this first, and is free of them otherwise.
    #[inline(always)]
    pub(super) fn is_armed(&self) -> bool {
        self.armed.get().is_some()
    }

    /// The domain is at this point of its work.
    #[inline(always)]
    pub fn pass(&self, point: KillPoint) {
        if self.is_due(point) {
            self.machine.die();
        }
    }

    /// The same; `true` if it has to die here.
    #[inline(always)]
    pub(super) fn is_due(&self, point: KillPoint) -> bool {
        self.armed.get().is_some_and(|(armed, _)| armed == point) && self.count_passage()
    }

    /// Counts a passage of the point that is armed; `true` if it was the last one.
    #[cold]
    fn count_passage(&self) -> bool {
        let Some((point, left)) = self.armed.take() else { return false };
        if left > 1 {
            self.armed.set(Some((point, left - 1)));
        }
        left == 1
    }

    /// A request was answered or passed on.
    #[inline]
    pub fn served(&self) {
        if !self.served.replace(true) {
            self.machine.pulse(heartbeat::FIRST_SERVED, self.machine.now());
        }
    }

    /// A sign of life.
    pub(super) fn beat(&self) {
        self.beats.set(self.beats.get() + 1);
        self.machine.pulse(heartbeat::BEATS, self.beats.get());
    }

    /// Says since when the oldest request is with the device, in ns; 0 if there is none.
    pub fn owed_since(&self, since: u64) {
        self.machine.pulse(heartbeat::OLDEST, since);
    }
}
