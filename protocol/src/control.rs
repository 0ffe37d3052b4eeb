//! The control channel: what dom0 and a domain say to each other.
//!
//! Each direction is a byte ring in the child's partition ([`crate::layout::CONTROL_IN`], [`crate::layout::CONTROL_OUT`])
//! that carries frames: a little-endian u16 length, then that many bytes of a postcard-encoded [`Envelope`]. Requests carry an
//! id and are idempotent: after a restart of either side a request with the same id may come again.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::connection::{
    BlockAttach, BridgePort, DEVICE_MAX, DiskInfo, DiskLimits, Guilty, KillPoint, NetworkAttach, Offload,
    RING_PAGES_MAX, Statistics,
};
use crate::event::Port;
use crate::grant::GrantRef;
use crate::ring::block::Layout;
use crate::ring::{Shared, Violation, byte};

/// Version of the messages. Receivers refuse others.
pub const VERSION: u8 = 1;
/// Largest frame, without its length, in bytes.
pub const FRAME_MAX: usize = 512;

/// A message with its version and the id that ties an answer to its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub version: u8,
    /// Of the request; answers repeat it; 0 for what is no answer and wants none.
    pub id: u32,
    /// What is said.
    pub message: T,
}

/// What dom0 says to a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDomain {
    /// Asks for a sign of life; answered by `Done`.
    Ping,
    /// Asks the domain to end by itself, with reason Shutdown.
    Shutdown,
    /// Asks the domain to end by itself, with reason Reboot.
    Reboot,
    /// Asks the domain to use no more than this many frames; answered by `Done` when it does, else by `Failed`.
    MemoryTarget {
        /// Frames, everything charged to the domain included.
        pages: u64,
    },
    /// To the console domain: serve the console ring of a domain. Repeating it for the same peer replaces the former.
    ConsoleConnect {
        /// The domain, as an index into the console domain's peer table; its ring is grant
        /// [`crate::grant::REF_CONSOLE`] of it.
        peer: u16,
        /// The console domain's port to it.
        port: Port,
        /// Its name.
        name: String<32>,
        /// Whether it is dom0's shell: shown first, and returned to by the escape key.
        shell: bool,
    },
    /// To the console domain: stop serving a domain and forget its backlog.
    ConsoleDisconnect {
        /// As in `ConsoleConnect`.
        peer: u16,
    },
    /// To the console domain: give the operator's terminal to this domain, its backlog first.
    ConsoleFocus {
        /// As in `ConsoleConnect`.
        peer: u16,
    },
    /// A channel to another domain is there, because that one's configuration says `connect = [..]`. The later one of the two
    /// is told by a word `connect=<name>:<port>:<peer>` on its command line instead.
    Connected {
        /// The other domain's name.
        name: String<32>,
        /// The port to it.
        port: Port,
        /// Its index in the peer table.
        peer: u16,
    },
    /// To a disk domain: serve a connection; answered by `BlockAttached`. The same connection again, after a restart or for
    /// any other reason, continues it.
    BlockAttach(BlockAttach),
    /// To a network domain: serve a connection; answered by `NetworkAttached`. Otherwise as `BlockAttach`.
    NetworkAttach(NetworkAttach),
    /// To a driver domain: finish what is with the device, unmap the rings, and forget the connection and its record;
    /// answered by `Done`. One that is not attached is forgotten, too. The port is closed by dom0.
    Detach {
        /// [`crate::connection::Frontend::connection`].
        connection: u16,
    },
    /// To a driver domain: what it counted of a connection; answered by `Statistics`.
    Statistics {
        /// As in `Detach`.
        connection: u16,
    },
    /// To a disk domain: what is the `index`-th disk or partition? Answered by `Disk`.
    DiskAt {
        /// From 0.
        index: u16,
    },
    /// To a network domain: what is the `index`-th port? Answered by `BridgePort`.
    BridgePortAt {
        /// From 0; the wires come first.
        index: u16,
    },
    /// To a driver domain: die at the `after`-th passage of this point from now, 1 being the next. For tests of recovery.
    ArmKill {
        /// Where.
        point: KillPoint,
        /// When.
        after: u32,
    },
    /// To a frontend: there is a disk; answered by `BlockRing`. The same device again means that the former one is gone.
    BlockOffer {
        /// The frontend's name for it, for instance `xvda`.
        device: String<DEVICE_MAX>,
        /// The driver domain, as an index into the frontend's peer table.
        peer: u16,
        /// The frontend's port to it.
        port: Port,
        /// It is configured for reading only; the disk may be so itself, which [`DiskLimits`] say.
        read_only: bool,
    },
    /// To a frontend: the disk can be used.
    BlockReady {
        /// As in `BlockOffer`.
        device: String<DEVICE_MAX>,
        /// What it is like.
        limits: DiskLimits,
    },
    /// To a frontend: there is a network interface; answered by `NetworkRings`. Otherwise as `BlockOffer`.
    NetworkOffer {
        /// The frontend's name for it, for instance `eth0`.
        device: String<DEVICE_MAX>,
        /// The driver domain, as an index into the frontend's peer table.
        peer: u16,
        /// The frontend's port to it.
        port: Port,
        /// Its address.
        mac: [u8; 6],
    },
    /// To a frontend: the network interface can be used.
    NetworkReady {
        /// As in `NetworkOffer`.
        device: String<DEVICE_MAX>,
        /// What the backend takes.
        offload: Offload,
    },
    /// To a frontend: finish what is under way and let go of the device; answered by `Done` when no request is in flight. The
    /// rings stay granted until `DeviceGone`.
    DeviceRelease {
        /// Its name.
        device: String<DEVICE_MAX>,
    },
    /// To a frontend: the backend has let go, or is no more, and the rings are the frontend's alone. The port is closed by
    /// dom0.
    DeviceGone {
        /// Its name.
        device: String<DEVICE_MAX>,
    },
    /// To a frontend: the size of a disk changed.
    BlockResized {
        /// Its name.
        device: String<DEVICE_MAX>,
        /// What it is like now.
        limits: DiskLimits,
    },
    /// To a monitor: let its guest use this many of its vCPUs; answered by `Done` when the guest was asked to.
    VcpuTarget {
        /// At least 1, at most as many as the domain has.
        vcpus: u32,
    },
}

