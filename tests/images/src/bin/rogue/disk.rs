//! A block ring without the library that keeps guests honest.

use alloc::string::String;
use core::cell::{Cell, OnceCell, RefCell};

use protocol::connection::DiskLimits;
use protocol::control::FromDomain;
use protocol::event::Port;
use protocol::grant::GrantRef;
use protocol::ring::Shared;
use protocol::ring::block::{Layout, REQUEST_SIZE, RESPONSE_SIZE, read_response};
use protocol::ring::sring::{Front, Geometry, REQUEST_PRODUCER, initialise};
use unikernel::event::Channel;
use unikernel::grant::{Access, Granted};
use unikernel::pages::Page;

use crate::{PATIENCE, told, within};

/// The ring of one page.
pub const RING: Geometry = Geometry::of(1, REQUEST_SIZE);
/// A reference that this domain never grants.
pub const NEVER: GrantRef = 500;

/// What is there once dom0 has offered the disk.
pub struct Wires {
    /// The page of the ring.
    pub ring: Granted,
    /// A page for data.
    pub data: Granted,
    /// The way to the backend.
    pub channel: Channel,
    front: RefCell<Front>,
}

/// The disk.
#[derive(Default)]
pub struct Disk {
    case: String,
    wires: OnceCell<Wires>,
    limits: Cell<DiskLimits>,
}

/// An answer: id, operation, status.
pub type Answer = (u64, u8, i16);

impl Disk {
    /// A disk that was not offered yet.
    pub fn new(case: &str) -> Disk {
        Disk { case: case.into(), ..Disk::default() }
    }

    /// Answers the offer.
    pub fn offer(&self, peer: u16, port: Port) -> Result<FromDomain, String> {
        let page = || Granted::new(Page::new().map_err(told)?, peer, Access::Write).map_err(told);
        let wires =
            Wires { ring: page()?, data: page()?, channel: Channel::new(port), front: RefCell::new(Front::new(RING)) };
        initialise(&wires.ring);
        let own = wires.ring.reference();
        let ring: &[GrantRef] = match self.case.as_str() {
            "block/r9-three-pages" => &[own, own, own],
            "block/r9-never-granted" => &[NEVER],
            "block/r8-page-twice" => &[own, own],
            "block/r8-stale-page" => {
                // What a connection before this one could have left.
                (0..1024).for_each(|word| wires.ring.store_u32(word * 4, 0x5aa5_0000 | word as u32));
                &[own]
            }
            _ => &[own],
        };
        let ring = ring.iter().copied().collect();
        self.wires.set(wires).map_err(|_| String::from("the disk was offered twice"))?;
        Ok(FromDomain::BlockRing { ring, persistent: false, layout: Layout::X86_64 })
    }

    /// The disk can be used.
    pub fn announce(&self, limits: DiskLimits) {
        self.limits.set(limits);
    }

    /// What the disk is like.
    pub fn limits(&self) -> DiskLimits {
        self.limits.get()
    }

    /// The ring and what belongs to it.
    pub fn wires(&self) -> Result<&Wires, String> {
        self.wires.get().ok_or_else(|| "there is no disk".into())
    }
}

impl Wires {
    /// Writes and publishes a request, without a word to the backend.
    pub fn publish(&self, raw: &[u8; REQUEST_SIZE]) -> Result<(), String> {
        let mut front = self.front.borrow_mut();
        if !front.write(&self.ring, raw) {
            return Err("the ring is full".into());
        }
        let _ = front.publish(&self.ring);
        Ok(())
    }

    /// Publishes any index as the request producer.
    pub fn claim(&self, index: u32) {
        self.ring.store_u32(REQUEST_PRODUCER, index);
        self.kick();
    }

    /// Tells the backend to look.
    pub fn kick(&self) {
        // A backend that closed the connection does not hear it.
        let _ = self.channel.send();
    }

    /// The next answer, if there is one.
    pub fn take(&self) -> Option<Answer> {
        let mut raw = [0; RESPONSE_SIZE];
        let found = self.front.borrow_mut().take(&self.ring, &mut raw);
        matches!(found, Ok(true)).then(|| read_response(&raw))
    }

    /// Publishes a request, tells the backend, and waits for the answer.
    pub async fn ask(&self, raw: &[u8; REQUEST_SIZE]) -> Result<Answer, String> {
        self.publish(raw)?;
        self.kick();
        within(PATIENCE, || self.take()).await.ok_or_else(|| "no answer".into())
    }
}
