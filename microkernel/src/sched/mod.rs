//! The scheduler: who runs where, and until when.
//!
//! Proportional share by virtual time: every vCPU has a clock that runs faster the smaller its weight is, and each CPU runs the
//! waiting vCPU whose clock is furthest behind, a slice at a time. A cap bounds what a vCPU gets in a period. Driver domains go
//! first, but on each CPU only until they used up their part of the period; then guests go first until it ends, so that
//! no number of storming drivers can starve them.
//!
//! It knows no machine: it is told the time, and answers with a choice and with the CPUs that have to choose anew. All of it
//! lies under the core's one lock. A CPU that enters the core to reschedule calls [`Scheduler::pick`]; nothing else puts a vCPU
//! on a CPU or takes it off. Times are ns since the core started.

mod balance;
mod entity;
mod heap;
mod queue;
#[cfg(test)]
mod tests;

use protocol::domain::{SchedParams, VcpuInfo, VcpuState};
use protocol::system::MAX_CPUS;

use entity::{Entities, Entity, hold};
use heap::TIMER;
use queue::{Cpu, DRIVER};

/// vCPUs there can be; a power of two.
pub const MAX_VCPUS: usize = 512;
/// Longest turn while others wait: short against what a person notices, long against the cost of a switch.
pub const SLICE_NS: u64 = 5_000_000;
/// Period of caps and of the budget of drivers.
pub const PERIOD_NS: u64 = 10_000_000;
/// Part of each CPU's period in which drivers go first: one half, so that guests are sure of the other.
pub const DRIVER_BUDGET_NS: u64 = PERIOD_NS / 2;

const _: () = assert!(MAX_VCPUS.is_power_of_two() && MAX_CPUS == u64::BITS as usize);

/// A vCPU, by its index in the core's table: below [`MAX_VCPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuId(pub u16);

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who runs; `None` is nobody.
    pub vcpu: Option<VcpuId>,
    /// When to choose again at the latest; `u64::MAX` is never.
    pub until: u64,
    /// Other CPUs that have to choose anew, a bit each.
    pub kick: u64,
}

