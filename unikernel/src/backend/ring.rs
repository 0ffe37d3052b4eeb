//! One ring of a connection with its journal and its counters.

use heapless::Vec;
use protocol::connection::{Frontend, KillPoint, RING_PAGES_MAX, Statistics};
use protocol::grant::GrantRef;
#[cfg(feature = "mutants")]
use protocol::mutant::{self, Mutant, Mutated};
use protocol::record::{self, AttachError, ENTRIES_MAX, Entry, Journal, PARAMETERS_MAX, Ticket};
use protocol::ring::sring::Geometry;

use super::{Broken, Cause, Host, Machine};
use crate::event::Channel;
use crate::grant::Source;
use crate::spread::Spread;

/// The record of a ring.
#[cfg(not(feature = "mutants"))]
type Record<M> = <M as Machine>::Record;
/// The record of a ring, as the mutant that was selected sees it.
#[cfg(feature = "mutants")]
type Record<M> = Mutated<<M as Machine>::Record>;

/// A ring that is attached; its requests are `E`.
pub struct Ring<M: Machine, E> {
    pages: Spread<M::Page>,
    record: Record<M>,
    journal: Journal<E>,
    channel: Channel,
    /// The frontend may have missed a notification of the former incarnation of this domain.
    owes_kick: bool,
    /// What was counted. The service adds bytes, errors and calls.
    pub statistics: Statistics,
}

/// What attaching gives.
pub struct Attached<M: Machine, E> {
    /// The ring.
    pub ring: Ring<M, E>,
    /// Requests to be executed again, oldest first.
    pub replays: Vec<Ticket, ENTRIES_MAX>,
    /// Parameters of the connection: those given, or those its record was begun with.
    pub parameters: [u8; PARAMETERS_MAX],
}

impl<M: Machine, E: Entry> Ring<M, E> {
    /// Attaches to the ring in the frontend's pages `grants`, of which so many have that geometry, with the journal in `record`.
    pub fn attach(
        host: &Host<M>,
        frontend: &Frontend,
        grants: &[GrantRef],
        geometry: impl FnOnce(usize) -> Geometry,
        record: M::Record,
        parameters: &[u8],
    ) -> Result<Attached<M, E>, Broken> {
        if !grants.len().is_power_of_two() || grants.len() > RING_PAGES_MAX {
            return Err(Broken::by_frontend(Cause::Number("pages of the ring", grants.len() as u64)));
        }
        let mut pages = alloc::vec::Vec::with_capacity(grants.len());
        for &reference in grants {
            let page = host.machine.map(Source { peer: frontend.peer, reference });
            let page = page.map_err(|error| Broken::by_frontend(Cause::Page { reference, error }))?;
            pages.push(page);
        }
        let pages = Spread::new(pages);
        let geometry = geometry(grants.len());
        #[cfg(feature = "mutants")]
        let record = Mutated::new::<E>(record, geometry, mutant::selected());
        let attached = Journal::attach(&record, &pages, geometry, frontend.incarnation, parameters)?;
        #[cfg(feature = "mutants")]
        let attached = mutated(attached);
        let parameters = record::parameters(&record);
        let statistics = Statistics { replayed: attached.replays.len() as u64, ..Statistics::default() };
        let ring = Ring {
            pages,
            record,
            journal: attached.journal,
            channel: Channel::new(frontend.port),
            owes_kick: attached.resumed,
            statistics,
        };
        Ok(Attached { ring, replays: attached.replays, parameters })
    }

    /// Takes and journals the next request; see [`Journal::next`].
    #[inline(always)]
    pub fn take(&mut self, host: &Host<M>, request: &mut [u8]) -> Result<Option<Ticket>, Broken> {
        let taken = match host.is_armed() {
            false => self.journal.next(&self.record, &self.pages, request, || ())?,
            true => self.take_armed(host, request)?,
        };
        self.statistics.requests += u64::from(taken.is_some());
        Ok(taken)
    }

    #[cold]
    fn take_armed(&mut self, host: &Host<M>, request: &mut [u8]) -> Result<Option<Ticket>, Broken> {
        let between = || host.pass(KillPoint::MidTake);
        let taken = self.journal.next(&self.record, &self.pages, request, between)?;
        if taken.is_some() {
            host.pass(KillPoint::MidBatch);
        }
        Ok(taken)
    }

