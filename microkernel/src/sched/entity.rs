//! What the scheduler knows about one vCPU.

use protocol::domain::{DEFAULT_WEIGHT, SchedParams};
use zerocopy::FromBytes;

use super::{PERIOD_NS, SLICE_NS};

/// Fixed-point bits of [`Entity::inverse`]: enough that the largest weight still has 8 significant bits.
const INVERSE_BITS: u32 = 16;
/// Bounds of a time slice in ns: below, switching costs too much; above, others wait too long.
const SLICES_NS: core::ops::RangeInclusive<u64> = SLICE_NS / 5..=SLICE_NS * 4;

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
#[derive(FromBytes)]
pub struct Entity {
    /// CPU time it had, in ns at the default weight, moved by whatever it gained or lost by sleeping and pinning.
    pub time: u64,
    /// Virtual ns per ns: default weight / weight, with [`INVERSE_BITS`] of fraction.
    inverse: u64,
    /// Its time slice in ns, proportional to its weight: taking turns is fair, too.
    pub slice_ns: u64,
    /// CPU time it may use in a window; `u64::MAX` is no limit.
    cap_ns: u64,
    /// What it used of that.
    pub window: Window,
    /// CPU time in its life.
    pub cpu_ns: u64,
    /// CPUs it may run on: as asked for, and what there is of them.
    pub affinity: u64,
    pub allowed: u64,
    /// The CPU it is on, or was on last.
    pub cpu: u8,
    pub class: u8,
    /// Why it wants no CPU; 0 if it wants one.
    pub hold: u8,
}

impl Entity {
    /// Nobody, or one that is not [`Entity::set`] and pinned yet.
    pub const NONE: Entity = Entity { hold: hold::OFFLINE, ..zerocopy::transmute!([0_u8; size_of::<Entity>()]) };

    pub fn set(&mut self, params: &SchedParams) {
        let weight = u64::from(params.weight.max(1));
        self.inverse = (u64::from(DEFAULT_WEIGHT) << INVERSE_BITS) / weight;
        self.slice_ns = (SLICE_NS * weight / u64::from(DEFAULT_WEIGHT)).clamp(*SLICES_NS.start(), *SLICES_NS.end());
        self.cap_ns = if params.cap == 0 { u64::MAX } else { PERIOD_NS * u64::from(params.cap) / 100 };
        self.class = params.class as u8;
    }

    pub fn pin(&mut self, affinity: u64, online: u64) {
        self.affinity = if affinity == 0 { u64::MAX } else { affinity };
        self.allowed = self.affinity & online;
    }

    #[inline]
    pub fn charge(&mut self, ns: u64) {
        self.cpu_ns += ns;
        self.time += self.virtual_ns(ns);
        self.window.spent += ns;
    }

    /// What its cap leaves it for now, in ns.
    #[inline]
    pub fn cap_left(&mut self, now: u64) -> u64 {
        if self.uncapped() { u64::MAX } else { self.window.left(self.cap_ns, now) }
    }

    #[inline]
    pub fn uncapped(&self) -> bool {
        self.cap_ns == u64::MAX
    }

    /// CPU time as it counts against its share: in ns at the default weight.
    #[inline]
    pub fn virtual_ns(&self, ns: u64) -> u64 {
        ns.saturating_mul(self.inverse) >> INVERSE_BITS
    }
}

/// Time spent in the current period.
#[derive(Clone, Copy, FromBytes)]
pub struct Window {
    pub spent: u64,
    pub end: u64,
}

impl Window {
    pub const NEW: Window = Window { spent: 0, end: 0 };

    /// What is left of `limit` ns. What was spent beyond it is owed by the next period, so that lateness evens out.
    pub fn left(&mut self, limit: u64, now: u64) -> u64 {
        if now >= self.end {
            let owed = self.spent.saturating_sub(limit);
            let fresh = now - self.end >= PERIOD_NS;
            (self.spent, self.end) =
                if fresh { (owed.min(limit), now + PERIOD_NS) } else { (owed, self.end + PERIOD_NS) };
        }
        limit.saturating_sub(self.spent)
    }
}
