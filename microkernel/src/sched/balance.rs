//! Which CPU a vCPU waits on.
//!
//! Who comes is put on an idle CPU if one is allowed, else on the last one. From then on a CPU pulls: when it would idle, and once
//! a time slice, it looks at the others for a waiting vCPU that has been served less than its own. Virtual times of two CPUs
//! can be compared because a CPU that pulls nothing follows the one it looked at: it keeps a claim of a few slices, no more.
//! Thus what pinned vCPUs or lopsided weights did to the clocks is forgotten, and equal spinners share all CPUs equally.

use super::entity::hold;
use super::{MAX_CPUS, SLICE_NS, Scheduler, VcpuId};

/// A woken vCPU may be this much behind the clock, as a shift of its slice: half a slice.
const CREDIT: u32 = 1;
/// It takes the CPU at once from one that is this much ahead: a quarter of a slice.
const PREEMPT: u32 = 2;
/// A vCPU is pulled if it is this much behind: half a slice.
const PULL: u32 = 1;
/// In comparisons: being behind is enough.
const NO_MARGIN: u32 = u64::BITS - 1;
/// Slices that a vCPU can be away from the clock of the CPU that it comes to.
const FAR: u64 = 4;

impl Scheduler {
    /// Queues a vCPU, if it wants a CPU and is on none. Gives the CPU that has to choose anew.
    pub(super) fn place(&mut self, id: VcpuId, now: u64) -> Option<usize> {
        let entity = &mut self.entities[id];
        let last = entity.cpu as usize % MAX_CPUS;
        if entity.hold != 0 || self.cpus[last].current == Some(id) {
            return None;
        }
        if entity.allowance(now) == 0 {
            entity.throttle();
            self.cpus[last].timers.push(&mut self.entities, id);
            self.cpus[last].again = true;
            return Some(last);
        }
        let idle = entity.allowed & self.idle;
        let set = if idle != 0 { idle } else { entity.allowed };
        let cpu = (last + set.rotate_right(last as u32).trailing_zeros() as usize) % MAX_CPUS;
        let credit = entity.slice >> CREDIT;
        self.enter(id, cpu, credit);
        self.enqueue(id);

        let (target, entity) = (&mut self.cpus[cpu], &self.entities[id]);
        let better = match target.current {
            None => idle != 0,
            Some(current) => {
                let current = &self.entities[current];
                let ahead = current.virtual_time().saturating_add(current.to_virtual(now.saturating_sub(target.since)));
                if entity.class != current.class {
                    entity.class == target.first(now)
                } else {
                    entity.ahead_by(PREEMPT) < ahead
                }
            }
        };
        self.idle &= !(1 << cpu);
        target.again |= better;
        better.then_some(cpu)
    }

    /// The better choice for `cpu` than `local` among those who wait on other CPUs; it is in no queue then.
    pub(super) fn pull(&mut self, cpu: usize, local: Option<VcpuId>, first: u8, now: u64) -> Option<VcpuId> {
        self.cpus[cpu].balance_at = now + SLICE_NS;
        let mut best: Option<VcpuId> = None;
        let mut others = self.movable & !(1 << cpu);
        while others != 0 {
            let other = others.trailing_zeros() as usize % MAX_CPUS;
            others &= others - 1;
            for class in [first, first ^ 1] {
                let Some(id) = self.movable_head(other, class, cpu) else { continue };
                if let Some(local) = local.filter(|&local| self.entities[local].class == class) {
                    self.follow(cpu, local, self.cpus[other].clock[class as usize & 1]);
                }
                if best.is_none_or(|best| self.beats(id, best, first, NO_MARGIN)) {
                    best = Some(id);
                }
            }
        }
        let id = best.filter(|&id| local.is_none_or(|local| self.beats(id, local, first, PULL)))?;
        self.dequeue(id);
        self.enter(id, cpu, self.entities[id].slice * FAR);
        Some(id)
    }

    /// Whether `id` should run rather than `than`; `margin` is a shift of its slice.
    pub(super) fn beats(&self, id: VcpuId, than: VcpuId, first: u8, margin: u32) -> bool {
        let (entity, than) = (&self.entities[id], &self.entities[than]);
        if entity.class != than.class {
            return entity.class == first;
        }
        entity.ahead_by(margin) < than.virtual_time()
    }

