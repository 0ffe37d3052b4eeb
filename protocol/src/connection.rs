//! Connections between a frontend and a driver domain: what each side is told, and the states one goes through.
//!
//! dom0 makes the connection and never touches what flows through it. The order is always the same: the frontend is
//! *offered* a device and answers with the grants of its rings; the backend *attaches* to them; the frontend is told that
//! the device is *ready*. After a restart of the backend only its attach message is sent again, word for word: the frontend,
//! and what was negotiated with it, are left alone.
//!
//! The ports of a connection are dom0's: it opens them before the offer and closes both when the backend has let go. Neither
//! side closes its own, because the number may by then belong to another connection.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::event::Port;
use crate::grant::GrantRef;
use crate::ring::block::Layout;

/// Pages of the largest block ring.
pub const RING_PAGES_MAX: usize = 8;
/// Longest name of a disk, partition or bridge, in bytes.
pub const TARGET_MAX: usize = 64;
/// Longest name that a frontend has for a device, in bytes.
pub const DEVICE_MAX: usize = 16;

/// What both kinds of attach messages say about the frontend. Nothing in it changes while the connection exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// The backend's number for the connection: which of its records it uses. Below what it has room for.
    pub connection: u16,
    /// The frontend's domain, as an index into the backend's peer table.
    pub peer: u16,
    /// Its incarnation: a record of another one is not continued.
    pub incarnation: u32,
    /// The backend's port to the frontend.
    pub port: Port,
}

/// A block connection, as its backend is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAttach {
    /// Who is at the other end.
    pub frontend: Frontend,
    /// The pages of the ring, in order; 1, 2, 4 or 8.
    pub ring: Vec<GrantRef, RING_PAGES_MAX>,
    /// The disk or partition, as the backend lists it ([`DiskInfo::name`]).
    pub target: String<TARGET_MAX>,
    /// Writes and discards are refused.
    pub read_only: bool,
    /// The frontend asks with the same writable pages again and again, and takes none back before the backend let go of it: it
    /// may stay mapped (Xen's `feature-persistent`).
    pub persistent: bool,
    /// How requests lie in the ring.
    pub layout: Layout,
}

/// What a disk is like: the backend's answer to an attach, passed on to the frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLimits {
    /// Size, in sectors of [`crate::ring::block::SECTOR`] bytes.
    pub sectors: u64,
    /// Bytes of the disk's own sector: the smallest transfer, 512 or a power of two above.
    pub sector_size: u32,
    /// Writes and discards are refused.
    pub read_only: bool,
    /// Flush is offered.
    pub flush: bool,
    /// Discard is offered.
    pub discard: bool,
    /// Segments of the largest indirect request; 0 if only direct requests are taken.
    pub indirect_segments: u16,
}

/// A disk or partition that a backend offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// What [`BlockAttach::target`] calls it: `virtio0` for a whole disk, `virtio0p2` for its second partition.
    pub name: String<TARGET_MAX>,
    /// Label of the partition, empty if it has none. Also accepted as a target, if no other has it.
    pub label: String<TARGET_MAX>,
    /// What it is like.
    pub limits: DiskLimits,
    /// Connections to it.
    pub users: u16,
}

/// A network connection, as its backend is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttach {
    /// Who is at the other end.
    pub frontend: Frontend,
    /// The page of the transmit ring ([`crate::ring::net::TRANSMIT`]).
    pub transmit: GrantRef,
    /// The page of the receive ring ([`crate::ring::net::RECEIVE`]).
    pub receive: GrantRef,
    /// The frontend's address, the only one it may send from.
    pub mac: [u8; 6],
    /// What the frontend can take.
    pub offload: Offload,
}

/// What one side of a network connection understands beyond whole, checked frames in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// Checksums may be left blank towards it.
    pub checksum: bool,
    /// Frames may take several slots towards it.
    pub scatter_gather: bool,
}

/// A port of the bridge, for lists. The first is the wire, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// The connection; `None` for the wire.
    pub connection: Option<u16>,
    /// Its address.
    pub mac: [u8; 6],
    /// Whether it is connected: a frontend attached, or a link on the wire.
    pub up: bool,
    /// Frames and bytes that came from it.
    pub received: Traffic,
    /// Frames and bytes that went to it.
    pub sent: Traffic,
    /// Frames from it that were refused: a foreign source address, or malformed.
    pub refused: u64,
    /// Frames for it that were dropped, for want of room.
    pub dropped: u64,
}

/// A count of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
}

/// What a backend counts of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Requests taken, replays not counted.
    pub requests: u64,
    /// Responses published.
    pub responses: u64,
    /// Requests in flight now.
    pub in_flight: u32,
    /// Most requests that were in flight at once.
    pub deepest: u32,
    /// Requests executed again after a restart.
    pub replayed: u64,
    /// Bytes moved towards the device.
    pub written: u64,
    /// Bytes moved from the device.
    pub read: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Notifications sent to the frontend.
    pub notifications: u64,
    /// Times the frontend's notification woke the backend.
    pub wakeups: u64,
    /// Hypercalls on grants.
    pub grant_calls: u64,
}

/// Who broke a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guilty {
    /// The domain with the frontend.
    Frontend,
    /// The driver domain, or what it left in its record.
    Backend,
}

