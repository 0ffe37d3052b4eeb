//! The requests of one block ring, from being asked for to being answered.
//!
//! Pure: no hypercall, no event. Requests enter the ring in the order in which they were asked for; those that find it full
//! wait in line. What a request needs - its pages above all - is kept until its answer is there, whoever still waits for it.
//! An id is never used twice, so that an answer that comes twice is noticed.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;

use protocol::record::Entry;
use protocol::ring::block::{
    self, Blocks, Body, DIRECT_SEGMENTS, INDIRECT_PAGES, REQUEST_SIZE, RESPONSE_SIZE, RawRequest, Request,
    SEGMENT_SIZE, SEGMENTS_PER_PAGE, Segment, Segments, encode_direct, operation, read_response,
};
use protocol::ring::sring::{Front, Geometry, initialise};

use super::Failure;
use crate::frontend::{Fault, Share};
use crate::spread::Spread;

/// What is asked of the disk. Sectors have 512 bytes.
pub enum Ask<S> {
    /// Move sectors between the disk and granted pages.
    Transfer {
        /// Towards the disk.
        write: bool,
        /// First sector on the disk.
        sector: u64,
        /// How many pages; at most [`SEGMENTS_PER_PAGE`].
        count: usize,
        /// The pages.
        segments: S,
    },
    /// Make all that was answered durable.
    Flush,
    /// Forget sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: u16,
    generation: u64,
}

impl Ticket {
    /// Bits of an id that hold the slot.
    const SLOT_BITS: u32 = 16;

    fn id(self) -> u64 {
        self.generation << Self::SLOT_BITS | u64::from(self.slot)
    }

    fn of(id: u64) -> Ticket {
        Ticket { slot: id as u16, generation: id >> Self::SLOT_BITS }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Free,
    /// Not in the ring yet.
    InLine,
    InFlight,
    Answered(Result<(), Failure>),
}

#[derive(Debug)]
struct Slot<P, K> {
    generation: u64,
    stage: Stage,
    echo: u8,
    /// Nobody waits for the answer any more.
    abandoned: bool,
    /// Somebody waits for the answer: the waker's task. The waker stays when it was used, since the next request of the place
    /// is often the same task's.
    waits: bool,
    waker: Option<Waker>,
    kept: Option<K>,
    descriptors: Option<P>,
}

/// The asking end of a block ring. `P` are its pages, `K` is what a request keeps until it is answered.
#[derive(Debug)]
pub struct Queue<P, K> {
    ring: Spread<P>,
    front: Front,
    slots: Vec<Slot<P, K>>,
    free: Vec<u16>,
    line: VecDeque<(u16, RawRequest)>,
    /// Requests written into the ring since the last time they were published.
    fresh: bool,
    in_flight: u32,
    /// Pages for the descriptors of indirect requests that none uses now.
    spare: Vec<P>,
}

impl<P: Share, K> Queue<P, K> {
    /// A queue on the pages of a fresh ring.
    pub fn new(pages: Vec<P>) -> Queue<P, K> {
        let geometry = Geometry::of(pages.len(), REQUEST_SIZE);
        let ring = Spread::new(pages);
        initialise(&ring);
        Queue {
            ring,
            front: Front::new(geometry),
            slots: Vec::new(),
            free: Vec::new(),
            line: VecDeque::new(),
            fresh: false,
            in_flight: 0,
            spare: Vec::new(),
        }
    }

    /// The pages of the ring.
    pub fn pages(&self) -> &[P] {
        self.ring.pages()
    }

    /// Requests that are not answered, those in line included.
    pub fn unanswered(&self) -> usize {
        self.in_flight as usize + self.line.len()
    }

