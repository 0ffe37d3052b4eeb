//! The guest's devices: dom0's typed messages on one side, the guest's handshake in its store on the other.
//!
//! To dom0 a Linux guest looks like any other. It is offered a device, answers with its rings once its own driver has written them
//! into the store, and is told when the device can be used. What a guest writes there is read at one moment only, when it says
//! that it is complete, and nothing but numbers goes on from here. That a driver domain is restarted never shows in the store.
//!
//! After each message and each time the guest changed something, whoever holds this takes what there is to be said
//! ([`Devices::next_word`]) and gives the store its turn.

mod block;
mod device;
mod keys;
mod names;
mod network;
pub mod orders;
pub mod start;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use protocol::ring::block::Layout;

use crate::store::Store;
use device::{Device, Kind, Offer};

/// The guest's event channels, as far as devices need them.
pub trait Channels {
    /// Ties a port of the guest's that waits for `peer` to one of the monitor's; `false` if the guest has no such port.
    fn bind(&mut self, guest: u32, peer: u16, native: Port) -> bool;
    /// Ends that, if the port is still tied to this one: the number may be another connection's soon.
    fn unbind(&mut self, guest: u32, native: Port);
    /// Whether the guest has its memory: a driver cannot reach what comes only when the guest touches it.
    fn has_memory(&self) -> bool;
    /// How the guest's structures are laid out.
    fn layout(&self) -> Layout;
}

/// Something to be said to dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<R> {
    /// The answer to a request that was put off.
    Answer(R, FromDomain),
    /// What dom0 did not ask for.
    Report(FromDomain),
}

/// The devices of a guest. `R` is the right to answer a request.
#[derive(Debug)]
pub struct Devices<R> {
    list: Vec<Device<R>>,
    words: VecDeque<Word<R>>,
    /// The store's number of the watch on the frontends' directories.
    watch: usize,
    /// The guest did not have its memory when they were looked at.
    held: bool,
}

impl<R> Devices<R> {
    /// None yet, in the store of a guest that has the tree of [`start`].
    pub fn new(store: &mut Store) -> Devices<R> {
        let watch = store.watch(&format!("{}/device", store.home()));
        Devices { list: Vec::new(), words: VecDeque::new(), watch, held: false }
    }

    /// Does what dom0 says about a device. Gives back what is about something else.
    pub fn message(
        &mut self,
        message: ToDomain,
        reply: R,
        store: &mut Store,
        channels: &mut impl Channels,
    ) -> Option<(ToDomain, R)> {
        match message {
            ToDomain::BlockOffer { device, peer, port, read_only } => {
                self.offer(Offer { name: device, kind: Kind::Block { read_only }, peer, port }, reply, store, channels);
            }
            ToDomain::NetworkOffer { device, peer, port, mac } => {
                self.offer(Offer { name: device, kind: Kind::Network { mac }, peer, port }, reply, store, channels);
            }
            ToDomain::BlockReady { device, limits } => {
                self.with(&device, reply, |device| {
                    device.ready(store, |device, store| block::announce(device, &limits, store))
                });
            }
            ToDomain::BlockResized { device, limits } => {
                self.with(&device, reply, |device| device.resized(&limits, store));
            }
            ToDomain::NetworkReady { device, offload } => {
                self.with(&device, reply, |device| device.ready(store, |device, _| network::announce(device, offload)));
            }
            ToDomain::DeviceRelease { device } => match self.find(&device) {
                Some(found) => {
                    found.release(reply, store);
                    self.look_at_all(store, channels);
                }
                None => self.unknown(&device, reply),
            },
            ToDomain::DeviceGone { device } => match self.list.iter().position(|other| other.name() == device) {
                Some(index) => {
                    self.list.remove(index).remove(store, channels);
                    self.words.push_back(Word::Answer(reply, FromDomain::Done));
                }
                None => self.unknown(&device, reply),
            },
            other => return Some((other, reply)),
        }
        None
    }

    /// The guest may have changed something in its store, or has its memory now.
    pub fn changed(&mut self, store: &mut Store, channels: &mut impl Channels) {
        if store.take_fired(self.watch) | (self.held && channels.has_memory()) {
            self.look_at_all(store, channels);
        }
    }

    /// What is to be said to dom0 next.
    pub fn next_word(&mut self) -> Option<Word<R>> {
        self.words.pop_front()
    }

    fn look_at_all(&mut self, store: &mut Store, channels: &mut impl Channels) {
        self.held = !channels.has_memory();
        for device in &mut self.list {
            device.look(store, channels, &mut self.words);
        }
    }

    fn offer(&mut self, offer: Offer, reply: R, store: &mut Store, channels: &mut impl Channels) {
        if let Some(index) = self.list.iter().position(|device| device.name() == offer.name) {
            match self.list[index].offered_again(&offer, reply, store) {
                None => return self.look_at_all(store, channels),
                Some(reply) => {
                    log::warn!("{}: offered anew while it was in use; the former one is gone", offer.name);
                    self.list.remove(index).remove(store, channels);
                    return self.offer_new(offer, reply, store, channels);
                }
            }
        }
        self.offer_new(offer, reply, store, channels);
    }

    fn offer_new(&mut self, offer: Offer, reply: R, store: &mut Store, channels: &mut impl Channels) {
        let Some(number) = names::number(&offer.name, offer.kind.class()) else {
            let text = format_args!("Linux knows no device {}: choose a name such as xvda or eth0", offer.name);
            return self.words.push_back(Word::Answer(reply, failed(text)));
        };
        if let Some(other) = self.list.iter().find(|device| device.is(offer.kind.class(), number)) {
            let text = format_args!("{} and {} are the same device to Linux", offer.name, other.name());
            return self.words.push_back(Word::Answer(reply, failed(text)));
        }
        self.list.push(Device::new(offer, number, reply, store));
        self.look_at_all(store, channels);
    }

    fn find(&mut self, name: &str) -> Option<&mut Device<R>> {
        self.list.iter_mut().find(|device| device.name() == name)
    }

    /// Does something with a device, which is answered at once.
    fn with(&mut self, name: &str, reply: R, act: impl FnOnce(&mut Device<R>)) {
        let Some(device) = self.find(name) else { return self.unknown(name, reply) };
        act(device);
        self.words.push_back(Word::Answer(reply, FromDomain::Done));
    }

    fn unknown(&mut self, name: &str, reply: R) {
        self.words.push_back(Word::Answer(reply, failed(format_args!("there is no device {name}"))));
    }
}

/// The answer that gives a reason.
fn failed(reason: impl fmt::Display) -> FromDomain {
    unikernel::control::failed(reason)
}
