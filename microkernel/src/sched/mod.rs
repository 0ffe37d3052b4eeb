//! Which vCPU runs where, and for how long.
//!
//! *Proportional share*: whoever had the least CPU time, weighed, is next. The vCPUs that wait stand in one queue per class
//! for all CPUs - the core has one lock, and one queue makes every CPU fair to all - and a CPU takes the first that may run there.
//! *Drivers* come before guests until the CPU has spent its budget for them in the present period; beyond that they compete
//! as guests. A *cap* keeps a vCPU from running until the next period.
//!
//! Shares that cannot be had (a weight beyond one CPU, several vCPUs pinned to one) would make virtual times drift apart without
//! bound, and whoever falls behind would own its CPU for as long when that ends. So virtual time is kept within `FAR` of
//! the time at which CPUs are contended. vCPUs that stand at the bound take turns, and slices are proportional to weights.

mod entity;
mod list;
#[cfg(test)]
mod tests;

use protocol::domain::{CLASS_DRIVER, CLASS_GUEST, SchedParams, VcpuInfo, VcpuState};
use protocol::system::MAX_CPUS;

use entity::{Entity, Window, hold};
use list::{Lists, queue, timers};

use crate::table::Table;

/// vCPUs in all domains.
pub const MAX_VCPUS: usize = 512;
/// Time slice at the default weight.
pub const SLICE_NS: u64 = 5_000_000;
/// Period of caps and of the drivers' budget.
pub const PERIOD_NS: u64 = 10_000_000;
/// What drivers may use of a CPU in a period before they compete as guests.
pub const DRIVER_BUDGET_NS: u64 = PERIOD_NS / 2;
/// How far virtual times may drift apart, in virtual ns.
const FAR: u64 = 4 * SLICE_NS;
/// What a vCPU that slept may be ahead of those that ran, in virtual ns.
const CREDIT: u64 = SLICE_NS / 2;
/// How much further than one that wakes a running vCPU must be to be interrupted, in virtual ns.
const PREEMPT: u64 = SLICE_NS / 4;

const GUEST: u8 = CLASS_GUEST as u8;
const DRIVER: u8 = CLASS_DRIVER as u8;
const _: () = assert!(MAX_VCPUS.is_power_of_two() && MAX_CPUS == u64::BITS as usize);

/// A vCPU, of whatever domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuId(pub u16);

impl From<VcpuId> for usize {
    fn from(id: VcpuId) -> usize {
        id.0.into()
    }
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who runs; `None` is idle.
    pub vcpu: Option<VcpuId>,
    /// When to choose anew, in ns.
    pub until: u64,
}

/// One CPU.
struct Cpu {
    current: Option<VcpuId>,
    /// It has to choose anew before `until`.
    again: bool,
    until: u64,
    /// Since when its time is not accounted for yet.
    since: u64,
    slice_end: u64,
    /// Virtual time of whom it chose last.
    clock: u64,
    /// What drivers used of it.
    drivers: Window,
    idle_ns: u64,
}

/// The scheduler.
pub struct Scheduler {
    entities: Table<Entity, MAX_VCPUS>,
    lists: Lists,
    cpus: Table<Cpu, MAX_CPUS>,
    /// Virtual time at which CPUs are contended. Starts late enough to be subtracted from.
    front: u64,
    /// CPUs there are, a bit each.
    pub online: u64,
    idle: u64,
    /// CPUs that should choose anew now, a bit each, for who carries the message.
    pub kicks: u64,
}

impl Scheduler {
    /// A scheduler without CPUs.
    pub const fn new() -> Self {
        const CPU: Cpu = Cpu {
            current: None,
            again: true,
            until: 0,
            since: 0,
            slice_end: 0,
            clock: 0,
            drivers: Window::NEW,
            idle_ns: 0,
        };
        Scheduler {
            entities: Table([const { Entity::NONE }; MAX_VCPUS]),
            lists: Lists::new(),
            cpus: Table([CPU; MAX_CPUS]),
            front: FAR + CREDIT,
            online: 0,
            idle: 0,
            kicks: 0,
        }
    }

