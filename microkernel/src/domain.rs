//! What the core keeps about a domain: numbers here, everything larger in frames charged to the domain.

use protocol::domain::{DeathReport, DomainInfo, DomainSpec, MAX_MAPPINGS, State};
use protocol::event::MAX_VCPUS;
use protocol::grant::{ENTRIES_PER_PAGE, MAX_GRANT_FRAMES, PEERS};

use crate::grants::Active;
use crate::mappings::Mapping;
use crate::platform::PORT_RANGES;
use crate::ports::{Ports, TABLE_FRAMES};
use crate::prelude::*;
use crate::sched::VcpuId;
use crate::space::Space;
use crate::vm::Vm;

/// Records of mappings in a frame.
const MAPPINGS_PER_FRAME: usize = PAGE_SIZE as usize / size_of::<Mapping>();
/// Frames of the largest table of mappings.
const MAPPING_FRAMES: usize = MAX_MAPPINGS as usize / MAPPINGS_PER_FRAME;
/// Offset of the death report in the frame of the peer table.
const REPORT: usize = PEERS * 8;

const _: () = assert!(REPORT + size_of::<DeathReport>() <= PAGE_SIZE as usize);

/// A frame that is not there. Nothing looks behind it: the counts next to such fields say how many are valid.
pub const NO_FRAME: Frame = Frame(0);

/// Place of a record in a table of frames; one behind the last is an earlier one.
#[inline]
pub fn record<T, const N: usize>(table: &[Frame; N], index: usize) -> Phys {
    let in_frame = const { PAGE_SIZE as usize / size_of::<T>() };
    table[index / in_frame % N].at(index % in_frame * size_of::<T>())
}

/// A domain.
pub struct Domain {
    /// Where it is in its life; none: the slot is free.
    pub state: Option<State>,
    /// What is told about it. Of this, `state` and what others account for are filled in when asked. `resets` counts the
    /// end too: it is the epoch, and what refers to an older one is stale.
    pub info: DomainInfo,
    /// What it was made from.
    pub spec: DomainSpec,
    /// Its address space.
    pub space: Space,
    /// Event page.
    pub events: Frame,
    /// Port table.
    pub ports: Ports,
    /// Handle table.
    pub handles: Frame,
    /// Peer table and death report.
    pub records: Frame,
    /// Grant table, which the domain writes.
    pub grants: [Frame; MAX_GRANT_FRAMES],
    /// For each entry of the grant table how it is in use.
    pub active: [Frame; MAX_GRANT_FRAMES],
    /// Grants of others it holds mapped.
    pub mappings: [Frame; MAPPING_FRAMES],
    /// Its vCPUs.
    pub vcpus: [VcpuId; MAX_VCPUS],
    /// First record of a mapping in the list of free ones; `max_mappings` if the list is empty.
    pub mapping_free: u32,
    /// I/O ports it may use: first (bits 0..16) and count (bits 16..).
    pub io_ports: [u32; PORT_RANGES],
    /// How far its teardown is.
    pub progress: u64,
    /// Its virtual machine.
    pub vm: Vm,
}

impl Domain {
    /// A free slot.
    pub const NONE: Domain = Domain {
        state: None,
        info: zerocopy::transmute!([0_u8; size_of::<DomainInfo>()]),
        spec: zerocopy::transmute!([0_u8; size_of::<DomainSpec>()]),
        space: Space(NO_FRAME),
        events: NO_FRAME,
        ports: Ports([NO_FRAME; TABLE_FRAMES]),
        handles: NO_FRAME,
        records: NO_FRAME,
        grants: [NO_FRAME; _],
        active: [NO_FRAME; _],
        mappings: [NO_FRAME; _],
        vcpus: [VcpuId(0); _],
        mapping_free: 0,
        io_ports: [0; _],
        progress: 0,
        vm: Vm::NONE,
    };

    /// Its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<> {
        self.vcpus.into_iter().take(self.info.vcpus as usize)
    }

    /// The vCPU with this index.
    #[inline]
    pub fn vcpu(&self, index: u64) -> Option<VcpuId> {
        self.vcpus.get(index as usize).copied().filter(|_| index < self.info.vcpus as u64)
    }

    /// Places of an entry of the grant table, or that of the guest, and of the record of how it is in use. A guest has the pages of
    /// its table that it placed.
    pub fn grant(&self, reference: u32, guests: bool) -> Option<(Phys, Phys)> {
        let native = (self.spec.grant_frames, &self.grants, &self.active);
        let (frames, grants, active) = if guests { self.guest_tables() } else { native };
        let page = reference as usize / ENTRIES_PER_PAGE;
        let valid = page < frames as usize && grants[page % MAX_GRANT_FRAMES] != NO_FRAME;
        let place = |table| record::<Active, _>(table, reference as usize);
        valid.then(|| (place(grants), place(active)))
    }

    /// Places for the tables that it has from the start and only the core reaches.
    pub fn tables(&mut self) -> impl Iterator<Item = &mut Frame> {
        let mapping_frames = (self.spec.max_mappings as usize).div_ceil(MAPPINGS_PER_FRAME);
        let grant_tables = self.active.iter_mut().take(self.spec.grant_frames as usize);
        let tables = [&mut self.handles, &mut self.records].into_iter().chain(&mut self.ports.0).chain(grant_tables);
        let guests = self.vm.tables().into_iter().take(if self.spec.guest_grant_frames > 0 { 2 } else { 0 });
        tables.chain(self.mappings.iter_mut().take(mapping_frames)).chain(guests)
    }

    /// Place of the record of a mapping; the index is below `max_mappings`.
    pub fn mapping(&self, index: u32) -> Phys {
        record::<Mapping, _>(&self.mappings, index as usize)
    }

    /// Place of an entry of the peer table; the index is below [`PEERS`].
    pub const fn peer(&self, index: u64) -> Phys {
        self.records.at(index as usize % PEERS * 8)
    }

    /// Place of the death report.
    pub const fn report(&self) -> Phys {
        self.records.at(REPORT)
    }

    /// Whether nothing can be done with it any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, None | Some(State::Dying))
    }
}
