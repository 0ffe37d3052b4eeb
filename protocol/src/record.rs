//! The connection record: what a driver domain must not forget when it dies.
//!
//! The record lies in retained memory, which the core keeps for a domain across a restart. It holds the parameters that were negotiated,
//! how many requests were taken, how many responses were published, and a copy of every request in flight, as far as it says
//! anything ([`Entry`]): responses out of order overwrite ring slots, so the ring alone cannot tell what is still unanswered.
//!
//! The rule, step by step; a crash may come between any two stores:
//! 1. *take*: copy the request into a free slot, with its index and a checksum; mark the slot held; advance the retained
//!    `taken`. The request counts as taken once `taken` has passed it; before that it is still the ring's. Requests that belong
//!    together are passed by one store.
//! 2. *answer*: write the response into the ring; note its index in the slot; mark the slot answered.
//! 3. *publish*: advance the shared response producer - one store, for the whole batch; then the retained `published`; then free the
//!    slots.
//!
//! On attach, the shared producer is believed only between the retained `published` and that plus the answered slots: anything
//! else the peer wrote. Slots answered below it are done; all others are unanswered and come back as replays, oldest first.
//! Attaching to a new connection is attaching with an empty record.

pub mod net;

use core::marker::PhantomData;

use crate::ring::sring::{self, Back, Geometry};
use crate::ring::{Shared, Violation};

/// In a record that is in use: `"BKRC"`.
const MAGIC: u32 = u32::from_le_bytes(*b"BKRC");
/// Format of the record. An image that does not know the format found refuses to attach.
pub const FORMAT: u32 = 2;

const AT_MAGIC: usize = 0;
const AT_FORMAT: usize = 4;
const AT_INCARNATION: usize = 8;
const AT_ENTRIES: usize = 12;
pub(crate) const AT_TAKEN: usize = 16;
pub(crate) const AT_PUBLISHED: usize = 20;
const AT_PARAMETERS_SUM: usize = 24;
const AT_PARAMETERS: usize = 32;
const AT_SLOTS: usize = AT_PARAMETERS + PARAMETERS_MAX;

/// Bytes of negotiated parameters a record holds.
pub const PARAMETERS_MAX: usize = 96;
/// Largest request of a ring, in bytes.
pub const REQUEST_MAX: usize = 112;
/// Largest ring, in entries.
pub const ENTRIES_MAX: usize = 256;

const SLOT_MARK: usize = 0;
const SLOT_INDEX: usize = 4;
const SLOT_ANSWER: usize = 8;
const SLOT_SUM: usize = 12;
const SLOT_REQUEST: usize = 16;

/// Marks of a slot.
pub(crate) const FREE: u32 = 0;
pub(crate) const HELD: u32 = 1;
pub(crate) const ANSWERED: u32 = 2;

/// What the requests of a ring are like: which of their bytes say something. Only these are copied and kept.
pub trait Entry {
    /// Bytes that are copied of every request; a multiple of 8.
    const HEAD: usize;

    /// Bytes that say something, at least [`Entry::HEAD`], given a request of which the first [`Entry::HEAD`] are there.
    fn used(request: &[u8]) -> usize;
}

/// Requests that count to the end of their entry.
#[derive(Clone, Copy, Debug)]
pub struct Whole;

impl Entry for Whole {
    const HEAD: usize = 0;

    fn used(request: &[u8]) -> usize {
        request.len()
    }
}

/// Copies a request as `read` gives it, by offset, each byte at most once; gives how many bytes say something.
#[inline(always)]
fn copy<E: Entry>(request: &mut [u8], read: impl Fn(usize, &mut [u8])) -> usize {
    let Some((head, _)) = request.split_at_mut_checked(E::HEAD) else { return 0 };
    read(0, head);
    let used = E::used(request).min(request.len());
    if used > E::HEAD {
        read(E::HEAD, &mut request[E::HEAD..used]);
    }
    used
}

/// Bytes a record takes in retained memory.
pub const fn size(geometry: Geometry) -> usize {
    AT_SLOTS + geometry.entries as usize * slot_size(geometry)
}

const fn slot_size(geometry: Geometry) -> usize {
    SLOT_REQUEST + geometry.request_size().next_multiple_of(8)
}

