//! Hypercalls that build, run and end domains.

use protocol::domain::{
    ALL_VCPUS, CLASS_DRIVER, DeathReport, DomainCreated, DomainInfo, DomainSpec, SchedParams, State, WEIGHTS,
};
use protocol::error::{Error, Result};
use protocol::event::MAX_VCPUS;
use protocol::grant::{MAX_GRANT_FRAMES, PEER_FIRST_FREE, PEERS};
use protocol::handle::{Handle, Rights};
use protocol::system::MAX_CPUS;
use zerocopy::{FromZeros, IntoBytes};

use super::vcpus::check_start;
use crate::domain::{MAX_MAPPINGS, decode_peer};
use crate::platform::Machine;
use crate::slot::Slot;
use crate::state::{Caller, Core};

/// Most pages of retained memory: they are all made by the one call that makes the domain.
const MAX_RETAINED: u32 = 1024;
/// First id of a domain that is not the first domain: ids are peer indexes in its table, and those below have fixed meanings.
const FIRST_ID: usize = PEER_FIRST_FREE as usize;

impl<M: Machine> Core<M> {
    pub(super) fn domain_create(&mut self, caller: Caller, system: Handle, spec: u64, out: u64) -> Result {
        self.system(caller, system, Rights::CONTROL)?;
        let spec: DomainSpec = self.fetch(caller, spec)?;
        let out = self.room::<DomainCreated>(caller, out)?;
        let valid = spec.memory_pages <= spec.max_pages
            && (1..=MAX_VCPUS as u32).contains(&spec.vcpus)
            && (1..=MAX_GRANT_FRAMES as u32).contains(&spec.grant_frames)
            && spec.max_mappings <= MAX_MAPPINGS
            && spec.retained_pages <= MAX_RETAINED
            && spec.schedule.vcpu == ALL_VCPUS;
        if !valid {
            return Err(Error::Invalid);
        }
        self.check_schedule(&spec.schedule)?;
        let free = |slot: &Slot| {
            let known = self.peer(caller.slot, slot.number() as u64).is_ok();
            self.domains[*slot].state.is_none() && !known
        };
        let slot = (FIRST_ID..self.domains.0.len()).map(Slot::new).find(free).ok_or(Error::TableFull)?;
        self.create(slot, &spec)?;
        let (handle, control_port) = self.introduce(caller.slot, slot).inspect_err(|_| self.demolish(slot))?;
        let incarnation = self.domains[slot].incarnation;
        let created =
            DomainCreated { handle: handle as u32, id: slot.number() as u16, reserved: 0, incarnation, control_port };
        out.put(&self.machine, 0, &created);
        Ok(0)
    }

    pub(super) fn domain_start(&mut self, caller: Caller, domain: Handle, entry: u64, stack: u64) -> Result {
        let slot = self.building(caller, domain)?;
        check_start(entry, stack)?;
        self.start(slot, entry, stack);
        Ok(0)
    }

    pub(super) fn domain_pause(&mut self, caller: Caller, domain: Handle) -> Result {
        let slot = self.other(caller, domain)?;
        let domain = &mut self.domains[slot];
        if domain.is_gone() {
            return Err(Error::WrongState);
        }
        domain.pauses = domain.pauses.checked_add(1).ok_or(Error::WrongState)?;
        let loaded = domain.loaded;
        for id in domain.vcpus() {
            self.sched.pause(id);
        }
        // A CPU that runs one of them leaves it for the core, and cannot go back to it.
        if loaded != 0 {
            self.await_flush(loaded);
        }
        Ok(0)
    }

    pub(super) fn domain_unpause(&mut self, caller: Caller, domain: Handle) -> Result {
        let slot = self.other(caller, domain)?;
        let domain = &mut self.domains[slot];
        if domain.is_gone() || domain.pauses == 0 {
            return Err(Error::WrongState);
        }
        domain.pauses -= 1;
        if domain.pauses == 0 {
            let now = self.now();
            for id in self.domains[slot].vcpus() {
                let cpu = self.sched.unpause(id, now);
                self.kick(cpu);
            }
        }
        Ok(0)
    }

