//! The page that the guest and its store share: two rings of bytes, and messages in them.
//!
//! The largest message is larger than a ring, so that both directions stream. A request is only looked at when everything that was
//! said before is in the ring: a guest that does not listen is not heard, and nothing piles up.

use alloc::vec::Vec;

use protocol::ring::byte::{Consumer, Place, Producer};
use protocol::ring::{Shared, Violation};

use super::message::{HEADER, Header, PAYLOAD_MAX};

/// From the guest.
pub const REQUESTS: Place = Place { data: 0, size: 1024, consumer: 2048, producer: 2052 };
/// To the guest.
pub const RESPONSES: Place = Place { data: 1024, size: 1024, consumer: 2056, producer: 2060 };
/// Offset of the word that says what this store can do beyond the first version; 0 is nothing.
const FEATURES: usize = 2064;
/// Offset of the word that is 0 when the store is there.
const CONNECTION: usize = 2068;
/// Offset of the word that says why the store does not serve the guest any more.
const ERROR: usize = 2072;

/// Why the guest is not served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An index of the ring is impossible (`XENSTORE_ERROR_RINGIDX`).
    Ring(Violation),
    /// A message is longer than there are any (`XENSTORE_ERROR_PROTO`).
    Length {
        /// What its header says, in bytes.
        found: u32,
    },
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::Ring(violation) => violation.fmt(f),
            Fault::Length { found } => write!(f, "a message of {found} bytes, {PAYLOAD_MAX} are the most"),
        }
    }
}

/// The store's end of the page.
#[derive(Debug)]
pub struct Wire {
    requests: Consumer,
    responses: Producer,
    /// What there is of the next request.
    incoming: Vec<u8>,
    /// What is not in the ring yet, and how much of it is.
    outgoing: Vec<u8>,
    sent: usize,
    /// The guest has to be notified.
    moved: bool,
}

impl Wire {
    /// Begins anew with the page: as after `connection`, both rings are empty.
    pub fn new(page: &impl Shared) -> Wire {
        for place in [REQUESTS, RESPONSES] {
            page.store_u32(place.consumer, 0);
            page.store_u32(place.producer, 0);
        }
        for offset in [FEATURES, CONNECTION, ERROR] {
            page.store_u32(offset, 0);
        }
        let (requests, responses) = (Consumer::attach(REQUESTS, page), Producer::attach(RESPONSES, page));
        Wire { requests, responses, incoming: Vec::new(), outgoing: Vec::new(), sent: 0, moved: false }
    }

    /// Says that there will be no more.
    pub fn close(page: &impl Shared, fault: Fault) {
        let code = match fault {
            Fault::Ring(_) => 2,
            Fault::Length { .. } => 3,
        };
        page.store_u32(ERROR, code);
    }

    /// Whether the guest has to be notified, because something moved since this was asked last.
    pub fn take_moved(&mut self) -> bool {
        core::mem::take(&mut self.moved)
    }

    /// Something to be said, after all that was said before.
    pub fn say(&mut self, header: Header, payload: &[u8]) {
        header.encode(payload, &mut self.outgoing);
    }

    /// Puts what is to be said into the ring; `true` if it is all there.
    pub fn flush(&mut self, page: &impl Shared) -> Result<bool, Fault> {
        if self.sent < self.outgoing.len() {
            let written = self.responses.write(page, &self.outgoing[self.sent..]).map_err(Fault::Ring)?;
            self.sent += written;
            self.moved |= written > 0;
        }
        let done = self.sent == self.outgoing.len();
        if done {
            self.outgoing.clear();
            self.sent = 0;
        }
        Ok(done)
    }

    /// The next request, if it is whole.
    pub fn next_request(&mut self, page: &impl Shared) -> Result<Option<(Header, Vec<u8>)>, Fault> {
        if !self.fill(page, HEADER)? {
            return Ok(None);
        }
        let Some(header) = self.incoming.first_chunk().map(Header::parse) else { return Ok(None) };
        let length = header.length as usize;
        if length > PAYLOAD_MAX {
            return Err(Fault::Length { found: header.length });
        }
        if !self.fill(page, HEADER + length)? {
            return Ok(None);
        }
        let payload = self.incoming.split_off(HEADER);
        self.incoming.clear();
        Ok(Some((header, payload)))
    }

    /// Reads until there are `length` bytes of the request; `false` if they are not there yet.
    fn fill(&mut self, page: &impl Shared, length: usize) -> Result<bool, Fault> {
        let have = self.incoming.len();
        if have < length {
            self.incoming.resize(length, 0);
            let read = self.requests.read(page, &mut self.incoming[have..]);
            self.incoming.truncate(have + read.unwrap_or(0));
            self.moved |= read.map_err(Fault::Ring)? > 0;
        }
        Ok(self.incoming.len() >= length)
    }
}
