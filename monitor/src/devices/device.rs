//! One device: its two directories, and where it is between the guest's driver and dom0.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use heapless::String as Short;
use protocol::connection::{DEVICE_MAX, DiskLimits};
use protocol::control::FromDomain;
use protocol::event::Port;
use protocol::ring::block::Layout;

use super::keys::{BadKey, Keys, state};
use super::{Channels, Word, block, failed, network};
use crate::store::{HOST, Permissions, Right, Store};

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    Block {
        /// For reading only, as far as dom0 knows.
        read_only: bool,
    },
    /// A network interface.
    Network {
        /// Its address.
        mac: [u8; 6],
    },
}

/// What a device is, and nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A disk.
    Block,
    /// A network interface.
    Network,
}

impl Kind {
    /// What it is.
    pub const fn class(self) -> Class {
        match self {
            Kind::Block { .. } => Class::Block,
            Kind::Network { .. } => Class::Network,
        }
    }

    /// Its name in paths.
    const fn directory(self) -> &'static str {
        match self {
            Kind::Block { .. } => "vbd",
            Kind::Network { .. } => "vif",
        }
    }
}

/// What dom0 offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name for the device.
    pub name: Short<DEVICE_MAX>,
    /// What it is.
    pub kind: Kind,
    /// The driver domain.
    pub peer: u16,
    /// The monitor's port to it.
    pub port: Port,
}

/// The rings that the guest made, as dom0 was told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rings {
    answer: FromDomain,
    guest_port: u32,
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest's driver has not made its rings; dom0 waits for them.
    Offered,
    /// dom0 knows the rings.
    Answered,
    /// The rings are served.
    Ready,
    /// The guest's driver wants to let go.
    Closing,
    /// The guest's driver is asked to let go; dom0 waits for that.
    Releasing,
    /// The guest's driver has let go, or was refused.
    Closed,
}

/// A device.
#[derive(Debug)]
pub struct Device<R> {
    offer: Offer,
    number: u32,
    front: String,
    back: String,
    phase: Phase,
    /// The right to answer the offer or the release.
    reply: Option<R>,
    rings: Option<Rings>,
    /// Why the rings were not taken.
    refused: Option<BadKey>,
    /// It was logged that they wait for the guest's memory.
    waits: bool,
}

impl<R> Device<R> {
    /// A device that is offered: makes its directories.
    pub fn new(offer: Offer, number: u32, reply: R, store: &mut Store) -> Device<R> {
        let (directory, guest, peer) = (offer.kind.directory(), store.guest(), offer.peer);
        let front = format!("{}/device/{directory}/{number}", store.home());
        let back = format!("/local/domain/{peer}/backend/{directory}/{guest}/{number}");
        let (phase, rings, refused) = (Phase::Offered, None, None);
        let device = Device { offer, number, front, back, phase, reply: Some(reply), rings, refused, waits: false };
        store.make(&device.back, Permissions::new(HOST, Right::None).but(guest, Right::Read));
        device.write_back(store, "frontend", &device.front);
        device.write_back(store, "frontend-id", &guest);
        device.write_back(store, "online", &1);
        device.write_back(store, "state", &state::INITIALISING);
        match device.offer.kind {
            Kind::Block { read_only } => block::offer(&device, read_only, store),
            Kind::Network { .. } => network::offer(&device, store),
        }
        device.set_back(store, state::INIT_WAIT);
        // The guest looks when the directory appears, and must find it complete: its state comes last.
        store.make(&device.front, Permissions::new(guest, Right::None).but(peer, Right::Read));
        let write = |store: &mut Store, key: &str, value: &dyn core::fmt::Display| {
            store.write(&format!("{}/{key}", device.front), format!("{value}"));
        };
        write(store, "backend", &device.back);
        write(store, "backend-id", &peer);
        write(store, "trusted", &1);
        match device.offer.kind {
            Kind::Block { .. } => {
                write(store, "virtual-device", &number);
                write(store, "device-type", &"disk");
            }
            Kind::Network { mac } => {
                write(store, "handle", &number);
                write(store, "mac", &network::text(mac));
            }
        }
        write(store, "state", &state::INITIALISING);
        device
    }

    /// dom0's name for it.
    pub fn name(&self) -> &str {
        &self.offer.name
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.offer.kind
    }

    /// The guest's number for it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the guest would take it for the device of this class and number.
    pub fn is(&self, class: Class, number: u32) -> bool {
        self.offer.kind.class() == class && self.number == number
    }

    /// Writes a key of the backend's.
    pub fn write_back(&self, store: &mut Store, key: &str, value: &dyn core::fmt::Display) {
        store.write(&format!("{}/{key}", self.back), format!("{value}"));
    }

    /// Sets the backend's state, unless that is what it is.
    fn set_back(&self, store: &mut Store, state: u32) {
        if (Keys { store, directory: &self.back }).state() != state {
            self.write_back(store, "state", &state);
        }
    }

    /// It is offered again. Takes the right to answer, unless there is something of a former offer that has to go first.
    pub fn offered_again(&mut self, offer: &Offer, reply: R, store: &mut Store) -> Option<R> {
        if self.offer != *offer {
            return Some(reply);
        }
        match self.phase {
            // The answer may have got lost; it is given again.
            Phase::Offered | Phase::Answered => {}
            Phase::Closed => {
                (self.phase, self.refused) = (Phase::Offered, None);
                self.write_back(store, "online", &1);
            }
            _ => return Some(reply),
        }
        self.reply = Some(reply);
        None
    }