    pub(super) fn domain_reset(&mut self, caller: Caller, domain: Handle) -> Result {
        let slot = self.other(caller, domain)?;
        if self.domains[slot].is_gone() || slot == Slot::DOM0 {
            return Err(Error::WrongState);
        }
        if self.reset(slot) { Ok(0) } else { Err(Error::Again) }
    }

    pub(super) fn domain_destroy(&mut self, caller: Caller, domain: Handle) -> Result {
        let slot = self.other(caller, domain)?;
        if slot == Slot::DOM0 {
            return Err(Error::NotPermitted);
        }
        if !self.destroy(slot) {
            return Err(Error::Again);
        }
        self.remove_handle(caller, domain);
        Ok(0)
    }

    pub(super) fn domain_info(&mut self, caller: Caller, domain: Handle, out: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::INSPECT)?;
        let (account, now) = (self.frames.account(slot), self.now());
        let domain = &self.domains[slot];
        let info = DomainInfo {
            name: domain.name,
            id: slot.number() as u32,
            incarnation: domain.incarnation,
            state: domain.state.unwrap_or(State::Dying) as u32,
            reason: domain.reason as u32,
            pauses: domain.pauses,
            vcpus: domain.vcpu_count,
            vcpus_started: domain.vcpus().filter(|&id| self.vcpus[id].started).count() as u32,
            handles: domain.handle_count,
            ports: domain.port_count,
            mappings: domain.mapping_count,
            mapped_by_others: account.mapped,
            resets: domain.epoch,
            used_pages: account.used as u64,
            memory_pages: account.set_aside as u64,
            max_pages: domain.max_pages,
            cpu_ns: domain.vcpus().map(|id| self.sched.info(id, now).cpu_ns).sum(),
            hypercalls: domain.hypercalls,
            events_sent: domain.events_sent,
            created_tsc: domain.created_tsc,
            first_run_tsc: domain.first_run_tsc,
            schedule: domain.schedule,
        };
        self.deliver(caller, out, &info)
    }

    pub(super) fn domain_death(&mut self, caller: Caller, domain: Handle, out: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::INSPECT)?;
        let mut report = DeathReport::new_zeroed();
        self.machine.read(self.domains[slot].report(), report.as_mut_bytes());
        self.deliver(caller, out, &report)
    }

    pub(super) fn domain_schedule(&mut self, caller: Caller, domain: Handle, params: u64) -> Result {
        let slot = self.domain(caller, domain, Rights::CONTROL)?;
        let params: SchedParams = self.fetch(caller, params)?;
        self.check_schedule(&params)?;
        self.schedule_domain(slot, &params).map(|()| 0)
    }

    /// Checks everything but which vCPU is meant.
    fn check_schedule(&self, params: &SchedParams) -> Result<()> {
        let cpus = u64::MAX >> (MAX_CPUS - self.cpu_count.clamp(1, MAX_CPUS));
        let valid = WEIGHTS.contains(&params.weight)
            && params.class <= CLASS_DRIVER
            && params.cap <= 100 * MAX_CPUS as u32
            && (params.affinity == 0 || params.affinity & cpus != 0);
        if valid { Ok(()) } else { Err(Error::Invalid) }
    }

    pub(super) fn domain_peer(&mut self, caller: Caller, domain: Handle, index: u64, peer: Handle) -> Result {
        let slot = self.domain(caller, domain, Rights::CONNECT)?;
        let peer = self.domain(caller, peer, Rights::CONNECT)?;
        if index >= PEERS as u64 || peer == slot {
            return Err(Error::Invalid);
        }
        if self.domains[slot].is_gone() || self.domains[peer].is_gone() {
            return Err(Error::WrongState);
        }
        let raw = self.machine.load(self.domains[slot].peer(index as u16));
        if decode_peer(raw).is_some_and(|(old, incarnation)| self.domains[old].incarnation == incarnation) {
            return Err(Error::Exists);
        }
        self.set_peer(slot, index as u16, peer);
        Ok(0)
    }
}
