//! The sending half of a network connection, pure: no hypercall, no event.
//!
//! Frames are copied into pages that are granted once and kept. A page is free again when its slot is answered: until then
//! the backend may read it.

use alloc::vec::Vec;

use protocol::layout::PAGE_SIZE;
use protocol::ring::net::{FRAME_MIN, PACKET_MAX, SLOTS_MAX, TRANSMIT, TransmitRequest, flag, status};
use protocol::ring::sring::{Front, initialise};

use crate::frontend::{Fault, Share};

/// Bytes of a frame that one slot holds.
const SLOT_BYTES: usize = PAGE_SIZE as usize;

/// The ring, and the pages that frames are copied to.
#[derive(Debug)]
pub struct Transmit<P> {
    ring: P,
    front: Front,
    pages: Vec<P>,
    free: Vec<u16>,
    /// For each page, whether the backend has it.
    out: Vec<bool>,
    fresh: bool,
}

impl<P: Share> Transmit<P> {
    /// A ring on a fresh page, and pages for frames; more than the ring has slots are of no use.
    pub fn new(ring: P, pages: Vec<P>) -> Transmit<P> {
        initialise(&ring);
        let count = pages.len().min(TRANSMIT.entries as usize) as u16;
        Transmit {
            ring,
            front: Front::new(TRANSMIT),
            out: alloc::vec![false; count.into()],
            free: (0..count).rev().collect(),
            pages,
            fresh: false,
        }
    }

    /// The page of the ring.
    pub fn ring(&self) -> &P {
        &self.ring
    }

    /// Pages that the backend has.
    pub fn unanswered(&self) -> usize {
        self.out.len() - self.free.len()
    }

    /// Whether at least half of the pages are with the backend, so that it is worth being told when they come back.
    pub fn is_short(&self) -> bool {
        self.free.len() < self.out.len().div_ceil(2)
    }

    /// Whether there is room for a frame of so many bytes.
    pub fn has_room(&self, length: usize) -> bool {
        let slots = length.div_ceil(SLOT_BYTES).max(1);
        slots <= self.free.len() && slots <= self.front.room() as usize
    }

    /// Takes a frame in; it reaches the backend with the next [`Transmit::publish`]. `blank`: of its checksum only the part of
    /// the pseudo header is there. `false` without room,
    /// and for what is no frame.
    pub fn send(&mut self, frame: &[u8], blank: bool) -> bool {
        let slots = frame.chunks(SLOT_BYTES).len();
        let possible = (FRAME_MIN..=PACKET_MAX).contains(&frame.len()) && slots <= SLOTS_MAX;
        if !possible || !self.has_room(frame.len()) {
            return false;
        }
        for (at, part) in frame.chunks(SLOT_BYTES).enumerate() {
            let Some(id) = self.free.pop() else { return false };
            let page = &self.pages[id as usize];
            page.write(0, part);
            self.out[id as usize] = true;
            let more = if at + 1 < slots { flag::transmit::MORE_DATA } else { 0 };
            let flags =
                if blank && at == 0 { flag::transmit::CHECKSUM_BLANK | flag::transmit::DATA_VALIDATED } else { 0 };
            let size = if at == 0 { frame.len() } else { part.len() } as u16;
            let request = TransmitRequest { reference: page.reference(), offset: 0, flags: flags | more, id, size };
            // There is room, and the size is that of a slot.
            let _ = self.front.write(&self.ring, &request.encode());
        }
        self.fresh = true;
        true
    }

    /// Makes the frames visible to the backend; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        core::mem::take(&mut self.fresh) && self.front.publish(&self.ring)
    }

    /// Takes the answers that are there, at most one ring full; gives how many, and how many of them say that the frame was
    /// not sent.
    pub fn collect(&mut self) -> Result<(u32, u32), Fault> {
        let (mut raw, mut count, mut refused) = ([0; 4], 0, 0);
        while self.front.take(&self.ring, &mut raw)? {
            let (id, found) = (u16::from_le_bytes([raw[0], raw[1]]), i16::from_le_bytes([raw[2], raw[3]]));
            let unknown = Fault::UnknownId { id: id.into() };
            if !core::mem::take(self.out.get_mut(id as usize).ok_or(unknown)?) {
                return Err(unknown);
            }
            self.free.push(id);
            count += 1;
            match found {
                status::OKAY => {}
                status::ERROR | status::DROPPED => refused += 1,
                _ => return Err(Fault::Status { id: id.into(), found }),
            }
        }
        Ok((count, refused))
    }

    /// Asks to be notified of the next answer, and looks once more: `true` if one came meanwhile.
    pub fn rearm(&self) -> Result<bool, Fault> {
        Ok(self.front.rearm(&self.ring)?)
    }
}
