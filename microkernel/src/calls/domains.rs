//! Hypercalls that build, run and end domains.

use protocol::domain::{ALL_VCPUS, CLASS_DRIVER, DomainCreated, DomainSpec, MAX_MAPPINGS, MAX_RETAINED, MESSAGE_MAX};
use protocol::domain::{DeathReport, Reason, SchedParams, State, WEIGHTS};
use protocol::event::MAX_VCPUS;
use protocol::grant::{MAX_GRANT_FRAMES, PEER_FIRST_FREE, PEERS};
use protocol::system::MAX_CPUS;

use super::at_most;
use crate::grants::GUESTS;
use crate::prelude::*;
use crate::vcpu::check_start;

/// First id of a domain that is not the first domain: ids are peer indexes in its table, and those below have fixed meanings.
const FIRST_ID: usize = PEER_FIRST_FREE as usize;

impl<M: Machine> Core<M> {
    pub(super) fn domain_create(&mut self, caller: Caller, _: u64, spec: u64, out: u64) -> Result {
        let mut spec: DomainSpec = self.fetch(caller, spec)?;
        let out = self.memory(caller, out, size_of::<DomainCreated>(), true)?;
        let valid = spec.memory_pages <= spec.max_pages
            && (1..=MAX_VCPUS as u32).contains(&spec.vcpus)
            && (1..=MAX_GRANT_FRAMES as u32).contains(&spec.grant_frames)
            && spec.max_mappings <= MAX_MAPPINGS
            && spec.retained_pages <= MAX_RETAINED
            && spec.guest_grant_frames <= MAX_GRANT_FRAMES as u32
            && spec.schedule.vcpu == ALL_VCPUS;
        refuse_if(!valid, Error::Invalid)?;
        spec.schedule = self.placed(spec.guest_grant_frames > 0, spec.schedule)?;
        // The id is the index in the caller's peer table too.
        let free =
            |slot: &Slot| self.domains[*slot].state.is_none() && self.peer(caller.slot, slot.number() as u64).is_err();
        let slot = (FIRST_ID..self.domains.0.len()).map(Slot::new).find(free).ok_or(Error::TableFull)?;
        self.create(slot, &spec)?;
        let introduced = self.introduce(caller.slot, slot);
        let created = introduced.inspect_err(|_| self.demolish(slot))?;
        out.put(&self.machine, 0, &created);
        Ok(0)
    }

    pub(super) fn domain_start(&mut self, _: Caller, slot: Slot, entry: u64, stack: u64) -> Result {
        check_start(entry, stack)?;
        self.start(slot, entry, stack);
        Ok(0)
    }

    pub(super) fn domain_pause(&mut self, _: Caller, slot: Slot) -> Result {
        let domain = &mut self.domains[slot];
        refuse_if(domain.is_gone() || domain.info.pauses == u32::MAX, Error::WrongState)?;
        domain.info.pauses += 1;
        domain.vcpus().for_each(|id| self.sched.pause(id));
        // A CPU that runs one of them leaves it for the core, and cannot go back to it.
        let cpus = self.loaded(slot);
        if cpus != 0 {
            self.await_flush(cpus);
        }
        Ok(0)
    }

    pub(super) fn domain_unpause(&mut self, _: Caller, slot: Slot) -> Result {
        let domain = &mut self.domains[slot];
        refuse_if(domain.is_gone() || domain.info.pauses == 0, Error::WrongState)?;
        domain.info.pauses -= 1;
        if domain.info.pauses == 0 {
            let now = self.now();
            self.domains[slot].vcpus().for_each(|id| self.sched.unpause(id, now));
        }
        Ok(0)
    }

    pub(super) fn domain_reset(&mut self, _: Caller, slot: Slot, keep: u64) -> Result {
        refuse_if(keep > 1, Error::Invalid)?;
        refuse_if(self.domains[slot].is_gone(), Error::WrongState)?;
        if self.reset(slot, keep == 1) { Ok(0) } else { Err(Error::Again) }
    }

