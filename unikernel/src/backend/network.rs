//! Both rings of one network connection, with their records and counters.

use heapless::Vec;
use protocol::connection::{KillPoint, NetworkAttach, Offload, Statistics};
use protocol::event::Port;
use protocol::layout::PAGE_SIZE;
use protocol::record::net::{Packet, RECEIVE_AT, Receive, SIZE, Transmit};
use protocol::record::{self, PARAMETERS_MAX};
use protocol::ring::Shared;
use protocol::ring::net::{BadPacket, ReceiveRequest, ReceiveResponse, SLOTS_MAX, flag, status};

use super::{Broken, Cause, Host, Machine, Native};
use crate::area::Area;
use crate::event::Channel;
use crate::grant::{Place, Source, Transfer, transfer};

/// A machine that also copies.
pub trait Mover: Machine {
    /// Own memory that copies reach.
    type Own: Shared;

    /// As [`crate::grant::transfer`].
    fn transfer(&self, list: &mut [Transfer], own: &[&Self::Own]) -> u64;
}

impl Mover for Native {
    type Own = Area;

    fn transfer(&self, list: &mut [Transfer], own: &[&Area]) -> u64 {
        transfer(list, own)
    }
}

/// A packet that a frontend sends.
#[derive(Debug)]
pub struct Outgoing {
    packet: Packet,
    /// Bytes in each slot, if the slots make sense.
    sizes: Result<Vec<u16, SLOTS_MAX>, BadPacket>,
    peer: u16,
}

impl Outgoing {
    fn new(packet: Packet, peer: u16) -> Outgoing {
        let sizes = match packet.not_offered {
            true => Err(BadPacket::NotOffered),
            false => protocol::ring::net::packet(&packet.data),
        };
        Outgoing { packet, sizes, peer }
    }

    /// Slots of the ring it takes.
    pub fn slots(&self) -> u32 {
        self.packet.slots()
    }

    /// Bytes of the frame; `None` if its slots make no sense.
    pub fn length(&self) -> Option<usize> {
        Some(self.sizes.as_ref().ok()?.iter().map(|&size| size as usize).sum())
    }

    /// Where the frame lies, and how many bytes in each place.
    pub fn pieces(&self) -> impl Iterator<Item = (Place, usize)> {
        let sizes = self.sizes.as_deref().unwrap_or_default();
        self.packet.data.iter().zip(sizes).map(|(slot, &size)| {
            let source = Source { peer: self.peer, reference: slot.reference };
            (Place::Granted { source, offset: slot.offset }, size as usize)
        })
    }

    /// The sender left the checksum to whoever comes next.
    pub fn checksum_blank(&self) -> bool {
        self.flag(flag::transmit::CHECKSUM_BLANK)
    }

    /// The sender vouches for the checksum.
    pub fn data_validated(&self) -> bool {
        self.flag(flag::transmit::DATA_VALIDATED)
    }

    fn flag(&self, bit: u16) -> bool {
        self.packet.data.first().is_some_and(|slot| slot.flags & bit != 0)
    }
}

/// Buffers for one frame, taken from the receive ring.
#[derive(Debug, Default)]
pub struct Incoming {
    requests: Vec<ReceiveRequest, SLOTS_MAX>,
    peer: u16,
}

impl Incoming {
    /// Where they are, a page each.
    pub fn places(&self) -> impl Iterator<Item = Place> + Clone + use<> {
        let peer = self.peer;
        let requests = self.requests.clone();
        requests.into_iter().map(move |ReceiveRequest { reference, .. }| Place::Granted {
            source: Source { peer, reference },
            offset: 0,
        })
    }
}

/// The rings of one connection, attached.
pub struct NetworkRings<M: Machine> {
    transmit: Transmit,
    transmit_page: M::Page,
    transmit_record: M::Record,
    receive: Receive,
    receive_page: M::Page,
    receive_record: M::Record,
    peer: u16,
    port: Port,
    channel: Channel,
    /// The frontend may have missed a notification of the former life of this domain.
    owes_kick: bool,
    /// What was counted. The service adds bytes, errors and calls.
    pub statistics: Statistics,
}

impl<M: Machine> core::fmt::Debug for NetworkRings<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("NetworkRings").field("peer", &self.peer).field("port", &self.port).finish_non_exhaustive()
    }
}

impl<M: Machine> NetworkRings<M> {
    /// Bytes of retained memory for one connection.
    pub const RECORD: usize = SIZE;

    /// Attaches to both rings; what a former life of this domain had taken and not answered is answered as dropped.
    pub fn attach(host: &Host<M>, attach: &NetworkAttach) -> Result<NetworkRings<M>, Broken> {
        let frontend = &attach.frontend;
        let map = |reference| {
            let page = host.machine.map(Source { peer: frontend.peer, reference });
            page.map_err(|error| Broken::by_frontend(Cause::Page { reference, error }))
        };
        let (transmit_page, receive_page) = (map(attach.transmit)?, map(attach.receive)?);
        let (transmit_record, receive_record) = records(host, frontend.connection);
        let parameters = parameters(attach);
        let (incarnation, given) = (frontend.incarnation, &parameters[..]);
        let sent = Transmit::attach(&transmit_record, &transmit_page, incarnation, given)?;
        let (receive, _) = Receive::attach(&receive_record, &receive_page, incarnation, given)?;
        if record::parameters(&transmit_record) != parameters || record::parameters(&receive_record) != parameters {
            return Err(Broken::by_backend(Cause::Text("the record was begun with another address or offload")));
        }
        let statistics = Statistics { replayed: sent.dropped.into(), ..Statistics::default() };
        Ok(NetworkRings {
            transmit: sent.ring,
            transmit_page,
            transmit_record,
            receive,
            receive_page,
            receive_record,
            peer: frontend.peer,
            port: frontend.port,
            channel: Channel::new(frontend.port),
            owes_kick: sent.resumed,
            statistics,
        })
    }

