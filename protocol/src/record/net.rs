//! Records of the two rings of a network connection.
//!
//! The rule is that of [`Journal`]; what differs is what becomes of requests that were taken and not answered when a driver domain
//! died. A frame is no block of a disk: losing it is allowed, sending it twice is not.
//! - *Transmit*: the frame may have been sent. It is answered as dropped and never sent again. All slots of a packet are taken
//!   together, so that the rest of a packet is never mistaken for another one. The record holds the answer to give, since what a
//!   slot was - data or extra information - can be told only by the slots before it.
//! - *Receive*: the frontend finds the buffer of a response by the response's place in the ring. So requests are answered in the
//!   order in which they were taken, and those left over are used first.

use heapless::{Deque, Vec};

use super::{AttachError, ENTRIES_MAX, Journal, Ticket};
use crate::ring::net::{
    Extra, RECEIVE, ReceiveRequest, ReceiveResponse, SLOTS_MAX, TRANSMIT, TransmitRequest, flag, status,
    transmit_response,
};
use crate::ring::{Shared, Violation};

/// Slots of the longest packet: data, and one of extra information for each kind there is.
const PACKET_SLOTS: usize = SLOTS_MAX + Extra::KINDS;

/// Bytes that the records of a connection take, transmit first.
pub const SIZE: usize = RECEIVE_AT + super::size(RECEIVE);
/// Where the record of the receive ring begins.
pub const RECEIVE_AT: usize = super::size(TRANSMIT);

/// A packet on the transmit ring; answered whole.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its data slots, first to last.
    pub data: Vec<TransmitRequest, SLOTS_MAX>,
    /// It asks for what was not offered.
    pub not_offered: bool,
    /// The id to answer each slot with; `None` for extra information.
    ids: Vec<Option<u16>, PACKET_SLOTS>,
    /// Every slot, once the packet is taken.
    tickets: Vec<Ticket, PACKET_SLOTS>,
}

impl Packet {
    /// Slots of the ring that it takes.
    pub fn slots(&self) -> u32 {
        self.ids.len() as u32
    }
}

/// The response to a slot.
fn response(id: Option<u16>, status: i16) -> [u8; 4] {
    id.map_or(transmit_response(0, status::NULL), |id| transmit_response(id, status))
}

/// The transmit ring of one connection.
#[derive(Debug)]
pub struct Transmit {
    journal: Journal,
}

/// What [`Transmit::attach`] found.
#[derive(Debug)]
pub struct Attached {
    /// The ring, with nothing in flight.
    pub ring: Transmit,
    /// Whether the record was in use.
    pub resumed: bool,
    /// Slots that a former life had taken and not answered; they are answered now.
    pub dropped: u32,
    /// The frontend has to be notified of those answers.
    pub notify: bool,
}

impl Transmit {
    /// Attaches, as [`Journal::attach`] does, and answers what a former life left.
    pub fn attach(
        record: &impl Shared,
        page: &impl Shared,
        incarnation: u32,
        parameters: &[u8],
    ) -> Result<Attached, AttachError> {
        let super::Attached { mut journal, replays, resumed } =
            Journal::attach(record, page, TRANSMIT, incarnation, parameters)?;
        for &ticket in &replays {
            let mut kept = [0; TRANSMIT.entry_size];
            journal.request(record, ticket, &mut kept);
            journal.answer(record, page, ticket, &kept[..4], || ());
        }
        let notify = journal.publish(record, page);
        Ok(Attached { ring: Transmit { journal }, resumed, dropped: replays.len() as u32, notify })
    }

    /// Copies the packet that begins `ahead` slots after the next one out, whatever its slots hold, without taking it; `None` if
    /// there is none.
    pub fn look(&self, page: &impl Shared, ahead: u32) -> Result<Option<Packet>, Violation> {
        let mut packet = Packet::default();
        // What the slot before says about the next one.
        let (mut more_data, mut more_extra) = (true, false);
        while more_data || more_extra {
            let mut raw = [0; TRANSMIT.entry_size];
            let slots = packet.slots();
            if !self.journal.peek(page, ahead + slots, &mut raw)? {
                return if slots == 0 { Ok(None) } else { Err(Violation::Endless { slots }) };
            }
            let id = if more_extra {
                let extra = Extra::parse(&raw);
                packet.not_offered |= extra.kind != Extra::HASH;
                more_extra = extra.more;
                None
            } else {
                let slot = TransmitRequest::parse(&raw);
                more_extra = packet.data.is_empty() && slot.flags & flag::transmit::EXTRA_INFO != 0;
                more_data = slot.flags & flag::transmit::MORE_DATA != 0;
                packet.data.push(slot).map_err(|_| Violation::Endless { slots })?;
                Some(slot.id)
            };
            packet.ids.push(id).map_err(|_| Violation::Endless { slots })?;
        }
        Ok(Some(packet))
    }

