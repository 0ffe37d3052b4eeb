//! One CPU: who is on it, who waits for it, and the budget of its drivers.

use protocol::domain::{CLASS_DRIVER, CLASS_GUEST};

use super::entity::Entities;
use super::heap::{Heap, RUN, TIMER};
use super::{DRIVER_BUDGET_NS, SLICE_NS, VcpuId, next_window};

/// Index of the run queue of ordinary vCPUs.
pub const GUEST: u8 = CLASS_GUEST as u8;
/// Index of the run queue of driver domains.
pub const DRIVER: u8 = CLASS_DRIVER as u8;

/// One CPU.
pub struct Cpu {
    pub current: Option<VcpuId>,
    /// There is a reason to choose anew before `until`.
    pub again: bool,
    /// When it has to choose again at the latest.
    pub until: u64,
    /// Up to here the time of this CPU is charged.
    pub since: u64,
    pub slice_end: u64,
    /// When it next compares itself with the other CPUs.
    pub balance_at: u64,
    pub idle_ns: u64,
    driver_spent_ns: u64,
    pub window_end: u64,
    /// Waiting vCPUs that could also run elsewhere.
    pub movable: u16,
    /// For each class the virtual time at which its last vCPU got this CPU; who comes is placed relative to it.
    pub clock: [u64; 2],
    /// Waiting vCPUs of each class.
    pub run: [Heap<RUN>; 2],
    pub timers: Heap<TIMER>,
}

impl Cpu {
    pub const fn new() -> Self {
        Cpu {
            current: None,
            again: false,
            until: 0,
            since: 0,
            slice_end: 0,
            balance_at: 0,
            idle_ns: 0,
            driver_spent_ns: 0,
            window_end: 0,
            movable: 0,
            clock: [0; 2],
            run: [const { Heap::new() }; 2],
            timers: Heap::new(),
        }
    }

    /// Books the time since the last call to whom it belongs.
    pub fn charge(&mut self, entities: &mut Entities, now: u64) {
        let ran = now.saturating_sub(self.since);
        self.since = self.since.max(now);
        match self.current {
            None => self.idle_ns += ran,
            Some(id) => {
                let entity = &mut entities[id];
                entity.charge(ran);
                if entity.class == DRIVER {
                    self.driver_spent_ns += ran;
                }
            }
        }
        if now >= self.window_end {
            self.driver_spent_ns = 0;
            self.window_end = next_window(self.window_end, now);
        }
    }

    /// What is left for drivers before guests go first.
    pub fn driver_budget(&self, now: u64) -> u64 {
        let spent = if now >= self.window_end { 0 } else { self.driver_spent_ns };
        DRIVER_BUDGET_NS.saturating_sub(spent)
    }

    /// The class that goes first.
    pub fn first(&self, now: u64) -> u8 {
        if self.driver_budget(now) > 0 { DRIVER } else { GUEST }
    }

    /// The waiting vCPU that goes first.
    pub fn head(&self, first: u8) -> Option<VcpuId> {
        match self.queue(DRIVER).head() {
            Some(driver) if first == DRIVER => Some(driver),
            driver => self.queue(GUEST).head().or(driver),
        }
    }

    pub fn queue(&self, class: u8) -> &Heap<RUN> {
        &self.run[class as usize & 1]
    }

    /// The virtual time of a class on this CPU, if anybody of it is here.
    pub fn clock(&self, class: u8, entities: &Entities) -> Option<u64> {
        let here = self.queue(class).head().is_some() || self.current.is_some_and(|id| entities[id].class == class);
        here.then_some(self.clock[class as usize & 1])
    }

    /// Gives the CPU to `id`, who is in no queue.
    pub fn dispatch(&mut self, entities: &Entities, id: VcpuId, now: u64) {
        self.current = Some(id);
        self.slice_end = now + SLICE_NS;
        let clock = &mut self.clock[entities[id].class as usize & 1];
        *clock = entities[id].virtual_time().max(*clock);
    }
}
