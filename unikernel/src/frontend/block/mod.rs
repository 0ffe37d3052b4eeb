//! Disks that a disk domain serves.
//!
//! A [`Disk`] is there from the start, under the name the configuration gives it, and becomes usable when dom0 has connected
//! it. Requests enter the ring in the order of the calls, not in that in which their futures are polled. One that is answered
//! late - the disk domain may be in the middle of a restart - is waited for; there is no time limit, because giving up would
//! leave its pages with somebody who may still write to them.

mod buffer;
pub mod queue;
#[cfg(test)]
mod tests;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::iter::Empty;
use core::pin::Pin;
use core::task::{Context, Poll};

use protocol::connection::DiskLimits;
use protocol::error::Error;
use protocol::event::Port;
use protocol::grant::GrantRef;
use protocol::ring::block::{DIRECT_SEGMENTS, Limits, SECTOR, SEGMENTS_PER_PAGE, Segment, Status};

pub use buffer::{Buffer, Piece};
use queue::{Ask, Queue, Ticket};

use super::link::{Link, Phase, Rings, Traffic, Turn, gone};
use super::{Fault, Share};
use crate::grant::{Access, Granted};
use crate::pages::Page;

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The disk domain says so.
    Refused(Status),
    /// The disk is not connected, or was disconnected or closed meanwhile. What became of the request is not known.
    Gone,
    /// The sectors do not lie on the disk or in the buffer, or there are none.
    Range,
    /// The disk is read-only, or does not offer the operation.
    NotOffered,
    /// More pages than one request can have: [`Disk::pages_max`].
    TooLarge,
    /// Too many requests at once.
    NoRoom,
    /// The core refused pages or grants.
    Core(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(status) => write!(f, "the disk domain answered {status:?}"),
            Failure::Gone => f.write_str("the disk is not connected"),
            Failure::Range => f.write_str("the sectors are not on the disk or not in the buffer"),
            Failure::NotOffered => f.write_str("the disk does not offer this"),
            Failure::TooLarge => f.write_str("more pages than a request can have"),
            Failure::NoRoom => f.write_str("too many requests at once"),
            Failure::Core(error) => write!(f, "the core refused: {error}"),
        }
    }
}

impl core::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Core(error)
    }
}

impl Share for Granted {
    fn reference(&self) -> GrantRef {
        Granted::reference(self)
    }
}

/// What a request keeps: the pages it uses.
type Kept = Option<Piece>;

/// A connection to a disk domain.
struct Ring {
    queue: Queue<Granted, Kept>,
    peer: u16,
}

struct Inner {
    link: Link,
    ring: RefCell<Option<Ring>>,
    limits: Cell<DiskLimits>,
}

/// A disk.
#[derive(Clone)]
pub struct Disk(Rc<Inner>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("link", &self.0.link).field("limits", &self.0.limits.get()).finish()
    }
}

impl Disk {
    pub(super) fn new(name: &str) -> Disk {
        Disk(Rc::new(Inner { link: Link::new(name), ring: RefCell::new(None), limits: Cell::default() }))
    }

    /// The name that the configuration gives it.
    pub fn name(&self) -> &str {
        self.0.link.name()
    }

    /// Waits until the disk can be used; says what it is like.
    pub async fn ready(&self) -> DiskLimits {
        self.0.link.until(|| self.0.link.phase() == Phase::Ready).await;
        self.0.limits.get()
    }

    /// What it is like, if it can be used. A disk can grow.
    pub fn limits(&self) -> Option<DiskLimits> {
        (self.0.link.phase() == Phase::Ready).then(|| self.0.limits.get())
    }

    /// Pages that one request can have.
    pub fn pages_max(&self) -> usize {
        usize::from(self.0.limits.get().indirect_segments).clamp(DIRECT_SEGMENTS, SEGMENTS_PER_PAGE)
    }

    /// Notifications so far.
    pub fn traffic(&self) -> Traffic {
        self.0.link.traffic()
    }

    /// Requests that are not answered.
    pub fn unanswered(&self) -> usize {
        self.0.ring.borrow().as_ref().map_or(0, |ring| ring.queue.unanswered())
    }

    /// A buffer of so many pages for transfers.
    pub fn buffer(&self, pages: usize) -> Result<Rc<Buffer>, Failure> {
        let peer = self.0.ring.borrow().as_ref().ok_or(Failure::Gone)?.peer;
        Ok(Buffer::new(pages, peer)?)
    }

    /// Reads sectors into a buffer.
    pub fn read(&self, sector: u64, into: Piece) -> Pending {
        self.transfer(false, sector, into)
    }

    /// Writes sectors from a buffer.
    pub fn write(&self, sector: u64, from: Piece) -> Pending {
        self.transfer(true, sector, from)
    }

    /// Makes durable what was answered before.
    pub fn flush(&self) -> Pending {
        let limits = self.0.limits.get();
        self.ask(offered(limits.flush), Ask::<Empty<Segment>>::Flush, None)
    }

    /// Forgets what sectors hold.
    pub fn discard(&self, sector: u64, sectors: u64) -> Pending {
        let limits = self.0.limits.get();
        let sound = on_disk(&limits, sector, sectors).and(offered(limits.discard && !limits.read_only));
        self.ask(sound, Ask::<Empty<Segment>>::Discard { sector, sectors }, None)
    }

    fn transfer(&self, write: bool, sector: u64, piece: Piece) -> Pending {
        let (count, of) = (piece.pages(), piece.clone());
        let sound = self.sound(write, sector, &piece, count);
        self.ask(sound, Ask::Transfer { write, sector, count, segments: of.segments(count) }, Some(piece))
    }