/// Points at which a driver domain can be told to die, for tests of its recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillPoint {
    /// An attach message has come, nothing is done yet.
    BeforeAttach,
    /// Responses are published, the frontend is not notified; every other passage is before the record says that they are.
    AfterPublish,
    /// Between the stores that take a request: its copy is in the record, what makes the copy count is not; every other passage is
    /// right before the count of requests taken.
    MidTake,
    /// Some requests of a batch are taken, others not.
    MidBatch,
    /// The device has completed a request, its response is not written.
    AfterCompletion,
    /// Between the stores that answer a request: the response is in the ring, the record does not say so.
    MidAnswer,
    /// A detach has begun.
    DuringDetach,
    /// Requests are in flight, and before it dies, the domain flips a bit of what the record says of one. Only images built for it
    /// do that.
    DamagedRecord,
}

impl KillPoint {
    /// All of them.
    pub const ALL: [KillPoint; 8] = [
        KillPoint::BeforeAttach,
        KillPoint::AfterPublish,
        KillPoint::MidTake,
        KillPoint::MidBatch,
        KillPoint::AfterCompletion,
        KillPoint::MidAnswer,
        KillPoint::DuringDetach,
        KillPoint::DamagedRecord,
    ];

    /// Its name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            KillPoint::BeforeAttach => "before-attach",
            KillPoint::AfterPublish => "after-publish",
            KillPoint::MidTake => "mid-take",
            KillPoint::MidBatch => "mid-batch",
            KillPoint::AfterCompletion => "after-completion",
            KillPoint::MidAnswer => "mid-answer",
            KillPoint::DuringDetach => "during-detach",
            KillPoint::DamagedRecord => "damaged-record",
        }
    }
}

/// Where a connection is in its life, as dom0 sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The frontend was offered the device; its rings are not known yet.
    Offered,
    /// The rings are known; the backend does not serve them (yet, or because it is being restarted).
    Waiting {
        /// Whether the frontend was told before that the device is ready.
        known: bool,
    },
    /// The backend serves the rings.
    Serving,
    /// The frontend was asked to let go.
    Closing,
    /// Nobody uses the rings any more.
    Closed,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The frontend answered the offer.
    RingsKnown,
    /// The backend answered the attach.
    Attached,
    /// The backend went down; it will come back.
    BackendLost,
    /// The frontend's domain was restarted or reset: it has to be offered the device again.
    FrontendLost,
    /// The operator detaches it.
    Detach,
    /// The frontend let go.
    Released,
    /// The backend closed it because somebody broke a rule, or it could not be attached.
    Broken,
}

/// What dom0 has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing.
    Nothing,
    /// Offer the device to the frontend.
    Offer,
    /// Send the backend its attach message.
    Attach,
    /// Tell the frontend that the device is ready.
    Announce,
    /// Ask the frontend to let go.
    AskRelease,
    /// Tell the backend to detach.
    Detach,
}

impl State {
    /// The state after `happening`, and what is to be done; `None` if that cannot happen now.
    pub const fn after(self, happening: Happening) -> Option<(State, Duty)> {
        use Happening::*;
        use State::*;
        Some(match (self, happening) {
            (Offered, RingsKnown) => (Waiting { known: false }, Duty::Attach),
            (Waiting { known: false }, Attached) => (Serving, Duty::Announce),
            (Waiting { known: true }, Attached) => (Serving, Duty::Nothing),
            (Serving, BackendLost) => (Waiting { known: true }, Duty::Attach),
            (Waiting { known }, BackendLost) => (Waiting { known }, Duty::Attach),
            // The frontend cannot let go before what is under way is finished.
            (Closing, BackendLost) => (Closing, Duty::Attach),
            (Offered | Closed, BackendLost) => (self, Duty::Nothing),
            (Offered, FrontendLost) => (Offered, Duty::Offer),
            (Waiting { .. } | Serving, FrontendLost) => (Offered, Duty::Offer),
            (Closing | Closed, FrontendLost) => (Closed, Duty::Detach),
            (Offered, Detach) => (Closed, Duty::Detach),
            (Waiting { known: false }, Detach) => (Closed, Duty::Detach),
            (Waiting { known: true } | Serving, Detach) => (Closing, Duty::AskRelease),
            (Closing, Released) => (Closed, Duty::Detach),
            (Closing | Closed, Attached) => (self, Duty::Nothing),
            (Closing | Closed, Detach) => (self, Duty::Nothing),
            (_, Broken) => (Closed, Duty::Detach),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HAPPENINGS: [Happening; 7] = [
        Happening::RingsKnown,
        Happening::Attached,
        Happening::BackendLost,
        Happening::FrontendLost,
        Happening::Detach,
        Happening::Released,
        Happening::Broken,
    ];

    #[test]
    fn a_restart_of_the_backend_does_not_reach_the_frontend() {
        let (state, duty) = State::Serving.after(Happening::BackendLost).unwrap();
        assert_eq!(duty, Duty::Attach);
        assert_eq!(state.after(Happening::Attached), Some((State::Serving, Duty::Nothing)));
    }

    proptest! {
        /// A frontend is told `ready` once for each time it was offered the device, and a closed connection stays closed.
        #[test]
        fn announced_once_for_each_offer(choices in prop::collection::vec(0..HAPPENINGS.len(), 1..60)) {
            let (mut state, mut offers, mut announced) = (State::Offered, 1, 0);
            for happening in choices.into_iter().map(|choice| HAPPENINGS[choice]) {
                let Some((next, duty)) = state.after(happening) else { continue };
                prop_assert!(state != State::Closed || next == State::Closed);
                state = next;
                offers += u32::from(duty == Duty::Offer);
                announced += u32::from(duty == Duty::Announce);
                prop_assert!(announced <= offers);
                prop_assert!(duty != Duty::Announce || state == State::Serving);
            }
        }
    }
}