/// What a domain says to dom0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDomain {
    /// First message after each start.
    Ready {
        /// [`crate::ABI_VERSION`] it was built with.
        abi_version: u32,
    },
    /// A request was carried out.
    Done,
    /// A request was refused.
    Failed {
        /// Why, for the operator.
        reason: String<128>,
    },
    /// From the console domain: the operator pressed the escape key; the shell has the terminal again.
    ConsoleReturned,
    /// Answer to `BlockAttach`.
    BlockAttached {
        /// What the disk is like.
        limits: DiskLimits,
        /// Requests found in the record and executed again; 0 for a new connection.
        replayed: u32,
    },
    /// Answer to `NetworkAttach`.
    NetworkAttached {
        /// What the backend takes.
        offload: Offload,
    },
    /// Answer to `Statistics`.
    Statistics(Statistics),
    /// Answer to `DiskAt`; `None` past the last one.
    Disk(Option<DiskInfo>),
    /// Answer to `BridgePortAt`; `None` past the last one.
    BridgePort(Option<BridgePort>),
    /// From a frontend: answer to `BlockOffer`.
    BlockRing {
        /// The pages of the ring, granted to the peer of the offer, writable.
        ring: Vec<GrantRef, RING_PAGES_MAX>,
        /// As in [`BlockAttach::persistent`].
        persistent: bool,
        /// As in [`BlockAttach::layout`].
        layout: Layout,
    },
    /// From a frontend: answer to `NetworkOffer`.
    NetworkRings {
        /// The page of the transmit ring.
        transmit: GrantRef,
        /// The page of the receive ring.
        receive: GrantRef,
        /// What the frontend can take.
        offload: Offload,
    },
    /// From a driver domain, unasked: a connection is closed because somebody broke a rule. It stays closed until it is detached.
    ConnectionBroken {
        /// [`crate::connection::Frontend::connection`].
        connection: u16,
        /// Who did.
        guilty: Guilty,
        /// What was found, with the numbers.
        reason: String<128>,
    },
    /// From a frontend, unasked: it closed a device's connection because the driver domain broke a rule.
    DeviceBroken {
        /// Its name.
        device: String<DEVICE_MAX>,
        /// What was found, with the numbers.
        reason: String<128>,
    },
    /// From a disk domain, unasked: the disk behind a connection has another size.
    DiskResized {
        /// [`crate::connection::Frontend::connection`].
        connection: u16,
        /// What it is like now.
        limits: DiskLimits,
    },
    /// From a frontend, unasked: it let go of a device by itself and does not use its rings any more; it can be offered the
    /// device again.
    DeviceClosed {
        /// Its name.
        device: String<DEVICE_MAX>,
    },
}

