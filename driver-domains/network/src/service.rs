//! The bridge at work: takes frames from ports in turn, and brings each to whoever gets it.
//!
//! A port's turn is one batch. The first bytes of its frames are copied once, judged, and that very copy is what the receiver
//! gets, so a sender cannot change a header after it was judged. The rest goes from the sender's page into the receiver's, or into
//! the driver's buffer, in one copy. That makes two hypercalls for up to [`FRAMES_MAX`] frames.
//!
//! A guest without buffers loses frames, as on a wire. A device without room stops only who sends to it: such a frame
//! is not taken before there is room.

mod copying;
mod ports;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use protocol::connection::{BridgePort, Frontend, KillPoint, NetworkAttach, Offload, Statistics};
use protocol::control::{FromDomain, ToDomain};
use protocol::grant::MAX_BATCH;
use protocol::ring::Shared;
use protocol::ring::net::{PACKET_MAX, SLOTS_MAX, status};
use unikernel::backend::{Broken, Cause, Host, Mover, NetworkRings, Outgoing, Refusal, Service, Table};
use unikernel::control;
use unikernel::grant::{Place, Transfer};

use crate::batch::{Batch, Delivery, Target, route};
use crate::bridge::frame::{Frame, WIRE_MAX};
use crate::bridge::{Bridge, Port, PortSet, WIRE};
use crate::checksum::Blank;
use crate::wire::{Checksum, Wire};
use copying::Loose;

/// Most frames of a port's turn: their headers fill a page, and two copies of each a batch.
pub const FRAMES_MAX: usize = 32;
/// Bytes after which a port's turn ends: about as many as so many full frames, so that jumbo frames are no advantage.
const BYTES_MAX: usize = FRAMES_MAX * 2048;
/// First bytes of a frame that are copied before it is judged: all headers that matter, and short frames wholly.
const HEADER: usize = 128;
/// Bytes of a page, which is what a receiver without scatter-gather takes.
const PAGE: usize = protocol::layout::PAGE_SIZE as usize;
/// ns in a second.
const SECOND: u64 = 1_000_000_000;

/// Areas that copies name.
mod area {
    /// Headers of a batch.
    pub const HEADERS: u8 = 0;
    /// A frame whose checksum is filled in.
    pub const SCRATCH: u8 = 1;
    /// The driver's buffers.
    pub const WIRE: u8 = 2;
}

const _: () = assert!(FRAMES_MAX * HEADER == PAGE && HEADER >= crate::checksum::HEADERS_MAX);

/// A guest's connection.
#[derive(Debug)]
pub struct Connection<M: Mover> {
    rings: NetworkRings<M>,
    offload: Offload,
    counts: BridgePort,
    /// The guest broke a rule while it was served together with others.
    broken: Option<Broken>,
    /// Its next frame waits for room on the wire.
    blocked: bool,
}

/// Whatever is behind the wire.
pub type Device<M> = Box<dyn Wire<Memory = <M as Mover>::Own>>;

/// The network domain.
pub struct Network<M: Mover> {
    bridge: Bridge,
    wire: Option<Device<M>>,
    wire_counts: BridgePort,
    headers: M::Own,
    scratch: M::Own,
    batch: Batch,
    /// Ports with something to publish.
    touched: PortSet,
    /// Frames of the batch, a bit each, that could not be copied from their sender.
    blamed: u32,
    /// Whose turn is first.
    first: u16,
    connections: u16,
}

/// A frame of a batch, on its way through it.
#[derive(Debug)]
struct Sent {
    frame: Outgoing,
    length: usize,
    /// Bytes of it among the headers.
    copied: usize,
    status: i16,
}

/// What one turn has to know of a frame to bring it to a port.
struct Judged<'f> {
    number: usize,
    frame: Frame,
    start: &'f [u8],
    length: usize,
    checksum: Checksum,
}

impl Judged<'_> {
    /// The checksum that its sender left blank. A sender may say so of every frame: most protocols have none to leave blank.
    fn blank(&self) -> Option<Blank> {
        Blank::find(&self.frame, self.start, self.length)
    }
}

