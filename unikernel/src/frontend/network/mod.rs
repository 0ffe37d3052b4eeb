//! Network interfaces that a network domain serves.
//!
//! An [`Interface`] is there from the start, under the name the configuration gives it, and carries frames when dom0 has
//! connected it. While the network domain is being restarted frames wait or get lost, as on a wire; nothing here times out.

#[cfg(feature = "smoltcp")]
mod checksum;
#[cfg(feature = "smoltcp")]
mod phy;
pub mod receive;
#[cfg(test)]
mod tests;
pub mod transmit;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use protocol::connection::Offload;
use protocol::control::FromDomain;
use protocol::error::Result;
use protocol::event::Port;

#[cfg(feature = "smoltcp")]
pub use phy::Phy;
pub use receive::Frame;
use receive::Receive;
use transmit::Transmit;

use super::Fault;
use super::link::{Link, Phase, Rings, Traffic, Turn, gone};
use crate::grant::{Access, Granted};
use crate::pages::Page;

/// Pages for frames in each direction: half a ring, 512 KiB, so that a burst finds room while the guest is busy.
const PAGES: usize = 128;
/// Frames that arrived and that nobody took yet. More wait in the ring.
const INBOX: usize = 128;
/// What this end understands.
const OFFLOAD: Offload = Offload { checksum: true, scatter_gather: true };

/// Frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to the network domain.
    pub sent: u64,
    /// Of these, refused or dropped by it.
    pub refused: u64,
    /// Received.
    pub received: u64,
}

/// A connection to a network domain.
struct Ring {
    transmit: Transmit<Granted>,
    receive: Receive<Granted>,
}

struct Inner {
    link: Link,
    ring: RefCell<Option<Ring>>,
    inbox: RefCell<VecDeque<Frame>>,
    mac: Cell<[u8; 6]>,
    offload: Cell<Offload>,
    counts: Cell<Counts>,
}

/// A network interface.
#[derive(Clone)]
pub struct Interface(Rc<Inner>);

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface").field("link", &self.0.link).field("counts", &self.0.counts.get()).finish()
    }
}

impl Interface {
    pub(super) fn new(name: &str) -> Interface {
        Interface(Rc::new(Inner {
            link: Link::new(name),
            ring: RefCell::new(None),
            inbox: RefCell::new(VecDeque::with_capacity(INBOX)),
            mac: Cell::default(),
            offload: Cell::default(),
            counts: Cell::default(),
        }))
    }

    /// The name that the configuration gives it.
    pub fn name(&self) -> &str {
        self.0.link.name()
    }

    /// Waits until the interface can be used; gives its address.
    pub async fn ready(&self) -> [u8; 6] {
        self.0.link.until(|| self.is_up()).await;
        self.0.mac.get()
    }

    /// Whether it can be used.
    pub fn is_up(&self) -> bool {
        self.0.link.phase() == Phase::Ready
    }

    /// What the network domain takes.
    pub fn offload(&self) -> Offload {
        self.0.offload.get()
    }

    /// Frames so far.
    pub fn counts(&self) -> Counts {
        self.0.counts.get()
    }

    /// Notifications so far.
    pub fn traffic(&self) -> Traffic {
        self.0.link.traffic()
    }

    /// Whether a frame of so many bytes can be sent now.
    pub fn has_room(&self, length: usize) -> bool {
        self.is_up() && self.0.ring.borrow().as_ref().is_some_and(|ring| ring.transmit.has_room(length))
    }

    /// Sends a frame; `false` if it cannot be sent now. See [`Transmit::send`].
    pub fn send(&self, frame: &[u8], blank: bool) -> bool {
        let sent =
            self.is_up() && self.0.ring.borrow_mut().as_mut().is_some_and(|ring| ring.transmit.send(frame, blank));
        if sent {
            self.count(|counts| counts.sent += 1);
            self.0.link.work();
        }
        sent
    }