/// The checksum that would be right for the slot whose own lies at `offset`, for those who interfere with it.
#[cfg(any(test, feature = "mutants"))]
pub(crate) fn right_sum<E: Entry, S: Shared>(record: &S, geometry: Geometry, offset: usize) -> u32 {
    let at = offset - SLOT_SUM;
    let mut request = [0; REQUEST_MAX];
    let request = &mut request[..geometry.request_size()];
    let used = copy::<E>(request, |from, out| record.read(at + SLOT_REQUEST + from, out));
    checksum::<E>(record.load_u32(at + SLOT_INDEX), &request[..used])
}

/// What lies at an offset of a record, for those who interfere with it.
#[cfg(any(test, feature = "mutants"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Taken,
    Published,
    Mark,
    Index,
    Answer,
    Sum,
    Request,
    Other,
}

#[cfg(any(test, feature = "mutants"))]
impl Field {
    pub(crate) const fn at(geometry: Geometry, offset: usize) -> Field {
        match (offset, offset.checked_sub(AT_SLOTS)) {
            (AT_TAKEN, _) => Field::Taken,
            (AT_PUBLISHED, _) => Field::Published,
            (_, None) => Field::Other,
            (_, Some(rest)) => match rest % slot_size(geometry) {
                SLOT_MARK => Field::Mark,
                SLOT_INDEX => Field::Index,
                SLOT_ANSWER => Field::Answer,
                SLOT_SUM => Field::Sum,
                SLOT_REQUEST => Field::Request,
                _ => Field::Other,
            },
        }
    }
}

/// Why a connection cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The frontend broke the ring.
    Peer(Violation),
    /// The record is damaged: a driver that does not only stop but also scribbles is outside the fault model. Never replayed.
    Damaged {
        /// The slot with the wrong checksum; `None` for the header.
        slot: Option<u16>,
    },
    /// The record is of another format or ring size: this image cannot honour it.
    Foreign,
}

/// A request taken and not yet answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Slot of the record.
    slot: u16,
    /// Index of the request in the ring.
    pub index: u32,
}

impl Ticket {
    /// The ticket of no request.
    pub const NONE: Ticket = Ticket { slot: 0, index: 0 };

    /// A number below the ring's entries that no other request in flight has.
    pub const fn slot(self) -> u16 {
        self.slot
    }
}

/// One ring of one connection, journalled; its requests are `E`.
#[derive(Debug)]
pub struct Journal<E = Whole> {
    entry: PhantomData<E>,
    geometry: Geometry,
    /// Bytes of a slot.
    slot_size: usize,
    back: Back,
    /// A bit for each slot in use.
    used: [u64; ENTRIES_MAX / 64],
    /// Slots answered since the last publish.
    batch: heapless::Vec<u16, ENTRIES_MAX>,
}

/// What [`Journal::attach`] found.
#[derive(Debug)]
pub struct Attached<E = Whole> {
    /// The ring, ready for [`Journal::next`].
    pub journal: Journal<E>,
    /// Requests to be executed again, oldest first; each is read with [`Journal::request`].
    pub replays: heapless::Vec<Ticket, ENTRIES_MAX>,
    /// Whether the record was in use: then the frontend is kicked once after the first scan.
    pub resumed: bool,
}

impl<E: Entry> Journal<E> {
    /// Attaches to a connection of the frontend's `incarnation`. A record that is empty, or of an older incarnation, starts
    /// at index 0 with `parameters`, of at most [`PARAMETERS_MAX`] bytes.
    pub fn attach(
        record: &impl Shared,
        page: &impl Shared,
        geometry: Geometry,
        incarnation: u32,
        parameters: &[u8],
    ) -> Result<Attached<E>, AttachError> {
        let usable = geometry.entries as usize <= ENTRIES_MAX && geometry.request_size() <= REQUEST_MAX;
        if !usable || parameters.len() > PARAMETERS_MAX {
            return Err(AttachError::Foreign);
        }
        let in_use = record.load_u32(AT_MAGIC) == MAGIC && record.load_u32(AT_INCARNATION) == incarnation;
        if !in_use {
            format(record, geometry, incarnation, parameters);
        }
        if record.load_u32(AT_FORMAT) != FORMAT || record.load_u32(AT_ENTRIES) != geometry.entries {
            return Err(AttachError::Foreign);
        }
        let found = self::parameters(record);
        if checksum::<Whole>(0, &found) != record.load_u32(AT_PARAMETERS_SUM) {
            return Err(AttachError::Damaged { slot: None });
        }
        let (taken, published) = (record.load_u32(AT_TAKEN), record.load_u32(AT_PUBLISHED));
        if taken.wrapping_sub(published) > geometry.entries {
            return Err(AttachError::Damaged { slot: None });
        }
        let believed = believed_producer(record, page, geometry, published)?;
        record.store_u32(AT_PUBLISHED, believed);
        let mut journal = Journal {
            entry: PhantomData,
            geometry,
            slot_size: slot_size(geometry),
            back: Back::resume(geometry, taken, believed),
            used: [0; ENTRIES_MAX / 64],
            batch: heapless::Vec::new(),
        };
        let replays = journal.recover_slots(record, believed)?;
        Ok(Attached { journal, replays, resumed: in_use })
    }

