//! The ways into the core, and out of it: what the shell calls with the lock held.

use protocol::domain::{DeathReport, Reason, State};
use protocol::error::encode;

use crate::events::{LINES, SOURCES};
use crate::flush::MAILBOXES;
use crate::platform::{Flush, Next, reg};
use crate::prelude::*;

impl<M: Machine> Core<M> {
    /// The vCPU on `cpu` made a hypercall. Inlined, so that one that is named has code of its own. Its result is in its context (RAX) when it runs again.
    #[inline(always)]
    pub fn hypercall(&mut self, cpu: usize, number: u64, arguments: [u64; 5]) {
        self.here = cpu;
        let caller = self.cpus[cpu].current;
        let domain = &mut self.domains[caller.slot];
        if domain.state != Some(State::Running) {
            // Another CPU has ended it since this vCPU was let run.
            return;
        }
        domain.info.hypercalls += 1;
        let result = self.dispatch(caller, number, arguments);
        self.machine.store(caller.context.at(reg::RAX * 8), encode(result));
    }

    /// The vCPU on `cpu` raised an exception in ring 3; its registers are in its context. `address` is CR2.
    pub fn fault(&mut self, cpu: usize, vector: u64, error: u64, address: u64) {
        self.here = cpu;
        let caller = self.cpus[cpu].current;
        if !caller.is_nobody() {
            self.die(caller, Reason::Fault, DeathReport { vector, error, address, ..DeathReport::default() });
        }
    }

    /// An interrupt fired at `cpu`. A line stays masked until its owner has dealt with it.
    pub fn interrupt(&mut self, cpu: usize, source: usize) {
        self.here = cpu;
        if source < LINES {
            self.machine.mask_line(source as u8, true);
        }
        if let Some((slot, port)) = self.interrupts[source % SOURCES] {
            self.signal(slot, port);
        }
    }

    /// What the operation in progress on `cpu` waits for, if it does; once that is reached the shell calls [`Core::resume`].
    #[inline(always)]
    pub fn awaited(&mut self, cpu: usize) -> Option<Flush> {
        if self.cpus[cpu].flush.is_some() { self.cpus[cpu].flush.take() } else { None }
    }

    /// Completes the operation that waited.
    pub fn resume(&mut self, cpu: usize) {
        self.here = cpu;
        self.settle(self.cpus[cpu].current.slot);
    }

    /// What `cpu` goes on with after a call, if nothing asks for another choice.
    #[inline(always)]
    pub fn go_on(&self, cpu: usize) -> Option<Next> {
        (!self.sched.must_choose(cpu)).then(|| self.next(self.cpus[cpu].current, u64::MAX))
    }

    #[inline(always)]
    fn next(&self, to: Caller, deadline: u64) -> Next {
        let domain = &self.domains[to.slot];
        Next::Run { context: to.context, root: domain.space.0, ports: domain.io_ports, deadline }
    }

    /// Decides what `cpu` does next. The shell calls it last in every entry, whatever the reason (the timer and a kick by
    /// another CPU have no other), and loads the root it names before it releases the lock.
    pub fn schedule(&mut self, cpu: usize) -> Next {
        self.here = cpu;
        let tsc = self.machine.tsc();
        let decision = self.sched.pick(cpu, self.clock.ns(tsc));
        let deadline = self.clock.tsc(decision.until);
        let caller = decision.vcpu.map_or(Caller::NOBODY, |id| self.vcpus[id]);
        self.cpus[cpu].current = caller;
        if caller.is_nobody() {
            return Next::Idle { deadline };
        }
        let info = &mut self.domains[caller.slot].info;
        if info.first_run_tsc == 0 {
            info.first_run_tsc = tsc;
        }
        self.next(caller, deadline)
    }

    /// CPUs on which the address space of a domain is loaded, a bit each.
    pub(crate) fn loaded(&self, slot: Slot) -> u64 {
        let cpus = self.cpus.0.iter().take(self.info.cpus as usize).enumerate();
        let on = cpus.filter(|(_, cpu)| !cpu.current.is_nobody() && cpu.current.slot == slot);
        on.fold(0, |mask, (cpu, _)| mask | 1 << cpu)
    }

    /// The other CPUs that have to enter the core soon, a bit each. The shell tells them once it has released the lock: before
    /// that they could only wait for it.
    #[inline]
    pub fn take_kicks(&mut self, cpu: usize) -> u64 {
        if self.sched.kicks == 0 { 0 } else { core::mem::take(&mut self.sched.kicks) & !(1 << cpu) }
    }

    /// After pages left the caller's address space: completes what waits for that, at once if no other CPU can have them
    /// cached, else after the flush that this requests.
    pub(crate) fn after_flush(&mut self, caller: Caller) {
        self.machine.flush_local();
        match self.loaded(caller.slot) & !(1 << self.here) {
            0 => self.settle(caller.slot),
            others => self.await_flush(others),
        }
    }

    /// Asks the shell to go on only when these CPUs have been in the core.
    pub(crate) fn await_flush(&mut self, cpus: u64) {
        let epoch = MAILBOXES.request(cpus);
        self.sched.kicks |= cpus;
        self.cpus[self.here].flush = Some(Flush { epoch, cpus });
    }

    /// The second half of unmapping and releasing.
    fn settle(&mut self, slot: Slot) {
        let cpu = &mut self.cpus[self.here];
        let mut chain = core::mem::take(&mut cpu.unmapped);
        self.frames.unpark(&self.machine, &mut cpu.parked);
        self.finish_unmap(slot, &mut chain);
    }
}