    /// Says how many CPUs there are.
    pub fn init(&mut self, cpus: usize) {
        self.online = u64::MAX >> (MAX_CPUS - cpus.clamp(1, MAX_CPUS));
    }

    /// The CPU that a vCPU is on.
    #[inline]
    pub fn on_cpu(&self, id: VcpuId) -> Option<usize> {
        let cpu = self.entities[id].cpu.into();
        (self.cpus[cpu].current == Some(id)).then_some(cpu)
    }

    /// Makes a vCPU known, not started.
    pub fn add(&mut self, id: VcpuId, params: &SchedParams) {
        let mut entity = Entity::NONE;
        entity.set(params);
        entity.pin(params.affinity, self.online);
        entity.cpu = entity.allowed.trailing_zeros() as u8 % MAX_CPUS as u8;
        self.entities[id] = entity;
    }

    /// Forgets a vCPU that is on no CPU.
    pub fn remove(&mut self, id: VcpuId) {
        self.stop(id);
        self.entities[id] = Entity::NONE;
    }

    /// Changes weight, cap and class and, if asked for, the CPUs it may run on.
    pub fn set(&mut self, id: VcpuId, params: &SchedParams, pin: bool, now: u64) {
        if let Some(cpu) = self.on_cpu(id) {
            self.charge(cpu, now);
        }
        let entity = &mut self.entities[id];
        entity.set(params);
        if pin {
            entity.pin(params.affinity, self.online);
        }
        if entity.hold & !hold::THROTTLED == 0 {
            entity.hold = 0;
            self.lists.remove(id);
        }
        self.enter(id, now);
        self.recall(id);
    }

    /// Lets it run for the first time.
    pub fn start(&mut self, id: VcpuId, now: u64) {
        self.release(id, hold::OFFLINE, now);
    }

    /// Ends it, until `start`.
    pub fn stop(&mut self, id: VcpuId) {
        self.lists.remove(id);
        let entity = &mut self.entities[id];
        entity.hold = entity.hold & hold::PAUSED | hold::OFFLINE;
        self.recall(id);
    }

    /// Keeps it from running, whatever happens to it meanwhile.
    pub fn pause(&mut self, id: VcpuId) {
        if self.entities[id].hold == 0 {
            self.lists.remove(id);
        }
        self.entities[id].hold |= hold::PAUSED;
        self.recall(id);
    }

    /// Takes a pause back.
    pub fn unpause(&mut self, id: VcpuId, now: u64) {
        self.release(id, hold::PAUSED, now);
    }

    /// Lets the vCPU on a CPU wait to be woken, or for a deadline in ns; `u64::MAX` is never.
    #[inline]
    pub fn block(&mut self, id: VcpuId, deadline: u64) {
        let Some(cpu) = self.on_cpu(id) else { return };
        let entity = &mut self.entities[id];
        if entity.hold & (hold::OFFLINE | hold::BLOCKED) == 0 {
            entity.hold |= hold::BLOCKED;
            if deadline != u64::MAX {
                self.lists.insert(timers(cpu), id, deadline);
            }
            self.cpus[cpu].again = true;
        }
    }

    /// Ends the wait of a vCPU, if it waits.
    #[inline]
    pub fn wake(&mut self, id: VcpuId, now: u64) {
        if self.entities[id].hold & hold::BLOCKED != 0 {
            self.lists.remove(id);
        }
        self.release(id, hold::BLOCKED, now);
    }

    /// Whether it waits to be woken.
    #[inline]
    pub fn waits(&self, id: VcpuId) -> bool {
        self.entities[id].hold & hold::BLOCKED != 0
    }