    /// Empties the records of a connection that is gone.
    pub fn forget(host: &Host<M>, connection: u16) {
        let (transmit, receive) = records(host, connection);
        record::forget(&transmit);
        record::forget(&receive);
    }

    /// Looks at the packet that begins `ahead` slots after the next one to be taken.
    pub fn look(&self, ahead: u32) -> Result<Option<Outgoing>, Broken> {
        let packet = self.transmit.look(&self.transmit_page, ahead)?;
        Ok(packet.map(|packet| Outgoing::new(packet, self.peer)))
    }

    /// Takes the next packet: from now on it is never sent again.
    pub fn take(&mut self, host: &Host<M>, frame: &mut Outgoing) {
        self.transmit.take(&self.transmit_record, &mut frame.packet, || host.pass(KillPoint::MidTake));
        self.statistics.requests += u64::from(frame.slots());
        self.statistics.deepest = self.statistics.deepest.max(self.transmit.in_flight());
        host.pass(KillPoint::MidBatch);
    }

    /// Answers a packet that was taken; the frontend sees it after [`NetworkRings::publish`].
    pub fn answer(&mut self, host: &Host<M>, frame: &Outgoing, status: i16) {
        let between = || host.pass(KillPoint::MidAnswer);
        self.transmit.answer(&self.transmit_record, &self.transmit_page, &frame.packet, status, between);
        self.statistics.responses += u64::from(frame.slots());
        self.statistics.errors += u64::from(status == status::ERROR);
    }

    /// Takes buffers for a frame of `length` bytes; `None` if there are not enough of them.
    pub fn buffers(&mut self, host: &Host<M>, length: usize) -> Result<Option<Incoming>, Broken> {
        let slots = length.div_ceil(PAGE_SIZE as usize);
        if slots > SLOTS_MAX || (self.receive.available(&self.receive_page)? as usize) < slots {
            return Ok(None);
        }
        let mut incoming = Incoming { requests: Vec::new(), peer: self.peer };
        for _ in 0..slots {
            // As many as there is room for: the number was checked.
            let between = || host.pass(KillPoint::MidTake);
            let taken = self.receive.take(&self.receive_record, &self.receive_page, between)?;
            let _ = taken.map(|request| incoming.requests.push(request));
        }
        Ok(Some(incoming))
    }

    /// Gives the buffers that were taken first back to the frontend: with `length` bytes of a frame, or empty and marked so.
    pub fn give(&mut self, host: &Host<M>, incoming: &Incoming, length: Option<usize>, flags: u16) {
        let mut left = length.unwrap_or(0);
        for &ReceiveRequest { id, .. } in &incoming.requests {
            let now = left.min(PAGE_SIZE as usize);
            left -= now;
            let more = if left > 0 { flag::receive::MORE_DATA } else { 0 };
            let response = match length {
                Some(_) => ReceiveResponse { id, offset: 0, flags: flags | more, status: now as i16 },
                None => ReceiveResponse { id, offset: 0, flags: 0, status: status::ERROR },
            };
            let between = || host.pass(KillPoint::MidAnswer);
            self.receive.answer(&self.receive_record, &self.receive_page, response, between);
            self.statistics.responses += 1;
            self.statistics.requests += 1;
        }
    }

    /// Shows the frontend all answers and frames, and notifies it if it sleeps.
    pub fn publish(&mut self, host: &Host<M>) {
        let sent = self.transmit.publish(&self.transmit_record, &self.transmit_page);
        let received = self.receive.publish(&self.receive_record, &self.receive_page);
        host.pass(KillPoint::AfterPublish);
        host.served();
        if sent | received {
            self.notify(host);
        }
    }

    /// Asks to be notified of the next packet, and looks once more: `true` if one came meanwhile. After a re-attach this is also
    /// when the frontend is kicked, once.
    pub fn rearm(&mut self, host: &Host<M>) -> Result<bool, Broken> {
        if core::mem::take(&mut self.owes_kick) {
            self.notify(host);
        }
        self.statistics.wakeups += u64::from(host.machine.fired(&self.channel));
        Ok(self.transmit.rearm(&self.transmit_page)?)
    }

    fn notify(&mut self, host: &Host<M>) {
        self.statistics.notifications += 1;
        host.machine.notify(self.port);
    }

    /// What was counted, up to now.
    pub fn counted(&self) -> Statistics {
        Statistics { in_flight: self.transmit.in_flight(), ..self.statistics }
    }
}

/// The records of both rings.
fn records<M: Machine>(host: &Host<M>, connection: u16) -> (M::Record, M::Record) {
    let record = |from, to| host.machine.record(connection, from, to - from);
    (record(0, RECEIVE_AT), record(RECEIVE_AT, SIZE))
}

/// What the records keep of how the connection was made.
fn parameters(attach: &NetworkAttach) -> [u8; PARAMETERS_MAX] {
    let Offload { checksum, scatter_gather } = attach.offload;
    let mut bytes = [0; PARAMETERS_MAX];
    bytes[..6].copy_from_slice(&attach.mac);
    bytes[6..8].copy_from_slice(&[checksum.into(), scatter_gather.into()]);
    bytes
}