impl<M: Mover> Network<M> {
    /// A bridge to `wire` with room for so many `connections`. `headers` and `scratch` are a page each.
    pub fn new(wire: Option<Device<M>>, connections: u16, headers: M::Own, scratch: M::Own) -> Network<M> {
        let mut bridge = Bridge::new();
        let mut wire_counts = BridgePort::default();
        if let Some(wire) = &wire {
            wire_counts.mac = wire.mac();
            bridge.connect(WIRE, Port { mac: wire.mac(), limit: WIRE_MAX });
        }
        let touched = PortSet::default();
        let batch = Batch::default();
        Network { bridge, wire, wire_counts, headers, scratch, batch, touched, blamed: 0, first: 0, connections }
    }

    /// The turn of a guest's port; gives whether it has more.
    fn serve_guest(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, number: u16) -> Result<bool, Broken> {
        let Some(connection) = table.get_mut(number) else { return Ok(false) };
        let (mut sent, more) = self.look(host, connection)?;
        if sent.is_empty() {
            return Ok(false);
        }
        let (from, now_s) = (ports::of(number), host.machine.now() / SECOND);
        let mut taken = 0;
        for (number_in_batch, one) in sent.iter_mut().enumerate() {
            let mut start = [0; HEADER];
            let start = &mut start[..one.copied];
            self.headers.read(number_in_batch * HEADER, start);
            let judged = match one.status {
                status::OKAY => self.bridge.judge(from, start, one.length, now_s).ok(),
                _ => None,
            };
            let to_wire = judged.is_some_and(|(_, ports)| ports.contains(WIRE)) && self.wire_is_up();
            if to_wire && self.wire.as_mut().is_some_and(|wire| wire.room() == 0) {
                // Its copies are on their way: they make no room, but what is queued has to reach the device.
                if let Some(connection) = table.get_mut(number) {
                    connection.blocked = true;
                }
                break;
            }
            let Some(connection) = table.get_mut(number) else { break };
            connection.rings.take(host, &mut one.frame);
            taken += 1;
            let Some((frame, ports)) = judged else {
                connection.counts.refused += 1;
                one.status = status::ERROR;
                continue;
            };
            connection.counts.received.frames += 1;
            connection.counts.received.bytes += one.length as u64;
            connection.rings.statistics.written += one.length as u64;
            let checksum = match (one.frame.checksum_blank(), one.frame.data_validated()) {
                (true, _) => Checksum::Blank,
                (false, true) => Checksum::Right,
                (false, false) => Checksum::Unknown,
            };
            let judged = Judged { number: number_in_batch, frame, start, length: one.length, checksum };
            for port in ports.iter() {
                self.deliver(host, table, port, &judged, &Loose::of(one, number_in_batch), Some(number));
            }
        }
        self.carry_out(host, table, Some(number));
        let blamed = core::mem::take(&mut self.blamed);
        for (_, one) in sent.iter_mut().enumerate().filter(|(frame, _)| blamed >> frame & 1 != 0) {
            one.status = status::ERROR;
        }
        self.publish(host, table);
        host.pass(KillPoint::AfterCompletion);
        let Some(connection) = table.get_mut(number) else { return Ok(false) };
        for one in &sent[..taken] {
            connection.rings.answer(host, &one.frame, one.status);
        }
        if taken > 0 {
            connection.rings.publish(host);
        }
        Ok(more && taken == sent.len())
    }

