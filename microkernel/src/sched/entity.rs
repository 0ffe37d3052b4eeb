//! What the scheduler knows about one vCPU.

use protocol::domain::{CLASS_DRIVER, CLASS_GUEST, DEFAULT_WEIGHT, SchedParams};

use super::heap::{NOWHERE, Node, RUN, TIMER};
use super::{MAX_VCPUS, PERIOD_NS, SLICE_NS, VcpuId, next_window};

/// Fixed-point bits of [`Entity::inverse`]: enough that the largest weight still has 8 significant bits.
const INVERSE_BITS: u32 = 16;

/// Why a vCPU wants no CPU: bits of [`Entity::hold`].
pub mod hold {
    /// Not started, or stopped.
    pub const OFFLINE: u8 = 1 << 0;
    /// It waits to be woken, or for its deadline.
    pub const BLOCKED: u8 = 1 << 1;
    /// Its cap is used up until the next window.
    pub const THROTTLED: u8 = 1 << 2;
    /// Somebody paused it.
    pub const PAUSED: u8 = 1 << 3;
}

/// One vCPU.
pub struct Entity {
    /// [`RUN`]: its virtual time, in ns at the default weight. [`TIMER`]: its deadline, or the end of its window.
    pub node: [Node; 2],
    /// Virtual ns per ns: default weight / weight, with [`INVERSE_BITS`] of fraction.
    inverse: u64,
    /// A whole time slice in virtual ns.
    pub slice: u64,
    /// CPU time it may use in a window; `u64::MAX` is no limit.
    cap_ns: u64,
    /// CPU time used in the window; means something for capped ones only.
    spent_ns: u64,
    window_end: u64,
    /// CPU time in its life.
    pub cpu_ns: u64,
    /// CPUs it may run on: as asked for, and what there is of them.
    pub affinity: u64,
    pub allowed: u64,
    /// The CPU whose queue, timers or self it is on, or was on last.
    pub cpu: u8,
    /// Index into the run queues of a CPU: [`CLASS_GUEST`] or [`CLASS_DRIVER`].
    pub class: u8,
    /// Why it wants no CPU; 0 if it wants one.
    pub hold: u8,
}

impl Entity {
    pub const fn new() -> Self {
        let out = Node { key: 0, at: NOWHERE };
        Entity {
            node: [out; 2],
            inverse: 1 << INVERSE_BITS,
            slice: SLICE_NS,
            cap_ns: u64::MAX,
            spent_ns: 0,
            window_end: 0,
            cpu_ns: 0,
            affinity: u64::MAX,
            allowed: u64::MAX,
            cpu: 0,
            class: CLASS_GUEST as u8,
            hold: hold::OFFLINE,
        }
    }

    /// Takes over weight, cap and class.
    pub fn set_params(&mut self, params: &SchedParams) {
        self.inverse = ((DEFAULT_WEIGHT as u64) << INVERSE_BITS) / params.weight.max(1) as u64;
        self.slice = self.to_virtual(SLICE_NS);
        self.cap_ns = if params.cap == 0 { u64::MAX } else { PERIOD_NS / 100 * params.cap as u64 };
        self.class = if params.class == CLASS_DRIVER { CLASS_DRIVER as u8 } else { CLASS_GUEST as u8 };
    }

    /// Takes over the CPUs it may run on, of those that are `online`; 0 is any, and so is a mask that names none of them.
    pub fn set_affinity(&mut self, affinity: u64, online: u64) {
        self.affinity = if affinity == 0 { u64::MAX } else { affinity };
        self.allowed = if affinity & online == 0 { online } else { affinity & online };
    }

    /// Whether it can run on more than one CPU.
    pub fn movable(&self) -> bool {
        self.allowed & self.allowed.wrapping_sub(1) != 0
    }

    /// Its virtual time.
    pub fn virtual_time(&self) -> u64 {
        self.node[RUN].key
    }

    /// Where its virtual time would be after a part of a slice; `shift` says which.
    pub fn ahead_by(&self, shift: u32) -> u64 {
        self.virtual_time().saturating_add(self.slice >> shift)
    }

    pub fn set_virtual_time(&mut self, time: u64) {
        self.node[RUN].key = time;
    }

    /// CPU time as it counts for this weight. Turns are short; one of more than 18 minutes may count for less.
    pub fn to_virtual(&self, ran: u64) -> u64 {
        ran.wrapping_mul(self.inverse) >> INVERSE_BITS
    }

    /// Books CPU time.
    pub fn charge(&mut self, ran: u64) {
        self.cpu_ns += ran;
        self.spent_ns += ran;
        self.set_virtual_time(self.virtual_time().saturating_add(self.to_virtual(ran)));
    }

    /// CPU time it may use before its cap, as of `now`.
    #[inline]
    pub fn allowance(&mut self, now: u64) -> u64 {
        if self.cap_ns == u64::MAX { u64::MAX } else { self.capped_allowance(now) }
    }

    /// What it ran too long in one window is missing in the next.
    #[cold]
    fn capped_allowance(&mut self, now: u64) -> u64 {
        if now >= self.window_end {
            self.spent_ns = self.spent_ns.saturating_sub(self.cap_ns);
            self.window_end = next_window(self.window_end, now);
        }
        self.cap_ns.saturating_sub(self.spent_ns)
    }

    /// Holds it back until its window ends, which becomes the key for the timers.
    pub fn throttle(&mut self) {
        self.hold |= hold::THROTTLED;
        self.node[TIMER].key = self.window_end;
    }

    pub fn queued(&self) -> bool {
        self.node[RUN].at != NOWHERE
    }

    pub fn timed(&self) -> bool {
        self.node[TIMER].at != NOWHERE
    }
}

/// All vCPUs, by id. The index is masked rather than checked: ids come from the core's own table.
pub struct Entities([Entity; MAX_VCPUS]);

impl Entities {
    pub const fn new() -> Self {
        Entities([const { Entity::new() }; MAX_VCPUS])
    }
}

impl core::ops::Index<VcpuId> for Entities {
    type Output = Entity;

    fn index(&self, id: VcpuId) -> &Entity {
        &self.0[id.0 as usize & (MAX_VCPUS - 1)]
    }
}

impl core::ops::IndexMut<VcpuId> for Entities {
    fn index_mut(&mut self, id: VcpuId) -> &mut Entity {
        &mut self.0[id.0 as usize & (MAX_VCPUS - 1)]
    }
}