    /// Lets one that waits go on in the place of the vCPU on `cpu`, if [`Scheduler::wake`] and [`Scheduler::pick`] would do no
    /// more: nobody else wants a CPU, and the time to choose anew stays. The short way of an event; false if it is none.
    #[inline(always)]
    pub fn hand_over(&mut self, cpu: usize, id: VcpuId, now: u64) -> bool {
        self.charge(cpu, now);
        let target = &mut self.cpus[cpu];
        let Some(from) = target.current else { return false };
        if target.again || now >= target.until || self.lists.contended() {
            return false;
        }
        let Entity { time: behind, class: other, allowed: elsewhere, .. } = self.entities[from];
        let entity = &mut self.entities[id];
        if entity.hold != hold::BLOCKED || !entity.uncapped() || entity.cpu as usize != cpu {
            return false;
        }
        if entity.allowed & 1 << cpu == 0 || (entity.allowed | elsewhere) & self.idle != 0 {
            return false;
        }
        if entity.class == DRIVER && (now >= target.drivers.end || target.drivers.spent >= DRIVER_BUDGET_NS) {
            return false;
        }
        let time = entity.time.max(target.clock.max(self.front - FAR) - CREDIT);
        if entity.class < other || entity.class == other && time + PREEMPT >= behind {
            return false;
        }
        (entity.hold, entity.time) = (0, time);
        (target.current, target.clock) = (Some(id), time);
        self.front = self.front.max(time);
        self.lists.remove(id);
        self.lists.insert(queue(other), from, behind);
        true
    }

    #[inline]
    fn release(&mut self, id: VcpuId, reasons: u8, now: u64) {
        let entity = &mut self.entities[id];
        if entity.hold & reasons != 0 {
            entity.hold &= !reasons;
            self.enter(id, now);
        }
    }

    /// Makes the CPU that a vCPU is on choose anew.
    pub fn recall(&mut self, id: VcpuId) {
        if let Some(cpu) = self.on_cpu(id) {
            self.prod(1 << cpu);
        }
    }

    /// Lets those who wait for `cpu` run before the vCPU on it.
    pub fn yield_now(&mut self, cpu: usize, now: u64) {
        self.charge(cpu, now);
        let behind = self.candidate(cpu, now).map_or(0, |(_, time)| time + 1);
        let target = &mut self.cpus[cpu];
        (target.slice_end, target.again) = (now, true);
        if let Some(id) = target.current {
            let entity = &mut self.entities[id];
            entity.time = entity.time.max(behind.min(entity.time + SLICE_NS));
        }
    }

    /// Puts a vCPU that wants a CPU again into the queue. Sleeping and pinning change what it is owed only within bounds.
    #[inline]
    fn enter(&mut self, id: VcpuId, now: u64) {
        if self.entities[id].hold != 0 || self.on_cpu(id).is_some() {
            return;
        }
        let (idle, front) = (self.idle, self.front);
        let entity = &mut self.entities[id];
        let (last, free) = (1 << entity.cpu, entity.allowed & idle);
        if free & last == 0 && (free != 0 || entity.allowed & last == 0) {
            let set = if free != 0 { free } else { entity.allowed };
            entity.cpu = set.trailing_zeros() as u8 % MAX_CPUS as u8;
        }
        let cpu = usize::from(entity.cpu);
        let target = &mut self.cpus[cpu];
        let clock = target.clock.max(front - FAR);
        entity.time = entity.time.clamp(clock - CREDIT, clock + FAR);
        let (time, class) = (entity.time, entity.class);
        let better = match target.current {
            None => true,
            Some(current) => {
                let current = &self.entities[current];
                let ran = current.virtual_ns(now.saturating_sub(target.since));
                if class == current.class || target.drivers.left(DRIVER_BUDGET_NS, now) == 0 {
                    time + PREEMPT < current.time + ran
                } else {
                    class == DRIVER
                }
            }
        };
        if self.line_up(id, now) {
            self.prod(u64::from(better) << cpu);
        }
    }

    /// Makes a CPU, of a bit mask with one at the most, choose anew.
    #[inline]
    fn prod(&mut self, cpu: u64) {
        self.kicks |= cpu;
        self.idle &= !cpu;
        self.cpus[cpu.trailing_zeros() as usize].again |= cpu != 0;
    }

