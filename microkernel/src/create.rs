//! Making a domain: its slot, its address space with the pages every domain has, its tables and its vCPUs.
//!
//! All of it comes from the frames set aside for the domain, and all of it or nothing is made.

use protocol::domain::{DomainCreated, DomainInfo, DomainSpec, State};
use protocol::event::CONTROL_PORT;
use protocol::grant::{
    PEER_CONSOLE, PEER_DOM0, PERMIT_ACCESS, REF_CONSOLE, REF_CONTROL_IN, REF_CONTROL_OUT, REF_HEARTBEAT,
};
use protocol::layout::{ARGUMENTS, CONSOLE, CONTROL_IN, CONTROL_OUT, EVENTS, RETAINED, START_INFO};
use protocol::layout::{GRANT_TABLE, HEARTBEAT, PAGE_SHIFT};
use protocol::start::{MAGIC, StartInfo};

use crate::domain::{Domain, NO_FRAME};
use crate::frames::Kind;
use crate::handles::Entry;
use crate::prelude::*;
use crate::space::{Access, Space, leaf};

/// What a domain may do with itself.
const SELF_RIGHTS: Rights = Rights::INSPECT.union(Rights::CONNECT).union(Rights::COPY);

impl<M: Machine> Core<M> {
    /// Makes a domain in a free slot, in state building. The specification was checked.
    pub(crate) fn create(&mut self, slot: Slot, spec: &DomainSpec) -> Result<()> {
        self.frames.set_aside(slot, spec.memory_pages)?;
        self.incarnations += 1;
        let info = DomainInfo {
            name: spec.name,
            id: slot.number() as u32,
            incarnation: self.incarnations,
            max_pages: spec.max_pages,
            created_tsc: self.machine.tsc(),
            schedule: spec.schedule,
            ..Domain::NONE.info
        };
        self.domains[slot] = Domain { state: Some(State::Building), info, spec: *spec, ..Domain::NONE };
        self.promise_large(slot, spec.large_pages)
            .and_then(|()| self.furnish(slot, spec))
            .inspect_err(|_| self.demolish(slot))
    }

    /// Makes everything a domain has from the start. Whatever was made when this fails is known to [`Core::demolish`].
    fn furnish(&mut self, slot: Slot, spec: &DomainSpec) -> Result<()> {
        for table in self.domains[slot].tables() {
            *table = self.frames.take(&self.machine, slot, Kind::OBJECT)?;
        }
        let root = self.object(slot)?;
        self.machine.copy(self.template.at(2048), root.at(2048), 2048);
        self.domains[slot].space = Space(root);
        for page in [START_INFO, ARGUMENTS] {
            self.map_new(slot, page, Kind::PRIVATE, Access::Read)?;
        }
        self.domains[slot].events = self.map_new(slot, EVENTS, Kind::PRIVATE, Access::Write)?;
        for page in [CONTROL_IN, CONTROL_OUT, CONSOLE, HEARTBEAT] {
            self.map_new(slot, page, Kind::MEMORY, Access::Write)?;
        }
        for page in 0..spec.grant_frames as usize {
            let address = GRANT_TABLE + page as u64 * PAGE_SIZE;
            self.domains[slot].grants[page] = self.map_new(slot, address, Kind::PRIVATE, Access::Write)?;
        }
        for page in 0..spec.retained_pages as u64 {
            self.map_new(slot, RETAINED + page * PAGE_SIZE, Kind::PRIVATE, Access::Write)?;
        }
        for index in 0..spec.vcpus {
            let id = self.vcpus.find_free()?;
            let context = self.object(slot)?;
            self.vcpus[id] = Caller { vcpu: id, slot, index: index as u8, context };
            self.domains[slot].vcpus[index as usize] = id;
            self.domains[slot].info.vcpus = index + 1;
            self.sched.add(id, &spec.schedule);
            self.add_guest(slot, index, context)?;
        }
        let rights = if slot == Slot::DOM0 { Rights::all() } else { SELF_RIGHTS };
        self.add_handle(slot, Entry::new(ObjectKind::Domain, rights, self.reference(slot)))?;
        self.renew_grants(slot);
        Ok(())
    }