    fn recover_slots(
        &mut self,
        record: &impl Shared,
        believed: u32,
    ) -> Result<heapless::Vec<Ticket, ENTRIES_MAX>, AttachError> {
        let mut replays = heapless::Vec::<Ticket, ENTRIES_MAX>::new();
        for slot in 0..self.geometry.entries as u16 {
            let at = self.slot(slot);
            let index = record.load_u32(at + SLOT_INDEX);
            let alive = match record.load_u32(at + SLOT_MARK) {
                FREE => false,
                HELD => before(index, self.back.consumed()),
                ANSWERED => !before(record.load_u32(at + SLOT_ANSWER), believed),
                _ => return Err(AttachError::Damaged { slot: Some(slot) }),
            };
            if !alive {
                record.store_u32(at + SLOT_MARK, FREE);
                continue;
            }
            let mut request = [0; REQUEST_MAX];
            let request = &mut request[..self.geometry.request_size()];
            let used = copy::<E>(request, |from, out| record.read(at + SLOT_REQUEST + from, out));
            if checksum::<E>(index, &request[..used]) != record.load_u32(at + SLOT_SUM) {
                return Err(AttachError::Damaged { slot: Some(slot) });
            }
            record.store_u32(at + SLOT_MARK, HELD);
            self.used[slot as usize / 64] |= 1 << (slot % 64);
            // There are no more slots than the vector has places.
            let _ = replays.push(Ticket { slot, index });
        }
        if replays.len() != self.back.consumed().wrapping_sub(believed) as usize {
            return Err(AttachError::Damaged { slot: None });
        }
        replays.sort_unstable_by_key(|ticket| ticket.index.wrapping_sub(believed.wrapping_sub(u32::MAX / 2)));
        Ok(replays)
    }

    fn slot(&self, slot: u16) -> usize {
        AT_SLOTS + slot as usize * self.slot_size
    }

    /// Takes the next request into `request` (of the ring's entry size) and journals it. What says nothing of a request is
    /// left as it is there. `between` is called between the stores.
    #[inline(always)]
    pub fn next(
        &mut self,
        record: &impl Shared,
        page: &impl Shared,
        request: &mut [u8],
        between: impl Fn(),
    ) -> Result<Option<Ticket>, Violation> {
        let Some(at) = self.back.next(page)? else { return Ok(None) };
        let geometry = self.geometry;
        let used = copy::<E>(request, |from, out| geometry.read(page, at, from, out));
        let ticket = self.hold(record, &request[..used], &between);
        between();
        record.store_u32(AT_TAKEN, self.back.consumed());
        Ok(ticket)
    }

    /// Copies the request `ahead` places after the next one out, without taking it; `false` if there is none.
    pub fn peek(&self, page: &impl Shared, ahead: u32, request: &mut [u8]) -> Result<bool, Violation> {
        Ok(self.back.peek_ahead(page, ahead, request)?.is_some())
    }

    /// Takes the next requests, which the caller has peeked at, together: after a crash all of them count as taken or none.
    /// `kept` is what the record holds for each, of the ring's entry size; `each` gets the tickets. `between` is called between
    /// the stores.
    pub fn take<B: AsRef<[u8]>>(
        &mut self,
        record: &impl Shared,
        kept: impl IntoIterator<Item = B>,
        mut each: impl FnMut(Ticket),
        between: impl Fn(),
    ) {
        for kept in kept {
            let kept = kept.as_ref();
            let kept = kept.get(..E::used(kept)).unwrap_or(kept);
            let Some(ticket) = self.hold(record, kept, &between) else { break };
            each(ticket);
        }
        between();
        record.store_u32(AT_TAKEN, self.back.consumed());
    }