    /// Puts a vCPU into the queue or, if its cap is used up, lets it wait for its next window; gives whether it is queued.
    #[inline]
    fn line_up(&mut self, id: VcpuId, now: u64) -> bool {
        let entity = &mut self.entities[id];
        let cpu = usize::from(entity.cpu);
        if entity.cap_left(now) > 0 {
            self.lists.insert(queue(entity.class), id, entity.time);
            return true;
        }
        entity.hold |= hold::THROTTLED;
        self.lists.insert(timers(cpu), id, entity.window.end);
        self.prod(1 << cpu);
        false
    }

    /// Accounts for the time since the last time.
    #[inline(always)]
    fn charge(&mut self, cpu: usize, now: u64) {
        let target = &mut self.cpus[cpu];
        let ran = now.saturating_sub(core::mem::replace(&mut target.since, now));
        match target.current {
            None => target.idle_ns += ran,
            Some(id) => {
                let entity = &mut self.entities[id];
                entity.charge(ran);
                if entity.class == DRIVER {
                    target.drivers.spent += ran;
                }
            }
        }
    }

    /// Who of those that wait should run on `cpu` first, and its virtual time.
    #[inline]
    fn candidate(&mut self, cpu: usize, now: u64) -> Option<(VcpuId, u64)> {
        let drivers_first = self.cpus[cpu].drivers.left(DRIVER_BUDGET_NS, now) > 0;
        let fits = |&(id, _): &(VcpuId, u64)| self.entities[id].allowed & 1 << cpu != 0;
        let driver = self.lists.members(queue(DRIVER)).find(fits);
        let guest = self.lists.members(queue(GUEST)).find(fits);
        match (driver, guest) {
            (Some(driver), Some(guest)) if !drivers_first && guest.1 <= driver.1 => Some(guest),
            _ => driver.or(guest),
        }
    }

    /// Whether something happened since `cpu` chose last that may change its choice.
    #[inline]
    pub fn must_choose(&self, cpu: usize) -> bool {
        self.cpus[cpu].again
    }

    /// Decides what `cpu` does next.
    #[inline]
    pub fn pick(&mut self, cpu: usize, now: u64) -> Decision {
        let target = &mut self.cpus[cpu];
        if !target.again && now < target.until {
            return Decision { vcpu: target.current, until: target.until };
        }
        self.charge(cpu, now);
        self.expire(cpu, now);
        let (ran, rival) = (self.cpus[cpu].current, self.candidate(cpu, now));
        if !ran.is_some_and(|id| self.stays(cpu, id, rival, now)) {
            self.cpus[cpu].current = None;
            if let Some(id) = ran.filter(|&id| self.entities[id].hold == 0) {
                self.put_back(cpu, id, now);
            }
            match self.candidate(cpu, now) {
                Some((id, _)) => self.dispatch(cpu, id, now),
                None => self.idle |= 1 << cpu,
            }
        }
        self.decide(cpu, now)
    }

    /// Whether the vCPU on `cpu` goes on, beside the first of those that wait.
    fn stays(&mut self, cpu: usize, id: VcpuId, rival: Option<(VcpuId, u64)>, now: u64) -> bool {
        let far = self.front + FAR;
        let slice_over = now >= self.cpus[cpu].slice_end;
        let drivers_left = self.cpus[cpu].drivers.left(DRIVER_BUDGET_NS, now);
        let of = rival.map(|(id, _)| self.entities[id].class);
        let entity = &mut self.entities[id];
        if entity.hold != 0 || entity.allowed & 1 << cpu == 0 || entity.cap_left(now) == 0 {
            return false;
        }
        let stays = match rival {
            None => {
                entity.time = entity.time.min(far);
                true
            }
            Some(_) if drivers_left > 0 && of != Some(entity.class) => entity.class == DRIVER,
            Some((_, time)) if slice_over => entity.time < time,
            Some((_, time)) => entity.time <= time + PREEMPT,
        };
        let slice_end = now + entity.slice_ns;
        if stays && slice_over {
            self.cpus[cpu].slice_end = slice_end;
        }
        stays
    }