    /// Looks at the next frames of a port and copies their headers; gives also whether there may be more.
    fn look(&mut self, host: &Host<M>, connection: &mut Connection<M>) -> Result<(Vec<Sent>, bool), Broken> {
        let mut heads = heapless::Vec::<Transfer, MAX_BATCH>::new();
        let mut owners = heapless::Vec::<usize, MAX_BATCH>::new();
        let (mut sent, mut slots, mut bytes) = (Vec::new(), 0, 0);
        connection.blocked = false;
        let more = loop {
            if sent.len() == FRAMES_MAX || bytes >= BYTES_MAX || heads.len() + SLOTS_MAX > MAX_BATCH {
                break true;
            }
            let Some(frame) = connection.rings.look(slots)? else { break false };
            slots += frame.slots();
            let (number, length) = (sent.len(), frame.length());
            let copied = length.unwrap_or(0).min(HEADER);
            let place = Place::Own { area: area::HEADERS, offset: (number * HEADER) as u32 };
            route(Loose::part(frame.pieces(), 0, copied), [place], |transfer| {
                heads.push(transfer).is_ok() && owners.push(number).is_ok()
            });
            bytes += length.unwrap_or(0);
            let status = if length.is_some() { status::OKAY } else { status::ERROR };
            sent.push(Sent { frame, length: length.unwrap_or(0), copied, status });
        };
        if !heads.is_empty() {
            connection.rings.statistics.grant_calls += self.transfer(host, &mut heads);
        }
        for (transfer, &number) in heads.iter().zip(&owners) {
            if let (Some(_), Some(one)) = (transfer.error, sent.get_mut(number)) {
                one.status = status::ERROR;
            }
        }
        Ok((sent, more))
    }

    /// The turn of the wire; gives whether it has more.
    fn serve_wire(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>) -> bool {
        let now_s = host.machine.now() / SECOND;
        let mut arrived = heapless::Vec::<u32, MAX_BATCH>::new();
        while !arrived.is_full()
            && let Some(wire) = &mut self.wire
            && let Some(arrival) = wire.receive()
        {
            // There is room.
            let _ = arrived.push(arrival.at);
            let (at, length) = (arrival.at as usize, arrival.length as usize);
            let mut start = [0; HEADER];
            let start = &mut start[..length.min(HEADER)];
            wire.memory().read(at, start);
            let Ok((frame, ports)) = self.bridge.judge(WIRE, start, length, now_s) else {
                self.wire_counts.refused += 1;
                continue;
            };
            self.wire_counts.received.frames += 1;
            self.wire_counts.received.bytes += length as u64;
            let mut judged = Judged { number: 0, frame, start, length, checksum: arrival.checksum };
            let takes_blank = |port: u8| {
                ports::connection(port).and_then(|number| table.get_mut(number)).is_none_or(|to| to.offload.checksum)
            };
            if judged.checksum == Checksum::Blank && !ports.iter().all(takes_blank) {
                if let Some(blank) = judged.blank() {
                    blank.fill(wire.memory(), at);
                }
                judged.checksum = Checksum::Right;
            }
            let loose = Loose::whole(Place::Own { area: area::WIRE, offset: arrival.at }, length);
            for port in ports.iter() {
                self.deliver(host, table, port, &judged, &loose, None);
            }
        }
        self.carry_out(host, table, None);
        self.blamed = 0;
        if let Some(wire) = &mut self.wire {
            arrived.iter().for_each(|&at| wire.recycle(at));
        }
        self.publish(host, table);
        arrived.is_full()
    }

    fn wire_is_up(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.link())
    }

    /// Shows all receivers what they got.
    fn publish(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>) {
        for port in core::mem::take(&mut self.touched).iter() {
            match ports::connection(port) {
                Some(number) => {
                    if let Some(connection) = table.get_mut(number) {
                        connection.rings.publish(host);
                    }
                }
                None => {
                    if let Some(wire) = &mut self.wire {
                        wire.flush();
                    }
                }
            }
        }
    }
}

impl<M: Mover> Service for Network<M> {
    type Machine = M;
    type Connection = Connection<M>;

    const RECORD: usize = NetworkRings::<M>::RECORD;

    fn frontend(message: &ToDomain) -> Option<&Frontend> {
        match message {
            ToDomain::NetworkAttach(attach) => Some(&attach.frontend),
            _ => None,
        }
    }