    /// The rings are served: `announce` writes what the guest has to know.
    pub fn ready(&mut self, store: &mut Store, announce: impl FnOnce(&Self, &mut Store)) {
        if self.phase == Phase::Answered {
            announce(self, store);
            self.phase = Phase::Ready;
            self.set_back(store, state::CONNECTED);
        }
    }

    /// The disk has another size.
    pub fn resized(&mut self, limits: &DiskLimits, store: &mut Store) {
        if self.phase == Phase::Ready {
            block::resize(self, limits, store);
            // That it is written again tells the guest to look at the size.
            self.write_back(store, "state", &state::CONNECTED);
        }
    }

    /// dom0 wants the guest to let go.
    pub fn release(&mut self, reply: R, store: &mut Store) {
        self.reply = Some(reply);
        self.write_back(store, "online", &0);
        if self.phase != Phase::Closed {
            self.phase = Phase::Releasing;
            self.set_back(store, state::CLOSING);
        }
    }

    /// It is gone.
    pub fn remove(mut self, store: &mut Store, channels: &mut impl Channels) {
        self.unbind(channels);
        store.remove(&self.front);
        store.remove(&self.back);
    }

    fn unbind(&mut self, channels: &mut impl Channels) {
        if let Some(rings) = self.rings.take() {
            channels.unbind(rings.guest_port, self.offer.port);
        }
    }

    /// Looks at the state of the guest's driver and does what follows from it.
    pub fn look(&mut self, store: &mut Store, channels: &mut impl Channels, words: &mut VecDeque<Word<R>>) {
        let front = Keys { store, directory: &self.front }.state();
        match self.phase {
            Phase::Offered => self.look_for_rings(front, store, channels),
            Phase::Answered | Phase::Ready | Phase::Closing => match front {
                state::INITIALISED | state::CONNECTED => {}
                state::CLOSING => {
                    self.phase = Phase::Closing;
                    self.set_back(store, state::CLOSING);
                }
                state::CLOSED | state::INITIALISING | state::INIT_WAIT | state::UNKNOWN => {
                    self.close(store, channels);
                    words.push_back(Word::Report(FromDomain::DeviceClosed { device: self.offer.name.clone() }));
                }
                _ => {}
            },
            Phase::Releasing if self.has_let_go(front) => self.close(store, channels),
            Phase::Closed if front == state::CLOSED => self.set_back(store, state::CLOSED),
            Phase::Releasing | Phase::Closed => {}
        }
        let answer = match (self.phase, &self.rings, self.refused) {
            (Phase::Answered, Some(rings), _) => rings.answer.clone(),
            (Phase::Closed, _, Some(bad)) => failed(bad),
            (Phase::Closed, ..) => FromDomain::Done,
            _ => return,
        };
        if let Some(reply) = self.reply.take() {
            words.push_back(Word::Answer(reply, answer));
        }
    }

    /// Whether the guest's driver has nothing to do with the rings, being in this state.
    fn has_let_go(&self, front: u32) -> bool {
        self.rings.is_none() || !matches!(front, state::INITIALISED | state::CONNECTED | state::CLOSING)
    }

    /// The guest's driver has let go.
    fn close(&mut self, store: &mut Store, channels: &mut impl Channels) {
        self.unbind(channels);
        self.phase = Phase::Closed;
        self.set_back(store, state::CLOSED);
    }

    fn look_for_rings(&mut self, front: u32, store: &mut Store, channels: &mut impl Channels) {
        match front {
            state::INITIALISED | state::CONNECTED if !channels.has_memory() => self.wait_for_memory(),
            // Linux's network driver and all of Mini-OS go on without waiting.
            state::INITIALISED | state::CONNECTED => {
                let rings = self.read_rings(store, channels.layout()).and_then(|rings| {
                    let bound = channels.bind(rings.guest_port, self.offer.peer, self.offer.port);
                    if bound { Ok(rings) } else { Err(BadKey("event-channel")) }
                });
                match rings {
                    Ok(rings) => (self.phase, self.rings) = (Phase::Answered, Some(rings)),
                    Err(bad) => {
                        log::warn!("{}: {bad}", self.offer.name);
                        // dom0 hears it as the reason why the offer came to nothing.
                        (self.phase, self.refused) = (Phase::Closed, Some(bad));
                        self.set_back(store, state::CLOSING);
                    }
                }
            }
            state::INITIALISING => self.set_back(store, state::INIT_WAIT),
            state::CLOSING => self.set_back(store, state::CLOSING),
            state::CLOSED => self.set_back(store, state::CLOSED),
            _ => {}
        }
    }

    /// A guest without a balloon waits for ever, and nothing but this says so.
    fn wait_for_memory(&mut self) {
        if !core::mem::replace(&mut self.waits, true) {
            let reason = "until the guest has given back what its `maxmem` is more than its `memory`";
            log::info!("{}: waits {reason}", self.offer.name);
        }
    }

    fn read_rings(&self, store: &Store, layout: Layout) -> Result<Rings, BadKey> {
        let keys = Keys { store, directory: &self.front };
        let answer = match self.offer.kind {
            Kind::Block { .. } => block::rings(keys, layout)?,
            Kind::Network { .. } => network::rings(keys)?,
        };
        Ok(Rings { answer, guest_port: keys.number("event-channel")? })
    }
}