    /// Puts the vCPU that ran on `cpu` back into the queue.
    fn put_back(&mut self, cpu: usize, id: VcpuId, now: u64) {
        let entity = &mut self.entities[id];
        entity.time = entity.time.max(self.front - FAR);
        let others = entity.allowed & self.idle & !(1 << cpu);
        if self.line_up(id, now) {
            self.prod(others & others.wrapping_neg());
        }
    }

    /// Lets a vCPU run that waited.
    #[inline]
    fn dispatch(&mut self, cpu: usize, id: VcpuId, now: u64) {
        self.lists.remove(id);
        let entity = &mut self.entities[id];
        entity.cpu = cpu as u8;
        let time = entity.time;
        let slice_end = now + entity.slice_ns;
        let target = &mut self.cpus[cpu];
        (target.current, target.slice_end, target.clock) = (Some(id), slice_end, time);
        self.idle &= !(1 << cpu);
        if time > self.front && self.lists.contended() {
            self.front = time;
        }
    }

    /// When to choose anew, now that it is settled who runs.
    #[inline]
    fn decide(&mut self, cpu: usize, now: u64) -> Decision {
        let (_, timer) = self.first_timer(cpu);
        let contended = self.lists.contended();
        let target = &mut self.cpus[cpu];
        let mut until = timer;
        if let Some(id) = target.current {
            let entity = &mut self.entities[id];
            until = until.min(target.slice_end).min(now.saturating_add(entity.cap_left(now)));
            if entity.class == DRIVER && contended {
                let left = target.drivers.left(DRIVER_BUDGET_NS, now);
                until = if left > 0 { until.min(now + left) } else { until.min(target.drivers.end) };
            }
        }
        (target.until, target.again) = (until, false);
        Decision { vcpu: target.current, until }
    }

    /// Ends the waits whose time has come.
    #[inline]
    fn expire(&mut self, cpu: usize, now: u64) {
        while let (id, deadline) = self.first_timer(cpu)
            && deadline <= now
        {
            self.lists.remove(id);
            self.release(id, hold::BLOCKED | hold::THROTTLED, now);
        }
    }

    /// Whose deadline is the next that `cpu` looks after, and when it is.
    #[inline]
    fn first_timer(&self, cpu: usize) -> (VcpuId, u64) {
        self.lists.members(timers(cpu)).next().unwrap_or((VcpuId(0), u64::MAX))
    }

    /// The vCPU on a CPU.
    #[cfg(test)]
    pub fn current(&self, cpu: usize) -> Option<VcpuId> {
        self.cpus[cpu].current
    }

    /// Whether it was started and not stopped since.
    pub fn is_started(&self, id: VcpuId) -> bool {
        self.entities[id].hold & hold::OFFLINE == 0
    }

    /// State and accounts of a vCPU.
    pub fn info(&self, id: VcpuId, now: u64) -> VcpuInfo {
        let entity = &self.entities[id];
        let on = self.on_cpu(id);
        let state = match entity.hold & !hold::PAUSED {
            0 if on.is_some() => VcpuState::Running,
            0 => VcpuState::Runnable,
            held if held & hold::OFFLINE != 0 => VcpuState::Offline,
            held if held & hold::BLOCKED != 0 => VcpuState::Blocked,
            _ => VcpuState::Throttled,
        };
        let running = on.map_or(0, |cpu| now.saturating_sub(self.cpus[cpu].since));
        let cpu_ns = entity.cpu_ns + running;
        VcpuInfo { state: state as u32, cpu: entity.cpu.into(), affinity: entity.affinity, cpu_ns }
    }

    /// ns in which a CPU ran nothing.
    pub fn idle_ns(&self, cpu: usize, now: u64) -> u64 {
        let cpu = &self.cpus[cpu];
        cpu.idle_ns + if cpu.current.is_none() { now.saturating_sub(cpu.since) } else { 0 }
    }
}