    /// Takes a request in. It reaches the backend with the next [`Queue::publish`]. `page` makes a page that the backend may
    /// read, if one is needed for descriptors.
    pub fn ask(
        &mut self,
        ask: Ask<impl Iterator<Item = Segment>>,
        kept: K,
        page: impl FnOnce() -> Result<P, Failure>,
    ) -> Result<Ticket, Failure> {
        let ticket = self.vacant()?;
        let mut raw = [0; REQUEST_SIZE];
        let (echo, descriptors) = match self.encode(&mut raw, ticket.id(), ask, page) {
            Ok(encoded) => encoded,
            Err(failure) => {
                self.free.push(ticket.slot);
                return Err(failure);
            }
        };
        let enters = self.line.is_empty() && self.enter(&raw);
        if !enters {
            self.wait_in_line(ticket.slot, &raw);
        }
        let slot = &mut self.slots[ticket.slot as usize];
        slot.stage = if enters { Stage::InFlight } else { Stage::InLine };
        (slot.echo, slot.abandoned, slot.waits) = (echo, false, false);
        slot.kept = Some(kept);
        if descriptors.is_some() {
            slot.descriptors = descriptors;
        }
        Ok(ticket)
    }

    /// A place for a request. In one that is free there is nothing of the former one but its generation.
    fn vacant(&mut self) -> Result<Ticket, Failure> {
        if let Some(slot) = self.free.pop() {
            return Ok(Ticket { slot, generation: self.slots[slot as usize].generation });
        }
        self.grow()
    }

    #[cold]
    fn wait_in_line(&mut self, slot: u16, raw: &RawRequest) {
        self.line.push_back((slot, *raw));
    }

    /// Makes another place.
    #[cold]
    fn grow(&mut self) -> Result<Ticket, Failure> {
        let slot = u16::try_from(self.slots.len()).map_err(|_| Failure::NoRoom)?;
        self.slots.push(Slot {
            generation: 0,
            stage: Stage::Free,
            echo: 0,
            abandoned: false,
            waits: false,
            waker: None,
            kept: None,
            descriptors: None,
        });
        Ok(Ticket { slot, generation: 0 })
    }

    /// Writes what goes into the ring to `raw`; gives what is echoed of it, and the page of descriptors that belongs to it.
    #[inline(always)]
    fn encode(
        &mut self,
        raw: &mut RawRequest,
        id: u64,
        ask: Ask<impl Iterator<Item = Segment>>,
        page: impl FnOnce() -> Result<P, Failure>,
    ) -> Result<(u8, Option<P>), Failure> {
        let (write, sector, count, segments) = match ask {
            Ask::Flush => {
                let echo = operation::FLUSH;
                *raw = Request { id, echo, body: Body::Flush }.encode();
                return Ok((echo, None));
            }
            Ask::Discard { sector, sectors } => {
                let echo = operation::DISCARD;
                *raw = Request { id, echo, body: Body::Discard { sector, sectors } }.encode();
                return Ok((echo, None));
            }
            Ask::Transfer { write, sector, count, segments } => (write, sector, count, segments),
        };
        let echo = if write { operation::WRITE } else { operation::READ };
        if count <= DIRECT_SEGMENTS {
            encode_direct(raw, id, echo, sector, segments.take(count));
            return Ok((echo, None));
        }
        let descriptors = self.describe(count, segments, page)?;
        let mut pages = [0; INDIRECT_PAGES];
        pages[0] = descriptors.reference();
        let segments = Segments::Indirect { count: count as u16, pages };
        let body = Body::Transfer { write, sector, segments };
        *raw = Request { id, echo, body }.encode();
        Ok((echo, Some(descriptors)))
    }

    /// Gives a page with the descriptors of so many segments.
    #[inline(never)]
    fn describe(
        &mut self,
        count: usize,
        segments: impl Iterator<Item = Segment>,
        page: impl FnOnce() -> Result<P, Failure>,
    ) -> Result<P, Failure> {
        if count > SEGMENTS_PER_PAGE {
            return Err(Failure::TooLarge);
        }
        let page = match self.spare.pop() {
            Some(page) => page,
            None => page()?,
        };
        for (at, segment) in segments.take(count).enumerate() {
            page.write(at * SEGMENT_SIZE, &segment.encode());
        }
        Ok(page)
    }

    /// Moves requests from the line into the ring.
    fn fill(&mut self) {
        while self.front.room() > 0
            && let Some((index, raw)) = self.line.pop_front()
        {
            self.slots[index as usize].stage = Stage::InFlight;
            // There is room: it was just looked at.
            let _ = self.enter(&raw);
        }
    }