    /// Whether the disk offers a transfer, and the piece, which touches so many pages, can be had.
    fn sound(&self, write: bool, sector: u64, piece: &Piece, pages: usize) -> Result<(), Failure> {
        let limits = self.0.limits.get();
        on_disk(&limits, sector, piece.count())?;
        offered(!(write && limits.read_only))?;
        if !piece.is_sound() {
            return Err(Failure::Range);
        }
        if pages <= DIRECT_SEGMENTS || pages <= self.pages_max() { Ok(()) } else { Err(Failure::TooLarge) }
    }

    #[inline(always)]
    fn ask(&self, sound: Result<(), Failure>, ask: Ask<impl Iterator<Item = Segment>>, kept: Kept) -> Pending {
        let state = match self.enqueue(sound, ask, kept) {
            Ok(ticket) => Asked::Ticket(ticket, self.0.link.epoch()),
            Err(failure) => Asked::Never(failure),
        };
        self.0.link.work();
        Pending { disk: self.clone(), state }
    }

    #[inline(always)]
    fn enqueue(
        &self,
        sound: Result<(), Failure>,
        ask: Ask<impl Iterator<Item = Segment>>,
        kept: Kept,
    ) -> Result<Ticket, Failure> {
        let mut ring = self.0.ring.borrow_mut();
        let Ring { queue, peer } =
            ring.as_mut().filter(|_| self.0.link.phase() == Phase::Ready).ok_or(Failure::Gone)?;
        if kept.as_ref().is_some_and(|piece| piece.peer() != *peer) {
            return Err(Failure::Gone);
        }
        sound?;
        queue.ask(ask, kept, || Ok(Granted::new(Page::new()?, *peer, Access::Read)?))
    }

    #[inline(never)]
    fn abandon(&self, ticket: Ticket, epoch: u32) {
        if epoch == self.0.link.epoch()
            && let Some(ring) = self.0.ring.borrow_mut().as_mut()
        {
            ring.queue.abandon(ticket);
        }
    }

    /// Makes a ring for the backend that serves the disk from now on; a former one is gone.
    pub(super) fn offer(&self, peer: u16, port: Port, pages: usize) -> Result<Vec<GrantRef>, Failure> {
        if self.0.link.is_repeated(peer, port)
            && let Some(ring) = self.0.ring.borrow().as_ref()
        {
            return Ok(ring.queue.pages().iter().map(Granted::reference).collect());
        }
        gone(self);
        let pages: Vec<Granted> =
            (0..pages).map(|_| Ok(Granted::new(Page::new()?, peer, Access::Write)?)).collect::<Result<_, Failure>>()?;
        let references = pages.iter().map(Granted::reference).collect();
        *self.0.ring.borrow_mut() = Some(Ring { queue: Queue::new(pages), peer });
        self.0.link.offered(peer, port, self.clone());
        Ok(references)
    }

    /// The backend serves the ring.
    pub(super) fn announce(&self, limits: DiskLimits) {
        self.0.limits.set(limits);
        self.0.link.announced();
    }

    /// The disk has another size.
    pub(super) fn resize(&self, limits: DiskLimits) {
        self.0.limits.set(limits);
    }
}

impl Rings for Disk {
    fn link(&self) -> &Link {
        &self.0.link
    }

    fn is_idle(&self) -> bool {
        self.unanswered() == 0
    }

    fn turn(&self) -> Result<Turn, Fault> {
        let mut guard = self.0.ring.borrow_mut();
        let Some(Ring { queue, .. }) = guard.as_mut() else { return Ok(Turn::default()) };
        let progress = queue.collect()? > 0;
        Ok(Turn { progress, notify: queue.publish() })
    }

    fn rearm(&self) -> Result<bool, Fault> {
        self.0.ring.borrow().as_ref().map_or(Ok(false), |ring| ring.queue.rearm())
    }

    fn fail(&self) {
        if let Some(mut ring) = self.0.ring.borrow_mut().take() {
            ring.queue.fail();
        }
    }
}

fn offered(offered: bool) -> Result<(), Failure> {
    if offered { Ok(()) } else { Err(Failure::NotOffered) }
}

fn on_disk(limits: &DiskLimits, sector: u64, sectors: u64) -> Result<(), Failure> {
    let grain = u64::from(limits.sector_size) / SECTOR;
    let aligned = grain <= 1 || (sector.is_multiple_of(grain) && sectors.is_multiple_of(grain));
    let limits = Limits { sectors: limits.sectors, read_only: false, flush: false, discard: false, indirect: 0 };
    if sectors > 0 && aligned && limits.holds(sector, sectors) { Ok(()) } else { Err(Failure::Range) }
}

enum Asked {
    /// It did not come to a request.
    Never(Failure),
    /// The request, and the connection it belongs to.
    Ticket(Ticket, u32),
    /// The outcome was given.
    Over,
}

/// A request under way. Dropping it does not undo the request.
#[must_use = "the outcome is known only when it is awaited"]
pub struct Pending {
    disk: Disk,
    state: Asked,
}

impl Future for Pending {
    type Output = Result<(), Failure>;

    // Each request goes through it twice.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.state {
            Asked::Never(failure) => Some(Err(failure)),
            Asked::Ticket(ticket, epoch) if epoch == self.disk.0.link.epoch() => {
                match self.disk.0.ring.borrow_mut().as_mut() {
                    Some(ring) => ring.queue.poll(ticket, context.waker()),
                    None => Some(Err(Failure::Gone)),
                }
            }
            Asked::Ticket(..) | Asked::Over => Some(Err(Failure::Gone)),
        };
        match outcome {
            Some(outcome) => {
                self.state = Asked::Over;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Pending {
    #[inline(always)]
    fn drop(&mut self) {
        if let Asked::Ticket(ticket, epoch) = self.state {
            self.disk.abandon(ticket, epoch);
        }
    }
}