/// All vCPUs and all CPUs.
pub struct Scheduler {
    entities: Entities,
    cpus: [Cpu; MAX_CPUS],
    /// CPUs that exist.
    online: u64,
    /// CPUs that chose nobody and were given nobody since.
    idle: u64,
    /// CPUs on which a vCPU waits that could run elsewhere.
    movable: u64,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler {
    /// Without CPUs and vCPUs.
    pub const fn new() -> Self {
        let cpus = [const { Cpu::new() }; MAX_CPUS];
        Scheduler { entities: Entities::new(), cpus, online: 0, idle: 0, movable: 0 }
    }

    /// Says, before any vCPU is added, that CPUs 0 to `cpus - 1` are there and will all come to [`Scheduler::pick`].
    pub fn init(&mut self, cpus: usize) {
        self.online = u64::MAX >> (MAX_CPUS - cpus.clamp(1, MAX_CPUS));
    }

    /// Adds a vCPU, not started, with weight, cap, class and affinity of `params`.
    pub fn add(&mut self, id: VcpuId, params: &SchedParams) {
        let mut entity = Entity::new();
        entity.set_params(params);
        entity.set_affinity(params.affinity, self.online);
        entity.cpu = (id.0 as usize % MAX_CPUS) as u8;
        self.entities[id] = entity;
    }

    /// Forgets a vCPU. `false` if it is still on a CPU: stop it, and wait until it is not.
    #[must_use]
    pub fn remove(&mut self, id: VcpuId) -> bool {
        self.stop(id);
        let gone = !self.is_running(id);
        if gone {
            self.entities[id] = Entity::new();
        }
        gone
    }

    /// Sets weight, cap and class. Gives the CPU that has to choose anew.
    pub fn set_params(&mut self, id: VcpuId, params: &SchedParams, now: u64) -> Option<usize> {
        self.change(id, now, |entity| entity.set_params(params))
    }

    /// Sets the CPUs it may run on, a bit each; 0 is any. Gives the CPU that has to choose anew.
    pub fn set_affinity(&mut self, id: VcpuId, affinity: u64, now: u64) -> Option<usize> {
        let online = self.online;
        self.change(id, now, |entity| entity.set_affinity(affinity, online))
    }

    fn change(&mut self, id: VcpuId, now: u64, change: impl FnOnce(&mut Entity)) -> Option<usize> {
        if let Some(cpu) = self.on_cpu(id) {
            self.cpus[cpu].charge(&mut self.entities, now);
        }
        self.withdraw(id);
        change(&mut self.entities[id]);
        self.place(id, now).or_else(|| self.recall(id))
    }

    /// Starts a vCPU that was not started, or stopped. Gives the CPU that has to choose anew.
    pub fn start(&mut self, id: VcpuId, now: u64) -> Option<usize> {
        self.release(id, hold::OFFLINE, now)
    }

    /// Ends whatever it does or waits for, until it is started again. If it is on a CPU, gives that CPU, which has to choose
    /// anew; until then [`Scheduler::is_running`].
    pub fn stop(&mut self, id: VcpuId) -> Option<usize> {
        self.withdraw(id);
        self.forget_timer(id);
        let entity = &mut self.entities[id];
        entity.hold = entity.hold & hold::PAUSED | hold::OFFLINE;
        self.recall(id)
    }

    /// Keeps it from running until unpaused, without forgetting what it waits for. Result as [`Scheduler::stop`].
    pub fn pause(&mut self, id: VcpuId) -> Option<usize> {
        if self.entities[id].queued() {
            self.dequeue(id);
        }
        self.entities[id].hold |= hold::PAUSED;
        self.recall(id)
    }

    /// Takes a pause back. Gives the CPU that has to choose anew.
    pub fn unpause(&mut self, id: VcpuId, now: u64) -> Option<usize> {
        self.release(id, hold::PAUSED, now)
    }

    /// Lets a running vCPU wait until it is woken or `deadline` has passed (`u64::MAX`: never). Its CPU must choose next.
    #[inline]
    pub fn block(&mut self, id: VcpuId, deadline: u64) {
        let entity = &mut self.entities[id];
        let cpu = &mut self.cpus[entity.cpu as usize % MAX_CPUS];
        if entity.hold & (hold::OFFLINE | hold::BLOCKED) != 0 || cpu.current != Some(id) {
            return;
        }
        entity.hold |= hold::BLOCKED;
        cpu.again = true;
        if deadline != u64::MAX {
            entity.node[TIMER].key = deadline;
            cpu.timers.push(&mut self.entities, id);
        }
    }

    /// Wakes a vCPU, if it waits. Gives the CPU that has to choose anew, which may be the caller's own.
    #[inline]
    pub fn wake(&mut self, id: VcpuId, now: u64) -> Option<usize> {
        let entity = &mut self.entities[id];
        if entity.hold & hold::BLOCKED == 0 {
            return None;
        }
        entity.hold &= !hold::BLOCKED;
        self.forget_timer(id);
        self.place(id, now)
    }

    /// Takes reasons not to run from a vCPU.
    fn release(&mut self, id: VcpuId, reasons: u8, now: u64) -> Option<usize> {
        let entity = &mut self.entities[id];
        if entity.hold & reasons == 0 {
            return None;
        }
        entity.hold &= !reasons;
        self.place(id, now)
    }

    /// Makes the CPU that a vCPU is on choose anew.
    fn recall(&mut self, id: VcpuId) -> Option<usize> {
        let cpu = self.on_cpu(id)?;
        self.cpus[cpu].again = true;
        Some(cpu)
    }

    /// Lets others of its class on this CPU go before the running vCPU. Its CPU must choose next.
    pub fn yield_now(&mut self, cpu: usize, now: u64) {
        let cpu = &mut self.cpus[cpu % MAX_CPUS];
        let Some(id) = cpu.current else { return };
        cpu.charge(&mut self.entities, now);
        (cpu.slice_end, cpu.again) = (now, true);
        if let Some(next) = cpu.queue(self.entities[id].class).head() {
            let behind = self.entities[next].virtual_time().saturating_add(1);
            let entity = &mut self.entities[id];
            let time = entity.virtual_time();
            entity.set_virtual_time(behind.clamp(time, time.saturating_add(entity.slice)));
        }
    }

    /// What `cpu` does next. Without a reason to choose anew the answer is the last one, and costs next to nothing.
    #[inline]
    pub fn pick(&mut self, cpu: usize, now: u64) -> Decision {
        let cpu = cpu % MAX_CPUS;
        let target = &self.cpus[cpu];
        if !target.again && now < target.until {
            return Decision { vcpu: target.current, until: target.until, kick: 0 };
        }
        self.choose(cpu, now)
    }

    /// Charges who ran on `cpu`, wakes whose deadline has passed there, and chooses.
    fn choose(&mut self, cpu: usize, now: u64) -> Decision {
        let mut kick = self.expire(cpu, now);
        let target = &mut self.cpus[cpu];
        target.charge(&mut self.entities, now);
        let ran = target.current;
        let stays = ran.filter(|&id| {
            let entity = &mut self.entities[id];
            entity.hold == 0 && entity.allowed & 1 << cpu != 0 && entity.allowance(now) > 0
        });
        target.current = stays;
        let first = target.first(now);
        let slice_over = stays.is_some() && now >= target.slice_end;
        let mut chosen = target.head(first).or(stays);
        if let (Some(current), Some(head)) = (stays, chosen)
            && !self.takes_over(head, current, first, slice_over)
        {
            chosen = stays;
        }
        if self.movable & !(1 << cpu) != 0 && (chosen.is_none() || now >= self.cpus[cpu].balance_at) {
            chosen = self.pull(cpu, chosen, first, now).or(chosen);
        }

        match chosen {
            Some(id) if chosen != stays || slice_over => {
                if self.entities[id].queued() {
                    self.dequeue(id);
                }
                self.cpus[cpu].dispatch(&self.entities, id, now);
                self.idle &= !(1 << cpu);
            }
            Some(_) => {}
            None => self.idle |= 1 << cpu,
        }
        if let Some(id) = ran.filter(|&id| chosen != ran && self.entities[id].hold == 0) {
            kick |= mask(self.place(id, now));
        }
        let until = self.until(cpu, chosen, now);
        let target = &mut self.cpus[cpu];
        (target.until, target.again) = (until, false);
        Decision { vcpu: chosen, until, kick: kick & !(1 << cpu) }
    }

    /// Makes those runnable whose deadline or window on this CPU has passed; gives the CPUs to kick.
    #[inline]
    fn expire(&mut self, cpu: usize, now: u64) -> u64 {
        let mut kick = 0;
        while let Some(id) = self.cpus[cpu].timers.head().filter(|&id| self.entities[id].node[TIMER].key <= now) {
            self.forget_timer(id);
            kick |= mask(self.release(id, hold::BLOCKED | hold::THROTTLED, now));
        }
        kick
    }

    /// When `cpu`, on which `chosen` runs, has to choose again.
    #[inline]
    fn until(&mut self, cpu: usize, chosen: Option<VcpuId>, now: u64) -> u64 {
        let target = &self.cpus[cpu];
        let mut until = target.timers.head().map_or(u64::MAX, |id| self.entities[id].node[TIMER].key);
        if let Some(id) = chosen {
            let entity = &mut self.entities[id];
            until = until.min(target.slice_end).min(now.saturating_add(entity.allowance(now)));
            if entity.class == DRIVER {
                let budget = target.driver_budget(now);
                until = until.min(if budget > 0 { now + budget } else { u64::MAX });
            } else if target.queue(DRIVER).head().is_some() {
                until = until.min(target.window_end);
            }
        }
        until
    }

    /// Who is on this CPU.
    pub fn current(&self, cpu: usize) -> Option<VcpuId> {
        self.cpus[cpu % MAX_CPUS].current
    }

    /// Whether it is on a CPU, or its CPU has not yet come to choose somebody else.
    pub fn is_running(&self, id: VcpuId) -> bool {
        self.on_cpu(id).is_some()
    }

    fn on_cpu(&self, id: VcpuId) -> Option<usize> {
        let cpu = self.entities[id].cpu as usize % MAX_CPUS;
        (self.cpus[cpu].current == Some(id)).then_some(cpu)
    }

    /// What a vCPU does, and what it used up to `now`.
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
        VcpuInfo {
            state: state as u32,
            cpu: entity.cpu.into(),
            affinity: entity.affinity,
            cpu_ns: entity.cpu_ns + running,
        }
    }

    /// For how long nobody ran on this CPU.
    pub fn idle_ns(&self, cpu: usize, now: u64) -> u64 {
        let cpu = &self.cpus[cpu % MAX_CPUS];
        cpu.idle_ns + if cpu.current.is_none() { now.saturating_sub(cpu.since) } else { 0 }
    }
}

/// The end of the window after one that ended at `end`: in step with it, unless a whole one was missed.
fn next_window(end: u64, now: u64) -> u64 {
    let start = if now.saturating_sub(end) < PERIOD_NS { end } else { now };
    start.saturating_add(PERIOD_NS)
}

fn mask(cpu: Option<usize>) -> u64 {
    cpu.map_or(0, |cpu| 1 << cpu)
}