    /// Writes what a request says into the ring; `false` if the ring is full.
    #[inline(always)]
    fn enter(&mut self, raw: &RawRequest) -> bool {
        // For most the length is known to the compiler.
        let entered = match Blocks::used(raw) {
            Blocks::HEAD => self.front.write(&self.ring, &raw[..Blocks::HEAD]),
            used => self.front.write(&self.ring, &raw[..used]),
        };
        self.fresh |= entered;
        self.in_flight += u32::from(entered);
        entered
    }

    /// Makes what was asked for visible to the backend; `true` if it has to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        self.fill();
        core::mem::take(&mut self.fresh) && self.front.publish(&self.ring)
    }

    /// Takes the answers that are there; gives their number, at most one ring full.
    pub fn collect(&mut self) -> Result<u32, Fault> {
        let (mut raw, mut count) = ([0; RESPONSE_SIZE], 0);
        while self.front.take(&self.ring, &mut raw)? {
            self.answer(&raw)?;
            count += 1;
        }
        Ok(count)
    }

    fn answer(&mut self, raw: &[u8; RESPONSE_SIZE]) -> Result<(), Fault> {
        let (id, echo, status) = read_response(raw);
        let ticket = Ticket::of(id);
        let slot = self.slots.get_mut(ticket.slot as usize);
        let slot = slot.filter(|slot| slot.stage == Stage::InFlight && slot.generation == ticket.generation);
        let slot = slot.ok_or(Fault::UnknownId { id })?;
        if echo != slot.echo {
            return Err(Fault::Operation { found: echo, asked: slot.echo });
        }
        let outcome = match status {
            _ if status == block::Status::Okay as i16 => Ok(()),
            _ if status == block::Status::Error as i16 => Err(Failure::Refused(block::Status::Error)),
            _ if status == block::Status::NotSupported as i16 => Err(Failure::Refused(block::Status::NotSupported)),
            found => return Err(Fault::Status { id, found }),
        };
        self.in_flight -= 1;
        if let Some(page) = slot.descriptors.take() {
            self.spare.push(page);
        }
        Self::finish(slot, outcome);
        if slot.abandoned {
            self.release(ticket.slot);
        }
        Ok(())
    }

    fn finish(slot: &mut Slot<P, K>, outcome: Result<(), Failure>) {
        slot.kept = None;
        slot.stage = Stage::Answered(outcome);
        if core::mem::take(&mut slot.waits)
            && let Some(waker) = &slot.waker
        {
            waker.wake_by_ref();
        }
    }

    fn release(&mut self, index: u16) {
        let slot = &mut self.slots[index as usize];
        slot.stage = Stage::Free;
        slot.generation += 1;
        self.free.push(index);
    }

    /// Asks to be notified of the next answer, and looks once more: `true` if one came meanwhile, so do not sleep.
    pub fn rearm(&self) -> Result<bool, Fault> {
        Ok(self.front.rearm(&self.ring)?)
    }

    /// The outcome of a request, once; until it is known, `waker` is kept to be woken then.
    #[inline(always)]
    pub fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Option<Result<(), Failure>> {
        let slot = self.slots.get_mut(ticket.slot as usize).filter(|slot| slot.generation == ticket.generation);
        let Some(slot) = slot else { return Some(Err(Failure::Gone)) };
        if let Stage::Answered(outcome) = slot.stage {
            self.release(ticket.slot);
            return Some(outcome);
        }
        slot.waits = true;
        match &mut slot.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        None
    }

    /// Nobody will ask for the outcome of this request. It is carried out nevertheless.
    pub fn abandon(&mut self, ticket: Ticket) {
        let slot = self.slots.get_mut(ticket.slot as usize).filter(|slot| slot.generation == ticket.generation);
        match slot {
            Some(Slot { stage: Stage::Answered(_), .. }) => self.release(ticket.slot),
            Some(slot) => slot.abandoned = true,
            None => {}
        }
    }

    /// Fails everything that is not answered.
    pub fn fail(&mut self) {
        self.line.clear();
        self.in_flight = 0;
        for slot in &mut self.slots {
            if matches!(slot.stage, Stage::InLine | Stage::InFlight) {
                Self::finish(slot, Err(Failure::Gone));
            }
        }
    }
}