    /// Takes the next frame that arrived.
    pub fn receive(&self) -> Option<Frame> {
        let mut inbox = self.0.inbox.borrow_mut();
        if inbox.len() >= INBOX {
            // More may wait in the ring, for which there is room now.
            self.0.link.work();
        }
        inbox.pop_front()
    }

    /// Gives the memory of a frame back.
    pub fn recycle(&self, frame: Frame) {
        if let Some(ring) = self.0.ring.borrow_mut().as_mut() {
            ring.receive.recycle(frame);
        }
    }

    /// Waits until a frame has arrived.
    pub async fn arrived(&self) {
        self.0.link.until(|| !self.0.inbox.borrow().is_empty()).await;
    }

    /// Waits until a frame of so many bytes can be sent.
    pub async fn room(&self, length: usize) {
        self.0.link.until(|| self.has_room(length)).await;
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.counts.get();
        change(&mut counts);
        self.0.counts.set(counts);
    }

    /// Makes rings for the backend that serves the interface from now on; former ones are gone. Gives the answer to the offer.
    pub(super) fn offer(&self, peer: u16, port: Port, mac: [u8; 6]) -> Result<FromDomain> {
        let answer = |ring: &Ring| {
            let (transmit, receive) = (ring.transmit.ring().reference(), ring.receive.ring().reference());
            FromDomain::NetworkRings { transmit, receive, offload: OFFLOAD }
        };
        if self.0.link.is_repeated(peer, port)
            && let Some(ring) = self.0.ring.borrow().as_ref()
        {
            return Ok(answer(ring));
        }
        gone(self);
        let pages = |access| (0..PAGES).map(|_| Granted::new(Page::new()?, peer, access)).collect::<Result<Vec<_>>>();
        let ring = || Granted::new(Page::new()?, peer, Access::Write);
        let ring = Ring {
            transmit: Transmit::new(ring()?, pages(Access::Read)?),
            receive: Receive::new(ring()?, pages(Access::Write)?),
        };
        let rings = answer(&ring);
        self.0.mac.set(mac);
        *self.0.ring.borrow_mut() = Some(ring);
        self.0.link.offered(peer, port, self.clone());
        Ok(rings)
    }

    /// The backend serves the rings.
    pub(super) fn announce(&self, offload: Offload) {
        self.0.offload.set(offload);
        self.0.link.announced();
    }
}

impl Rings for Interface {
    fn link(&self) -> &Link {
        &self.0.link
    }

    fn is_idle(&self) -> bool {
        self.0.ring.borrow().as_ref().is_none_or(|ring| ring.transmit.unanswered() == 0)
    }

    fn turn(&self) -> core::result::Result<Turn, Fault> {
        let mut guard = self.0.ring.borrow_mut();
        let Some(Ring { transmit, receive }) = guard.as_mut() else { return Ok(Turn::default()) };
        let (answered, refused) = transmit.collect()?;
        let (mut inbox, mut received) = (self.0.inbox.borrow_mut(), 0);
        while inbox.len() < INBOX {
            let Some(frame) = receive.take()? else { break };
            inbox.push_back(frame);
            received += 1;
        }
        self.count(|counts| {
            counts.refused += u64::from(refused);
            counts.received += received;
        });
        // Both are published, whatever the other one says.
        let notify = transmit.publish() | receive.publish();
        Ok(Turn { progress: answered > 0 || received > 0, notify })
    }

    fn rearm(&self) -> core::result::Result<bool, Fault> {
        let guard = self.0.ring.borrow();
        let Some(Ring { transmit, receive }) = guard.as_ref() else { return Ok(false) };
        // That a frame was sent is worth a notification only if somebody may wait for the room.
        let room = (transmit.is_short() || !self.is_up()) && transmit.rearm()?;
        let frames = self.0.inbox.borrow().len() < INBOX && receive.rearm()?;
        Ok(room || frames)
    }

    fn fail(&self) {
        self.0.ring.borrow_mut().take();
        self.0.inbox.borrow_mut().clear();
    }
}
