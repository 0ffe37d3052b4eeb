//! Making a domain: its slot, its address space with the pages every domain has, its tables and its vCPUs.
//!
//! All of it comes from the frames set aside for the domain, and all of it or nothing is made.

use protocol::domain::{DomainSpec, SchedParams, State};
use protocol::error::{Error, Result};
use protocol::event::CONTROL_PORT;
use protocol::grant::{PEER_CONSOLE, PEER_DOM0, PERMIT_ACCESS, REF_CONSOLE, REF_CONTROL_IN, REF_CONTROL_OUT};
use protocol::handle::Rights;
use protocol::layout::{
    ARGUMENTS, CONSOLE, CONTROL_IN, CONTROL_OUT, EVENTS, GRANT_TABLE, PAGE_SHIFT, PAGE_SIZE, RETAINED, START_INFO,
};
use protocol::start::{MAGIC, StartInfo};
use zerocopy::IntoBytes;

use crate::domain::{Domain, MAPPINGS_PER_FRAME};
use crate::frames::Kind;
use crate::handles::{self, Entry, Object};
use crate::platform::{Frame, Machine};
use crate::slot::Slot;
use crate::space::{Access, Space};
use crate::state::Core;

/// What a domain may do with itself.
const SELF_RIGHTS: Rights = Rights::INSPECT.union(Rights::CONNECT).union(Rights::COPY);

impl<M: Machine> Core<M> {
    /// Makes a domain in a free slot, in state building. The specification was checked.
    pub(crate) fn create(&mut self, slot: Slot, spec: &DomainSpec) -> Result<()> {
        self.frames.set_aside(slot, spec.memory_pages)?;
        self.incarnations += 1;
        self.domains[slot] = Domain {
            state: Some(State::Building),
            incarnation: self.incarnations,
            name: spec.name,
            grant_frames: spec.grant_frames,
            max_mappings: spec.max_mappings,
            retained_pages: spec.retained_pages,
            max_pages: spec.max_pages,
            created_tsc: self.machine.tsc(),
            schedule: spec.schedule,
            ..Domain::NONE
        };
        let made = self.furnish(slot, spec);
        if made.is_err() {
            self.demolish(slot);
        }
        made
    }

    /// Makes everything a domain has from the start. Whatever was made when this fails is known to [`Core::demolish`].
    fn furnish(&mut self, slot: Slot, spec: &DomainSpec) -> Result<()> {
        self.domains[slot].space = Space::create(&self.machine, &mut self.frames, slot, self.template)?;
        for (address, kind, access) in [
            (START_INFO, Kind::Private, Access::Read),
            (ARGUMENTS, Kind::Private, Access::Read),
            (CONTROL_IN, Kind::Memory, Access::Write),
            (CONTROL_OUT, Kind::Memory, Access::Write),
            (CONSOLE, Kind::Memory, Access::Write),
        ] {
            self.map_new(slot, address, kind, access)?;
        }
        self.domains[slot].events = self.map_new(slot, EVENTS, Kind::Private, Access::Write)?;
        self.domains[slot].handles = self.object(slot)?;
        self.domains[slot].records = self.object(slot)?;
        for table in 0..self.domains[slot].ports.0.len() {
            self.domains[slot].ports.0[table] = self.object(slot)?;
        }
        for page in 0..spec.grant_frames as usize {
            let address = GRANT_TABLE + page as u64 * PAGE_SIZE;
            self.domains[slot].grants[page] = self.map_new(slot, address, Kind::Private, Access::Write)?;
            self.domains[slot].active[page] = self.object(slot)?;
        }
        for page in 0..(spec.max_mappings as usize).div_ceil(MAPPINGS_PER_FRAME) {
            self.domains[slot].mappings[page] = self.object(slot)?;
        }
        for page in 0..spec.retained_pages as u64 {
            self.map_new(slot, RETAINED + page * PAGE_SIZE, Kind::Private, Access::Write)?;
        }
        for index in 0..spec.vcpus {
            let id = self.vcpus.find_free()?;
            let context = self.object(slot)?;
            self.vcpus[id] =
                crate::vcpu::Vcpu { domain: Some(slot), index: index as u8, context, ..crate::vcpu::Vcpu::NONE };
            self.domains[slot].vcpus[index as usize] = id;
            self.domains[slot].vcpu_count = index + 1;
            self.sched.add(id, &spec.schedule);
        }
        let incarnation = self.domains[slot].incarnation;
        let rights = if slot == Slot::DOM0 { Rights::all() } else { SELF_RIGHTS };
        self.add_handle(slot, Entry { object: Object::Domain(slot, incarnation), rights })?;
        self.renew_grants(slot);
        Ok(())
    }

    /// Takes a frame for a domain that is mapped nowhere.
    fn object(&mut self, slot: Slot) -> Result<Frame> {
        self.frames.take(&self.machine, slot, Kind::Object)
    }