    /// Takes a frame for a domain that is mapped nowhere.
    pub(crate) fn object(&mut self, slot: Slot) -> Result<Frame> {
        self.frames.take(&self.machine, slot, Kind::OBJECT)
    }

    /// Takes a zeroed frame for a domain and maps it where nothing is mapped.
    pub(crate) fn map_new(&mut self, slot: Slot, address: u64, kind: Kind, access: Access) -> Result<Frame> {
        let frame = self.frames.take(&self.machine, slot, kind)?;
        let space = self.domains[slot].space;
        let mapped = space.map(&self.machine, &mut self.frames, slot, address, leaf(frame, access));
        mapped.inspect_err(|_| self.frames.give_back(&self.machine, frame))?;
        self.share_table(slot, address)?;
        Ok(frame)
    }

    /// Makes the grant tables fit for a fresh image: only the entries of its rings are in use.
    pub(crate) fn renew_grants(&mut self, slot: Slot) {
        let domain = &self.domains[slot];
        let pages = domain.grants.iter().chain(&domain.active).chain(&domain.vm.grants).chain(&domain.vm.active);
        pages.filter(|&&page| page != NO_FRAME).for_each(|&page| self.machine.zero(page));
        for (reference, peer, page) in [
            (REF_CONSOLE, PEER_CONSOLE, CONSOLE),
            (REF_CONTROL_IN, PEER_DOM0, CONTROL_IN),
            (REF_CONTROL_OUT, PEER_DOM0, CONTROL_OUT),
            (REF_HEARTBEAT, PEER_DOM0, HEARTBEAT),
        ] {
            let entry = PERMIT_ACCESS as u64 | (peer as u64) << 16 | (page >> PAGE_SHIFT) << 32;
            self.machine.store(domain.grants[0].at(reference as usize * 8), entry);
        }
    }

    /// Gives a new domain to its maker: a handle, peer entries on both sides, and the control channel.
    pub(crate) fn introduce(&mut self, maker: Slot, slot: Slot) -> Result<DomainCreated> {
        let (port, _) = self.connect(maker, slot, Some(CONTROL_PORT))?;
        let entry = Entry::new(ObjectKind::Domain, Rights::all(), self.reference(slot));
        let handle = self.add_handle(maker, entry).inspect_err(|_| self.close_port(maker, port))?;
        self.machine.store(self.domains[maker].peer(slot.number() as u64), self.reference(slot));
        self.machine.store(self.domains[slot].peer(PEER_DOM0.into()), self.reference(maker));
        let incarnation = self.domains[slot].info.incarnation;
        let id = slot.number() as u16;
        Ok(DomainCreated { handle: handle as u32, id, reserved: 0, incarnation, control_port: port.0 })
    }

    /// Makes a domain in building runnable at `entry`.
    pub(crate) fn start(&mut self, slot: Slot, entry: u64, stack: u64) {
        let domain = &mut self.domains[slot];
        domain.state = Some(State::Running);
        let about = StartInfo {
            magic: MAGIC,
            abi_version: protocol::ABI_VERSION,
            id: domain.info.id,
            incarnation: domain.info.incarnation,
            resets: domain.info.resets,
            tsc_hz: self.info.tsc_hz,
            bundle_bytes: if slot == Slot::DOM0 { self.bundle_bytes } else { 0 },
            spec: DomainSpec { memory_pages: self.frames.accounts[slot].set_aside.into(), ..domain.spec },
        };
        let place = domain.space.translate(&self.machine, START_INFO, false);
        place.into_iter().for_each(|frame| self.machine.put(frame.at(0), &about));
        let first = domain.vcpus[0];
        self.start_vcpu(first, entry, stack);
    }
}