    pub(super) fn domain_destroy(&mut self, caller: Caller, domain: Handle) -> Result {
        let slot = self.other(caller, domain)?;
        refuse_if(!self.destroy(slot), Error::Again)?;
        self.remove_handle(caller.slot, domain);
        Ok(0)
    }

    pub(super) fn domain_exit(&mut self, caller: Caller, reason: u64, code: u64, message: u64, length: u64) -> Result {
        let reason = match u32::try_from(reason).ok().and_then(Reason::from_number) {
            Some(reason @ (Reason::Shutdown | Reason::Reboot | Reason::Panic)) => reason,
            _ => return Err(Error::Invalid),
        };
        let mut report = DeathReport { code, message_length: length, ..DeathReport::default() };
        let text = &mut report.message[..at_most(length, MESSAGE_MAX)?];
        self.memory(caller, message, text.len(), false)?.read(&self.machine, 0, text);
        self.die(caller, reason, report);
        Ok(0)
    }

    pub(super) fn domain_info(&mut self, caller: Caller, slot: Slot, out: u64) -> Result {
        let (account, domain, now) = (self.frames.accounts[slot], &self.domains[slot], self.now());
        let mut info = domain.info;
        info.state = domain.state.unwrap_or(State::Dying) as u32;
        info.vcpus_started = domain.vcpus().filter(|&id| self.sched.is_started(id)).count() as u32;
        info.cpu_ns = domain.vcpus().map(|id| self.sched.info(id, now).cpu_ns).sum();
        info.mapped_by_others = account.mapped;
        info.used_pages = account.used.into();
        info.memory_pages = account.set_aside.into();
        self.deliver(caller, out, &info)
    }

    pub(super) fn domain_death(&mut self, caller: Caller, slot: Slot, out: u64) -> Result {
        let report: DeathReport = self.machine.get(self.domains[slot].report());
        self.deliver(caller, out, &report)
    }

    pub(super) fn domain_set_memory(&mut self, _: Caller, slot: Slot, pages: u64, max: u64) -> Result {
        refuse_if(pages > max || self.domains[slot].is_gone(), Error::Invalid)?;
        self.frames.set_aside(slot, pages)?;
        self.domains[slot].info.max_pages = max;
        Ok(0)
    }

    pub(super) fn domain_schedule(&mut self, caller: Caller, slot: Slot, params: u64) -> Result {
        let mut params: SchedParams = self.fetch(caller, params)?;
        let (domain, now) = (&self.domains[slot], self.now());
        let only = domain.vcpu(params.vcpu.into());
        refuse_if(params.vcpu != ALL_VCPUS && only.is_none(), Error::Invalid)?;
        params = self.placed(domain.has_vm(), params)?;
        for id in domain.vcpus() {
            self.sched.set(id, &params, only.is_none_or(|only| only == id), now);
        }
        if only.is_some() {
            (params.vcpu, params.affinity) = (ALL_VCPUS, domain.info.schedule.affinity);
        }
        self.domains[slot].info.schedule = params;
        Ok(0)
    }

    /// Checks everything but which vCPU is meant, and says where a virtual machine may be.
    fn placed(&self, vm: bool, params: SchedParams) -> Result<SchedParams> {
        let valid = WEIGHTS.contains(&params.weight)
            && params.class <= CLASS_DRIVER
            && params.cap <= 100 * MAX_CPUS as u32
            && (params.affinity == 0 || params.affinity & self.sched.online != 0);
        refuse_if(!valid, Error::Invalid)?;
        let affinity = if vm { self.place_guests(params.affinity)? } else { params.affinity };
        Ok(SchedParams { affinity, ..params })
    }

    pub(super) fn domain_peer(&mut self, _: Caller, slot: Slot, index: u64, peer: Slot, face: u64) -> Result {
        let missing = face == 1 && !self.domains[peer].has_vm();
        refuse_if(index >= PEERS as u64 || peer == slot || face > 1 || missing, Error::Invalid)?;
        let at = self.domains[slot].peer(index);
        refuse_if(self.resolve(self.machine.load(at)).is_some(), Error::Exists)?;
        self.machine.store(at, self.reference(peer) | if face == 1 { GUESTS } else { 0 });
        Ok(0)
    }
}
