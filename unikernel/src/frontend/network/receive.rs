//! The receiving half of a network connection, pure: no hypercall, no event.
//!
//! All pages are posted to the backend; one that it filled is copied out at once and posted again.

use alloc::vec::Vec;

use protocol::layout::PAGE_SIZE;
use protocol::ring::net::{RECEIVE, ReceiveRequest, ReceiveResponse, SLOTS_MAX, flag};
use protocol::ring::sring::{Front, initialise};

use crate::frontend::{Fault, Share};

/// A frame that arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes, headers included.
    pub bytes: Vec<u8>,
    /// The backend vouches for its checksum, which may even be missing: the frame never left the machine.
    pub checked: bool,
}

/// A frame of which more slots are to come.
#[derive(Debug, Default)]
struct Partial {
    frame: Frame,
    slots: usize,
    /// Some slot carries no data but an error: the frame is dropped.
    bad: bool,
}

/// The ring, and the pages that the backend fills.
#[derive(Debug)]
pub struct Receive<P> {
    ring: P,
    front: Front,
    pages: Vec<P>,
    /// For each page, whether the backend has it.
    posted: Vec<bool>,
    partial: Partial,
    /// Frames whose memory can be used again.
    spare: Vec<Frame>,
    fresh: bool,
}

impl<P: Share> Receive<P> {
    /// A ring on a fresh page with all `pages` posted; more than the ring has slots are of no use.
    pub fn new(ring: P, pages: Vec<P>) -> Receive<P> {
        initialise(&ring);
        let count = pages.len().min(RECEIVE.entries as usize);
        let mut receive = Receive {
            ring,
            front: Front::new(RECEIVE),
            posted: alloc::vec![false; count],
            pages,
            partial: Partial::default(),
            spare: Vec::new(),
            fresh: false,
        };
        (0..count as u16).for_each(|id| receive.post(id));
        receive
    }

    /// The page of the ring.
    pub fn ring(&self) -> &P {
        &self.ring
    }

    fn post(&mut self, id: u16) {
        let request = ReceiveRequest { id, reference: self.pages[id as usize].reference() };
        self.posted[id as usize] = true;
        self.fresh = true;
        // There are no more pages than slots.
        let _ = self.front.write(&self.ring, &request.encode());
    }

    /// Makes posted pages visible to the backend; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        core::mem::take(&mut self.fresh) && self.front.publish(&self.ring)
    }

    /// Keeps the memory of a frame to use it again.
    pub fn recycle(&mut self, frame: Frame) {
        if self.spare.len() < self.pages.len() {
            self.spare.push(frame);
        }
    }

    /// Takes the next frame; `None` if there is none that is whole. Takes at most one ring full of slots.
    pub fn take(&mut self) -> Result<Option<Frame>, Fault> {
        let mut raw = [0; 8];
        while self.front.take(&self.ring, &mut raw)? {
            let response = ReceiveResponse::parse(&raw);
            let id = response.id;
            let unknown = Fault::UnknownId { id: id.into() };
            if !core::mem::take(self.posted.get_mut(id as usize).ok_or(unknown)?) {
                return Err(unknown);
            }
            let last = self.part(response)?;
            self.post(id);
            if !last {
                continue;
            }
            let Partial { frame, bad, .. } = core::mem::take(&mut self.partial);
            match bad {
                true => self.recycle(frame),
                false => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }

    /// Copies one slot's data; `true` if it is the last of its frame.
    fn part(&mut self, response: ReceiveResponse) -> Result<bool, Fault> {
        let ReceiveResponse { id, offset, flags, status } = response;
        if self.partial.slots == 0 {
            self.partial.frame = self.spare.pop().unwrap_or_default();
            self.partial.frame.bytes.clear();
        }
        let partial = &mut self.partial;
        partial.slots += 1;
        if partial.slots > SLOTS_MAX {
            return Err(Fault::Slots);
        }
        if flags & flag::receive::EXTRA_INFO != 0 {
            return Err(Fault::Flags { found: flags });
        }
        match u16::try_from(status) {
            Ok(0) | Err(_) => partial.bad = true,
            Ok(length) => {
                let end = u64::from(offset) + u64::from(length);
                if end > PAGE_SIZE {
                    return Err(Fault::Place { offset, length });
                }
                let bytes = &mut partial.frame.bytes;
                let at = bytes.len();
                bytes.resize(at + length as usize, 0);
                self.pages[id as usize].read(offset.into(), &mut bytes[at..]);
            }
        }
        if partial.slots == 1 {
            partial.frame.checked = flags & (flag::receive::CHECKSUM_BLANK | flag::receive::DATA_VALIDATED) != 0;
        }
        Ok(flags & flag::receive::MORE_DATA == 0)
    }

    /// Asks to be notified of the next frame, and looks once more: `true` if one came meanwhile.
    pub fn rearm(&self) -> Result<bool, Fault> {
        Ok(self.front.rearm(&self.ring)?)
    }
}