/// A frame could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The peer broke the ring; the channel is closed for good.
    Ring(Violation),
    /// The frame was no message of this version; it was skipped.
    Malformed,
}

/// Encodes a frame into `buffer`; gives its bytes. `None` if the message is too large.
pub fn encode<'b, T: Serialize>(envelope: &Envelope<T>, buffer: &'b mut [u8; FRAME_MAX + 2]) -> Option<&'b [u8]> {
    let used = postcard::to_slice(envelope, &mut buffer[2..]).ok()?.len();
    buffer[..2].copy_from_slice(&u16::try_from(used).ok()?.to_le_bytes());
    Some(&buffer[..used + 2])
}

/// Decodes the bytes of a frame (without its length).
pub fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<Envelope<T>, ControlError> {
    match postcard::take_from_bytes::<Envelope<T>>(bytes) {
        Ok((envelope, [])) if envelope.version == VERSION => Ok(envelope),
        _ => Err(ControlError::Malformed),
    }
}

/// Sends one frame whole, or not at all: `Ok(false)` if there is no room for it now.
pub fn send<T: Serialize>(
    ring: &mut byte::Producer,
    page: &impl Shared,
    envelope: &Envelope<T>,
) -> Result<bool, ControlError> {
    let mut buffer = [0; FRAME_MAX + 2];
    let frame = encode(envelope, &mut buffer).ok_or(ControlError::Malformed)?;
    if (ring.room(page).map_err(ControlError::Ring)? as usize) < frame.len() {
        return Ok(false);
    }
    ring.write(page, frame).map_err(ControlError::Ring)?;
    Ok(true)
}

/// Takes the next whole frame into `buffer` and gives its bytes; `None` if there is none yet.
pub fn receive<'b>(
    ring: &mut byte::Consumer,
    page: &impl Shared,
    buffer: &'b mut [u8; FRAME_MAX],
) -> Result<Option<&'b [u8]>, ControlError> {
    let mut header = [0; 2];
    if ring.peek(page, &mut header).map_err(ControlError::Ring)? < 2 {
        return Ok(None);
    }
    let length = u16::from_le_bytes(header) as usize;
    if length > FRAME_MAX {
        let violation = Violation::Length { found: length as u32, limit: FRAME_MAX as u32 };
        return Err(ControlError::Ring(violation));
    }
    let mut frame = [0; FRAME_MAX + 2];
    if ring.peek(page, &mut frame[..length + 2]).map_err(ControlError::Ring)? < length + 2 {
        return Ok(None);
    }
    ring.consume(page, length + 2);
    buffer[..length].copy_from_slice(&frame[2..length + 2]);
    Ok(Some(&buffer[..length]))
}

#[cfg(test)]
mod tests;