    /// Takes the next packet, which is the one that [`Transmit::look`] gave for 0. As [`Journal::take`].
    pub fn take(&mut self, record: &impl Shared, packet: &mut Packet, between: impl Fn()) {
        let Packet { ids, tickets, .. } = packet;
        let kept = ids.iter().map(|&id| {
            let mut entry = [0; TRANSMIT.entry_size];
            entry[..4].copy_from_slice(&response(id, status::DROPPED));
            entry
        });
        let each = |ticket| {
            // As many tickets as ids.
            let _ = tickets.push(ticket);
        };
        self.journal.take(record, kept, each, between);
    }

    /// Answers all slots of a packet that was taken; the frontend sees it after [`Transmit::publish`]. As [`Journal::answer`].
    pub fn answer(
        &mut self,
        record: &impl Shared,
        page: &impl Shared,
        packet: &Packet,
        status: i16,
        between: impl Fn(),
    ) {
        for (&ticket, &id) in packet.tickets.iter().zip(&packet.ids) {
            self.journal.answer(record, page, ticket, &response(id, status), &between);
        }
    }

    /// Shows the frontend the answers; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self, record: &impl Shared, page: &impl Shared) -> bool {
        self.journal.publish(record, page)
    }

    /// As [`Journal::rearm`].
    pub fn rearm(&self, page: &impl Shared) -> Result<bool, Violation> {
        self.journal.rearm(page)
    }

    /// Slots taken and not yet answered.
    pub const fn in_flight(&self) -> u32 {
        self.journal.in_flight()
    }
}

/// The receive ring of one connection.
#[derive(Debug)]
pub struct Receive {
    journal: Journal,
    /// Requests taken by a former life, oldest first.
    left: Deque<Ticket, ENTRIES_MAX>,
    /// Requests given out and not yet answered, oldest first.
    given: Deque<Ticket, ENTRIES_MAX>,
}

impl Receive {
    /// Attaches, as [`Journal::attach`] does; also says whether the record was in use.
    pub fn attach(
        record: &impl Shared,
        page: &impl Shared,
        incarnation: u32,
        parameters: &[u8],
    ) -> Result<(Receive, bool), AttachError> {
        let attached = Journal::attach(record, page, RECEIVE, incarnation, parameters)?;
        let mut ring = Receive { journal: attached.journal, left: Deque::new(), given: Deque::new() };
        ring.left.extend(attached.replays);
        Ok((ring, attached.resumed))
    }

    /// Buffers that can be taken.
    pub fn available(&self, page: &impl Shared) -> Result<u32, Violation> {
        Ok(self.left.len() as u32 + self.journal.available(page)?)
    }

    /// Takes the next buffer; `None` if there is none. As [`Journal::next`].
    pub fn take(
        &mut self,
        record: &impl Shared,
        page: &impl Shared,
        between: impl Fn(),
    ) -> Result<Option<ReceiveRequest>, Violation> {
        let mut raw = [0; RECEIVE.entry_size];
        let ticket = match self.left.pop_front() {
            Some(ticket) => {
                self.journal.request(record, ticket, &mut raw);
                ticket
            }
            None => match self.journal.next(record, page, &mut raw, between)? {
                Some(ticket) => ticket,
                None => return Ok(None),
            },
        };
        // Bounded by the entries of the ring.
        let _ = self.given.push_back(ticket);
        Ok(Some(ReceiveRequest::parse(&raw)))
    }

    /// Answers the buffer that was taken first; the frontend sees it after [`Receive::publish`]. As [`Journal::answer`].
    pub fn answer(&mut self, record: &impl Shared, page: &impl Shared, response: ReceiveResponse, between: impl Fn()) {
        if let Some(ticket) = self.given.pop_front() {
            self.journal.answer(record, page, ticket, &response.encode(), between);
        }
    }

    /// Shows the frontend the answers, a frame's together; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self, record: &impl Shared, page: &impl Shared) -> bool {
        self.journal.publish(record, page)
    }

    /// As [`Journal::rearm`], for new buffers.
    pub fn rearm(&self, page: &impl Shared) -> Result<bool, Violation> {
        self.journal.rearm(page)
    }
}

#[cfg(test)]
mod tests;