    /// Whether `id`, waiting on this CPU, ends the turn of `current`.
    pub(super) fn takes_over(&self, id: VcpuId, current: VcpuId, first: u8, slice_over: bool) -> bool {
        self.beats(id, current, first, if slice_over { NO_MARGIN } else { PREEMPT })
    }

    /// Makes a vCPU one of `cpu`, not far from the clock there: at most `credit` behind it.
    fn enter(&mut self, id: VcpuId, cpu: usize, credit: u64) {
        let class = self.entities[id].class;
        let clock = self.cpus[cpu].clock(class, &self.entities);
        let entity = &mut self.entities[id];
        entity.cpu = cpu as u8;
        match clock {
            None => self.cpus[cpu].clock[class as usize & 1] = entity.virtual_time(),
            Some(clock) => {
                let time = entity.virtual_time().min(clock.saturating_add(entity.slice * FAR));
                entity.set_virtual_time(time.max(clock.saturating_sub(credit)));
            }
        }
    }

    /// Moves all vCPUs of this CPU and the class of `local` forward until `local` is no longer far behind `clock`.
    fn follow(&mut self, cpu: usize, local: VcpuId, clock: u64) {
        let entity = &self.entities[local];
        let class = entity.class;
        let by = clock.saturating_sub(entity.virtual_time().saturating_add(entity.slice * FAR));
        if by == 0 {
            return;
        }
        let target = &mut self.cpus[cpu];
        let at = &mut target.clock[class as usize & 1];
        *at = at.saturating_add(by);
        let (current, entities) = (target.current, &mut self.entities);
        let on_cpu = current.filter(|&id| entities[id].class == class);
        for id in target.queue(class).members().chain(on_cpu) {
            let entity = &mut entities[id];
            entity.set_virtual_time(entity.virtual_time().saturating_add(by));
        }
    }

    /// Among those of `class` that wait on `other` and may run on `cpu`, the one that goes first.
    fn movable_head(&self, other: usize, class: u8, cpu: usize) -> Option<VcpuId> {
        let queue = self.cpus[other].queue(class);
        let fits = |&id: &VcpuId| self.entities[id].allowed & 1 << cpu != 0;
        queue
            .head()
            .filter(fits)
            .or_else(|| queue.members().filter(fits).min_by_key(|&id| self.entities[id].virtual_time()))
    }

    /// Puts a vCPU into the queue of its CPU.
    #[inline]
    fn enqueue(&mut self, id: VcpuId) {
        let entity = &self.entities[id];
        let (cpu, class, movable) = (entity.cpu as usize % MAX_CPUS, entity.class as usize & 1, entity.movable());
        let target = &mut self.cpus[cpu];
        target.run[class].push(&mut self.entities, id);
        if movable {
            target.movable += 1;
            self.movable |= 1 << cpu;
        }
    }

    /// Takes a vCPU out of the queue of its CPU.
    #[inline]
    pub(super) fn dequeue(&mut self, id: VcpuId) {
        let entity = &self.entities[id];
        let (cpu, class, movable) = (entity.cpu as usize % MAX_CPUS, entity.class as usize & 1, entity.movable());
        let target = &mut self.cpus[cpu];
        target.run[class].remove(&mut self.entities, id);
        if movable {
            target.movable -= 1;
            if target.movable == 0 {
                self.movable &= !(1 << cpu);
            }
        }
    }

    /// Takes a vCPU that waits for a CPU out of whatever holds it back.
    pub(super) fn withdraw(&mut self, id: VcpuId) {
        if self.entities[id].queued() {
            self.dequeue(id);
        }
        if self.entities[id].hold & hold::THROTTLED != 0 {
            self.forget_timer(id);
            self.entities[id].hold &= !hold::THROTTLED;
        }
    }

    /// Takes a vCPU out of the timers.
    #[inline]
    pub(super) fn forget_timer(&mut self, id: VcpuId) {
        let entity = &self.entities[id];
        if entity.timed() {
            let cpu = entity.cpu as usize % MAX_CPUS;
            self.cpus[cpu].timers.remove(&mut self.entities, id);
        }
    }
}