    /// Copies what the next request says into the record, where it does not count yet.
    #[inline(always)]
    fn hold(&mut self, record: &impl Shared, request: &[u8], between: &impl Fn()) -> Option<Ticket> {
        // There are as many slots as entries, so one is free for each request that a peek gave.
        let slot = self.free_slot()?;
        let (index, at) = (self.back.consumed(), self.slot(slot));
        let (head, rest) = split::<E>(request);
        let place = record.part(at, SLOT_REQUEST + E::HEAD);
        place.write(SLOT_REQUEST, head);
        if !rest.is_empty() {
            record.write(at + SLOT_REQUEST + E::HEAD, rest);
        }
        between();
        place.store_u32(SLOT_INDEX, index);
        place.store_u32(SLOT_SUM, checksum::<E>(index, request));
        place.store_u32(SLOT_MARK, HELD);
        self.back.take();
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        Some(Ticket { slot, index })
    }

    /// Requests that can be taken.
    pub fn available(&self, page: &impl Shared) -> Result<u32, Violation> {
        self.back.available(page)
    }

    /// Reads the copy of a request that was taken. What says nothing of it is left as it is in `request`.
    pub fn request(&self, record: &impl Shared, ticket: Ticket, request: &mut [u8]) {
        let at = self.slot(ticket.slot) + SLOT_REQUEST;
        copy::<E>(request, |from, out| record.read(at + from, out));
    }

    /// Writes the response to a request; the frontend sees it after [`Journal::publish`]. `between` is called between the stores.
    #[inline(always)]
    pub fn answer(
        &mut self,
        record: &impl Shared,
        page: &impl Shared,
        ticket: Ticket,
        response: &[u8],
        between: impl Fn(),
    ) {
        let index = self.back.written();
        if self.back.write(page, response) {
            between();
            let place = record.part(self.slot(ticket.slot), SLOT_REQUEST);
            place.store_u32(SLOT_ANSWER, index);
            place.store_u32(SLOT_MARK, ANSWERED);
            // Bounded by the slots in use.
            let _ = self.batch.push(ticket.slot);
        }
    }

    /// Shows the frontend all responses written; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self, record: &impl Shared, page: &impl Shared) -> bool {
        let notify = self.show(page);
        self.settle(record, |_| ());
        notify
    }

    /// The first half of [`Journal::publish`]: the frontend sees the responses, the record does not say so yet.
    #[must_use]
    pub fn show(&mut self, page: &impl Shared) -> bool {
        !self.batch.is_empty() && self.back.publish(page)
    }

    /// The second half: the record says what [`Journal::show`] showed, and its slots are free again; `each` gets them.
    #[inline(always)]
    pub fn settle(&mut self, record: &impl Shared, mut each: impl FnMut(u16)) {
        if self.batch.is_empty() {
            return;
        }
        record.store_u32(AT_PUBLISHED, self.back.published());
        for &slot in &self.batch {
            record.store_u32(self.slot(slot) + SLOT_MARK, FREE);
            self.used[slot as usize / 64] &= !(1 << (slot % 64));
            each(slot);
        }
        self.batch.clear();
    }

    /// Flips a bit, one of `bits`, of the copy of a request in flight; `number` decides which. For tests of what an attach makes of
    /// it.
    #[cfg(any(test, feature = "damage"))]
    pub fn damage(&self, record: &impl Shared, bits: core::ops::Range<usize>, number: u64) {
        let held = |slot: &u16| {
            let used = self.used[*slot as usize / 64] >> (slot % 64) & 1 != 0;
            used && record.load_u32(self.slot(*slot) + SLOT_MARK) == HELD
        };
        let slots: heapless::Vec<u16, ENTRIES_MAX> = (0..self.geometry.entries as u16).filter(held).collect();
        let (count, number) = (slots.len().max(1), number as usize);
        let Some(&slot) = slots.get(number % count) else { return };
        let bit = bits.start + number / count % bits.len().max(1);
        let word = self.slot(slot) + SLOT_REQUEST + bit / 32 * 4;
        record.store_u32(word, record.load_u32(word) ^ 1 << (bit % 32));
    }

    /// Asks to be notified of the next request, and looks once more: `true` if one came meanwhile, so do not sleep.
    pub fn rearm(&self, page: &impl Shared) -> Result<bool, Violation> {
        self.back.rearm(page)
    }

    /// The shape of the ring.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether a response was written that the frontend does not see yet.
    pub fn has_answers(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Requests taken and not yet published as answered.
    pub const fn in_flight(&self) -> u32 {
        self.back.consumed().wrapping_sub(self.back.published())
    }

    fn free_slot(&self) -> Option<u16> {
        let slot = self
            .used
            .iter()
            .enumerate()
            .find_map(|(word, &bits)| (bits != u64::MAX).then(|| word as u32 * 64 + bits.trailing_ones()))?;
        (slot < self.geometry.entries).then_some(slot as u16)
    }
}