    /// Takes a zeroed frame for a domain and maps it where nothing is mapped.
    pub(crate) fn map_new(&mut self, slot: Slot, address: u64, kind: Kind, access: Access) -> Result<Frame> {
        let frame = self.frames.take(&self.machine, slot, kind)?;
        let space = self.domains[slot].space;
        let mapped = space.map(&self.machine, &mut self.frames, slot, address, frame, access);
        if mapped.is_err() {
            self.frames.give_back(&self.machine, frame);
        }
        mapped.map(|()| frame)
    }

    /// Puts a handle into a domain's table.
    pub(crate) fn add_handle(&mut self, slot: Slot, entry: Entry) -> Result<u64> {
        let handle = handles::insert(&self.machine, self.domains[slot].handles, entry)?;
        self.domains[slot].handle_count += 1;
        Ok(handle.0 as u64)
    }

    /// Makes a grant table fit for a fresh image: only the entries of its rings are in use.
    pub(crate) fn renew_grants(&mut self, slot: Slot) {
        let domain = &self.domains[slot];
        for page in 0..domain.grant_frames as usize {
            self.machine.zero(domain.grants[page]);
            self.machine.zero(domain.active[page]);
        }
        for (reference, peer, page) in [
            (REF_CONSOLE, PEER_CONSOLE, CONSOLE),
            (REF_CONTROL_IN, PEER_DOM0, CONTROL_IN),
            (REF_CONTROL_OUT, PEER_DOM0, CONTROL_OUT),
        ] {
            let entry = PERMIT_ACCESS as u64 | (peer as u64) << 16 | (page >> PAGE_SHIFT) << 32;
            self.machine.store(domain.grants[0].at(reference as usize * 8), entry);
        }
    }

    /// Makes a domain in building runnable at `entry`.
    pub(crate) fn start(&mut self, slot: Slot, entry: u64, stack: u64) {
        let domain = &mut self.domains[slot];
        domain.state = Some(State::Running);
        let info = StartInfo {
            magic: MAGIC,
            abi_version: protocol::ABI_VERSION,
            id: slot.number() as u32,
            incarnation: domain.incarnation,
            resets: domain.epoch,
            vcpus: domain.vcpu_count,
            grant_frames: domain.grant_frames,
            retained_pages: domain.retained_pages,
            max_mappings: domain.max_mappings,
            memory_pages: self.frames.account(slot).set_aside as u64,
            tsc_hz: self.tsc_hz,
            bundle_bytes: if slot == Slot::DOM0 { self.bundle_bytes } else { 0 },
            name: domain.name,
        };
        if let Some(frame) = domain.space.translate(&self.machine, START_INFO, false) {
            self.machine.write(frame.at(0), info.as_bytes());
        }
        self.start_vcpu(slot, 0, entry, stack);
    }

    /// Starts a vCPU that was not started.
    pub(crate) fn start_vcpu(&mut self, slot: Slot, index: u64, entry: u64, stack: u64) {
        let Some(id) = self.domains[slot].vcpu(index) else { return };
        self.vcpus[id].started = true;
        self.vcpus[id].prepare(&self.machine, entry, stack);
        let now = self.now();
        let cpu = self.sched.start(id, now);
        self.kick(cpu);
    }

    /// Sets how a domain is scheduled.
    pub(crate) fn schedule_domain(&mut self, slot: Slot, params: &SchedParams) -> Result<()> {
        let now = self.now();
        let chosen = match params.vcpu {
            protocol::domain::ALL_VCPUS => None,
            index => Some(self.domains[slot].vcpu(index as u64).ok_or(Error::Invalid)?),
        };
        for id in self.domains[slot].vcpus() {
            let cpu = self.sched.set_params(id, params, now);
            self.kick(cpu);
            if chosen.is_none_or(|chosen| chosen == id) {
                let cpu = self.sched.set_affinity(id, params.affinity, now);
                self.kick(cpu);
            }
        }
        let affinity = if chosen.is_none() { params.affinity } else { self.domains[slot].schedule.affinity };
        self.domains[slot].schedule = SchedParams { vcpu: protocol::domain::ALL_VCPUS, affinity, ..*params };
        Ok(())
    }

    /// Gives a new domain to its maker: a handle, peer entries on both sides, and the control channel.
    pub(crate) fn introduce(&mut self, maker: Slot, slot: Slot) -> Result<(u64, u32)> {
        let (port, _) = self.connect(maker, slot, Some(CONTROL_PORT))?;
        let entry = Entry { object: Object::Domain(slot, self.domains[slot].incarnation), rights: Rights::all() };
        let handle = self.add_handle(maker, entry).inspect_err(|_| self.close_port(maker, port))?;
        self.set_peer(maker, slot.number() as u16, slot);
        self.set_peer(slot, PEER_DOM0, maker);
        Ok((handle, port.0))
    }
}