    /// Reads the copy of a request that was taken; see [`Journal::request`].
    pub fn request(&self, ticket: Ticket, request: &mut [u8]) {
        self.journal.request(&self.record, ticket, request);
    }

    /// Writes the response to a request; the frontend sees it after [`Ring::publish`].
    #[inline(always)]
    pub fn answer(&mut self, host: &Host<M>, ticket: Ticket, response: &[u8]) {
        match host.is_armed() {
            false => self.journal.answer(&self.record, &self.pages, ticket, response, || ()),
            true => self.answer_armed(host, ticket, response),
        }
        self.statistics.responses += 1;
    }

    #[cold]
    fn answer_armed(&mut self, host: &Host<M>, ticket: Ticket, response: &[u8]) {
        let between = || host.pass(KillPoint::MidAnswer);
        self.journal.answer(&self.record, &self.pages, ticket, response, between);
    }

    /// Where the domain dies if [`KillPoint::DamagedRecord`] is armed; the bit is one of `bits` of a request.
    #[cfg(feature = "damage")]
    pub fn pass_damage(&self, host: &Host<M>, bits: core::ops::Range<usize>) {
        if host.is_due(KillPoint::DamagedRecord) {
            self.journal.damage(&self.record, bits, host.machine.now());
            host.machine.die();
        }
    }

    /// Shows the frontend all responses written, and notifies it if it sleeps. `each` gets the slots of the requests that are
    /// over with that.
    pub fn publish(&mut self, host: &Host<M>, each: impl FnMut(u16)) {
        if !self.journal.has_answers() {
            return;
        }
        let before = self.journal.in_flight();
        self.statistics.deepest = self.statistics.deepest.max(before);
        let notify = self.journal.show(&self.pages);
        host.pass(KillPoint::AfterPublish);
        self.journal.settle(&self.record, each);
        host.pass(KillPoint::AfterPublish);
        host.served();
        if notify {
            self.notify(host);
        }
    }

    /// Asks to be notified of the next request, and looks once more: `true` if one came meanwhile. After a re-attach this is
    /// also when the frontend is kicked, once.
    pub fn rearm(&mut self, host: &Host<M>) -> Result<bool, Broken> {
        if core::mem::take(&mut self.owes_kick) {
            self.notify(host);
        }
        self.statistics.wakeups += u64::from(host.machine.fired(&self.channel));
        Ok(self.journal.rearm(&self.pages)?)
    }

    fn notify(&mut self, host: &Host<M>) {
        self.statistics.notifications += 1;
        host.machine.notify(self.channel.port());
    }

    /// Requests taken and not yet published as answered.
    pub const fn in_flight(&self) -> u32 {
        self.journal.in_flight()
    }

    /// Entries of the ring.
    pub const fn entries(&self) -> u32 {
        self.journal.geometry().entries
    }

    /// What was counted, up to now.
    pub fn counted(&self) -> Statistics {
        Statistics { in_flight: self.in_flight(), ..self.statistics }
    }
}

/// What the mutant that was selected makes of an attach.
#[cfg(feature = "mutants")]
fn mutated<E>(mut attached: record::Attached<E>) -> record::Attached<E> {
    match mutant::selected() {
        Some(Mutant::ReplaysReversed) => attached.replays.reverse(),
        Some(Mutant::ReplaysDropped) => attached.replays.clear(),
        Some(Mutant::KickOmitted) => attached.resumed = false,
        _ => {}
    }
    attached
}

/// Who is to blame if a connection cannot be attached.
impl From<AttachError> for Broken {
    fn from(error: AttachError) -> Broken {
        match error {
            AttachError::Peer(violation) => violation.into(),
            AttachError::Damaged { slot: Some(slot) } => {
                Broken::by_backend(Cause::Number("nothing is replayed, the record is damaged in slot", slot.into()))
            }
            AttachError::Damaged { slot: None } => {
                Broken::by_backend(Cause::Text("nothing is replayed, the record is damaged in its header"))
            }
            AttachError::Foreign => Broken::by_backend(Cause::Text(
                "the record has another format or ring size; start the former image again",
            )),
        }
    }
}