    fn attach(&mut self, host: &Host<M>, message: &ToDomain) -> Result<(Connection<M>, FromDomain), Refusal> {
        let ToDomain::NetworkAttach(attach) = message else {
            return Err(Refusal::Impossible(Cause::Text("this is a network domain")));
        };
        let &NetworkAttach { frontend, mac, offload, .. } = attach;
        let rings = NetworkRings::attach(host, attach)?;
        let limit = if offload.scatter_gather && offload.checksum { PACKET_MAX } else { PAGE };
        if !self.bridge.connect(ports::of(frontend.connection), Port { mac, limit }) {
            let cause = "no port for this address: it is another guest's, or that of a group, or all ports are in use";
            return Err(Refusal::Impossible(Cause::Text(cause)));
        }
        let counts = BridgePort { connection: Some(frontend.connection), mac, up: true, ..BridgePort::default() };
        let connection = Connection { rings, offload, counts, broken: None, blocked: false };
        let answer = self.attached(&connection);
        Ok((connection, answer))
    }

    fn attached(&self, _: &Connection<M>) -> FromDomain {
        FromDomain::NetworkAttached { offload: Offload { checksum: true, scatter_gather: true } }
    }

    fn forget(&mut self, host: &Host<M>, connection: u16) {
        self.bridge.disconnect(ports::of(connection));
        NetworkRings::forget(host, connection);
    }

    fn device(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>) -> bool {
        if let Some(wire) = &mut self.wire {
            wire.awake();
        }
        let mut more = self.serve_wire(host, table);
        self.first = if self.first + 1 < self.connections { self.first + 1 } else { 0 };
        let (behind, before) = (self.first..self.connections, 0..self.first);
        for number in behind.chain(before) {
            if table.get_mut(number).is_none_or(|connection| connection.broken.is_some()) {
                continue;
            }
            match self.serve_guest(host, table, number) {
                Ok(busy) => more |= busy,
                Err(broken) => {
                    if let Some(connection) = table.get_mut(number) {
                        connection.broken = Some(broken);
                    }
                }
            }
        }
        more
    }

    fn serve(&mut self, _: &Host<M>, _: u16, connection: &mut Connection<M>) -> Result<bool, Broken> {
        connection.broken.map_or(Ok(false), Err)
    }

    fn flush(&mut self, _: &Host<M>) -> bool {
        if let Some(wire) = &mut self.wire {
            wire.flush();
        }
        false
    }

    fn rearm(&mut self, host: &Host<M>, connection: &mut Connection<M>) -> Result<bool, Broken> {
        // Who waits for the device is woken by it.
        let waits = connection.blocked;
        Ok(connection.rings.rearm(host)? && !waits)
    }

    fn rearm_device(&mut self) -> bool {
        // Whether somebody is blocked shows in the room.
        self.wire.as_mut().is_some_and(|wire| {
            let blocked = wire.room() == 0;
            wire.rearm(blocked)
        })
    }

    fn look_again(&mut self) -> Option<Duration> {
        self.wire.as_mut().and_then(|wire| wire.look_again())
    }

    fn drained(&mut self, _: &Host<M>, number: u16, _: &mut Connection<M>) -> bool {
        // No frame of a guest is ever with the device: they were copied.
        self.bridge.disconnect(ports::of(number));
        true
    }

    fn statistics(&self, connection: &Connection<M>) -> Statistics {
        connection.rings.counted()
    }

    fn other(&mut self, message: ToDomain, table: &Table<Connection<M>>) -> FromDomain {
        let ToDomain::BridgePortAt { index } = message else { return control::refuse(message) };
        let wire = self.wire.is_some().then(|| BridgePort { up: self.wire_is_up(), ..self.wire_counts });
        let guests = table.serving().map(|(_, connection)| connection.counts);
        FromDomain::BridgePort(wire.into_iter().chain(guests).nth(index as usize))
    }

    fn tick(&mut self, host: &Host<M>, _: &mut Table<Connection<M>>, _: &mut dyn FnMut(FromDomain)) -> u64 {
        let now = host.machine.now();
        let Some(wire) = &mut self.wire else { return 0 };
        let was_up = core::mem::replace(&mut self.wire_counts.up, wire.link());
        if was_up != self.wire_counts.up {
            log::info!("the wire is {}", if self.wire_counts.up { "up" } else { "down" });
        }
        wire.tick(now)
    }
}

#[cfg(test)]
mod tests;
