//! What the core keeps about a domain: numbers here, everything larger in frames charged to the domain.

use protocol::Name;
use protocol::domain::{CLASS_GUEST, DEFAULT_WEIGHT, Reason, SchedParams, State};
use protocol::event::MAX_VCPUS;
use protocol::grant::{ENTRIES_PER_PAGE, MAX_GRANT_FRAMES, PEERS};
use protocol::layout::PAGE_SIZE;

use crate::platform::{Frame, PORT_RANGES, Phys};
use crate::ports::{Ports, TABLE_FRAMES};
use crate::sched::VcpuId;
use crate::slot::Slot;
use crate::space::Space;

/// Most grants of others a domain can hold mapped.
pub const MAX_MAPPINGS: u32 = 4096;
/// Bytes of the record of a mapping.
pub const MAPPING_SIZE: usize = 16;
/// Records of mappings in a frame.
pub const MAPPINGS_PER_FRAME: usize = PAGE_SIZE as usize / MAPPING_SIZE;
/// Frames of the largest table of mappings.
const MAPPING_FRAMES: usize = MAX_MAPPINGS as usize / MAPPINGS_PER_FRAME;
/// Offset of the death report in the frame of the peer table.
const REPORT: usize = PEERS * 8;

const _: () = assert!(REPORT + size_of::<protocol::domain::DeathReport>() <= PAGE_SIZE as usize);

/// A frame that is not there. Nothing looks behind it: the counts next to such fields say how many are valid.
pub const NO_FRAME: Frame = Frame(0);

/// A domain.
pub struct Domain {
    /// Where it is in its life; none: the slot is free.
    pub state: Option<State>,
    /// Its incarnation.
    pub incarnation: u32,
    /// Counts resets, and the end: what refers to an older one is stale.
    pub epoch: u32,
    /// Its name.
    pub name: Name,
    /// Its address space.
    pub space: Space,
    /// CPUs that have the address space loaded, a bit each.
    pub loaded: u64,
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
    /// How many vCPUs it has.
    pub vcpu_count: u32,
    /// Pages of its grant table.
    pub grant_frames: u32,
    /// Grants of others it can hold mapped.
    pub max_mappings: u32,
    /// Pages of retained memory.
    pub retained_pages: u32,
    /// Bound for the frames set aside.
    pub max_pages: u64,
    /// Why it is dead.
    pub reason: Reason,
    /// How often it is paused.
    pub pauses: u32,
    /// Handles in use.
    pub handle_count: u32,
    /// Ports open.
    pub port_count: u32,
    /// Grants of others it holds mapped.
    pub mapping_count: u32,
    /// Records of mappings that were ever in use.
    pub mappings_used: u32,
    /// First record of the list of free ones, plus one; 0 if the list is empty.
    pub mapping_free: u32,
    /// I/O ports it may use: first and count.
    pub io_ports: [(u16, u16); PORT_RANGES],
    /// How far its teardown is.
    pub progress: u64,
    /// Hypercalls it made.
    pub hypercalls: u64,
    /// Events it sent.
    pub events_sent: u64,
    /// TSC when it was created or its last reset began.
    pub created_tsc: u64,
    /// TSC when its first instruction since then was about to run.
    pub first_run_tsc: u64,
    /// How it is scheduled.
    pub schedule: SchedParams,
}

impl Domain {
    /// A free slot.
    pub const NONE: Domain = Domain {
        state: None,
        incarnation: 0,
        epoch: 0,
        name: [0; _],
        space: Space(NO_FRAME),
        loaded: 0,
        events: NO_FRAME,
        ports: Ports([NO_FRAME; TABLE_FRAMES]),
        handles: NO_FRAME,
        records: NO_FRAME,
        grants: [NO_FRAME; _],
        active: [NO_FRAME; _],
        mappings: [NO_FRAME; _],
        vcpus: [VcpuId(0); _],
        vcpu_count: 0,
        grant_frames: 0,
        max_mappings: 0,
        retained_pages: 0,
        max_pages: 0,
        reason: Reason::None,
        pauses: 0,
        handle_count: 0,
        port_count: 0,
        mapping_count: 0,
        mappings_used: 0,
        mapping_free: 0,
        io_ports: [(0, 0); _],
        progress: 0,
        hypercalls: 0,
        events_sent: 0,
        created_tsc: 0,
        first_run_tsc: 0,
        schedule: SchedParams { weight: DEFAULT_WEIGHT, cap: 0, class: CLASS_GUEST, vcpu: u32::MAX, affinity: 0 },
    };

    /// Its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<> {
        self.vcpus.into_iter().take(self.vcpu_count as usize)
    }

    /// The vCPU with this index.
    pub fn vcpu(&self, index: u64) -> Option<VcpuId> {
        if index < self.vcpu_count as u64 { self.vcpus.get(index as usize).copied() } else { None }
    }

    /// Places of an entry of the grant table, and of the record of how it is in use.
    pub fn grant(&self, reference: u32) -> Option<(Phys, Phys)> {
        let (page, entry) = (reference as usize / ENTRIES_PER_PAGE, reference as usize % ENTRIES_PER_PAGE);
        let valid = page < self.grant_frames as usize;
        Some((self.grants.get(page)?.at(entry * 8), self.active.get(page)?.at(entry * 8))).filter(|_| valid)
    }

    /// Place of the record of a mapping; the index is below `mappings_used`.
    pub fn mapping(&self, index: u32) -> Phys {
        let index = index as usize % MAX_MAPPINGS as usize;
        self.mappings[index / MAPPINGS_PER_FRAME].at(index % MAPPINGS_PER_FRAME * MAPPING_SIZE)
    }

    /// Place of an entry of the peer table; the index is below [`PEERS`].
    pub const fn peer(&self, index: u16) -> Phys {
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

/// An entry of a peer table as it is stored: 0 is an empty one.
pub const fn encode_peer(slot: Slot, incarnation: u32) -> u64 {
    (incarnation as u64) << 32 | 1 << 8 | slot.number() as u64
}

/// The domain, in one incarnation, that an entry of a peer table names.
pub const fn decode_peer(raw: u64) -> Option<(Slot, u32)> {
    if raw == 0 { None } else { Some((Slot::new(raw as usize), (raw >> 32) as u32)) }
}