/// The parameters that a record holds.
pub fn parameters(record: &impl Shared) -> [u8; PARAMETERS_MAX] {
    let mut found = [0; PARAMETERS_MAX];
    record.read(AT_PARAMETERS, &mut found);
    found
}

/// Empties a record: the connection was closed in good order.
pub fn forget(record: &impl Shared) {
    record.store_u32(AT_MAGIC, 0);
}

/// Whether index `a` lies before `b` on the circle of indexes.
const fn before(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).wrapping_sub(1) < u32::MAX / 2
}

/// The shared response producer, if it is one that this record can have led to.
fn believed_producer(
    record: &impl Shared,
    page: &impl Shared,
    geometry: Geometry,
    published: u32,
) -> Result<u32, AttachError> {
    let answered = (0..geometry.entries as usize)
        .map(|slot| AT_SLOTS + slot * slot_size(geometry))
        .filter(|&at| record.load_u32(at + SLOT_MARK) == ANSWERED)
        .filter(|&at| !before(record.load_u32(at + SLOT_ANSWER), published))
        .count() as u32;
    let found = page.load_u32(sring::RESPONSE_PRODUCER);
    if found.wrapping_sub(published) <= answered {
        Ok(found)
    } else {
        Err(AttachError::Peer(Violation::IndexJump { found, own: published, size: answered }))
    }
}

/// Makes an empty record. The magic goes last: a crash before it leaves the record empty.
fn format(record: &impl Shared, geometry: Geometry, incarnation: u32, parameters: &[u8]) {
    record.store_u32(AT_MAGIC, 0);
    for slot in 0..geometry.entries as usize {
        record.store_u32(AT_SLOTS + slot * slot_size(geometry) + SLOT_MARK, FREE);
    }
    let mut padded = [0; PARAMETERS_MAX];
    padded[..parameters.len()].copy_from_slice(parameters);
    record.write(AT_PARAMETERS, &padded);
    for (at, value) in [
        (AT_FORMAT, FORMAT),
        (AT_INCARNATION, incarnation),
        (AT_ENTRIES, geometry.entries),
        (AT_TAKEN, 0),
        (AT_PUBLISHED, 0),
        (AT_PARAMETERS_SUM, checksum::<Whole>(0, &padded)),
        (AT_MAGIC, MAGIC),
    ] {
        record.store_u32(at, value);
    }
}

/// Tells a whole copy from a torn or scribbled one; no defence against somebody who wants it to match. Eight bytes a step, since
/// it runs for every request.
#[inline(always)]
fn checksum<E: Entry>(index: u32, used: &[u8]) -> u32 {
    /// 2^64 / golden ratio: spreads every input bit over the upper half.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |sum: u64, &word: &[u8; 8]| (sum ^ u64::from_le_bytes(word)).wrapping_mul(SPREAD).rotate_left(29);
    let (head, rest) = split::<E>(used);
    // Zeros are told from nothing by how many bytes there are.
    let start = (u64::from(index) | (used.len() as u64) << u32::BITS) ^ SPREAD;
    let mut sum = head.as_chunks().0.iter().fold(start, step);
    if !rest.is_empty() {
        let (words, last) = rest.as_chunks();
        let mut tail = [0; 8];
        tail[..last.len()].copy_from_slice(last);
        sum = words.iter().chain([&tail]).fold(sum, step);
    }
    (sum ^ (sum >> 32)) as u32
}

/// The head of a request, whose length is known to the compiler, and the rest.
#[inline(always)]
fn split<E: Entry>(used: &[u8]) -> (&[u8], &[u8]) {
    used.split_at_checked(E::HEAD).unwrap_or((used, &[]))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
