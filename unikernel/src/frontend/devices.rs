//! The devices of a guest by name, and what dom0 says about them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use protocol::control::{FromDomain, ToDomain};
use protocol::ring::block::Layout;

use super::block::Disk;
use super::link::{Rings, gone, release};
use super::network::Interface;
use crate::control::{Reply, failed, refuse};
use crate::executor::spawn;

/// Pages of a block ring: 32 requests at once.
const BLOCK_RING_PAGES: usize = 1;

/// The devices of a guest. Its clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    disks: Rc<RefCell<Vec<Disk>>>,
    interfaces: Rc<RefCell<Vec<Interface>>>,
}

impl Devices {
    /// None yet.
    pub fn new() -> Devices {
        Devices::default()
    }

    /// The disk of this name, whether dom0 has connected it already or not.
    pub fn disk(&self, name: &str) -> Disk {
        by_name(&self.disks, name, Disk::name, Disk::new)
    }

    /// The network interface of this name, whether dom0 has connected it already or not.
    pub fn interface(&self, name: &str) -> Interface {
        by_name(&self.interfaces, name, Interface::name, Interface::new)
    }

    /// Answers dom0 from now on: for guests that understand nothing but devices.
    pub fn start(&self) {
        let devices = self.clone();
        spawn(async move {
            crate::control::serve_later(|message, reply| devices.handle(message, reply, refuse)).await;
        });
    }

    /// Does what a message says about a device, for [`crate::control::serve_later`]; what is about something else goes to
    /// `others`.
    pub fn handle(
        &self,
        message: ToDomain,
        reply: Reply,
        others: impl FnOnce(ToDomain) -> FromDomain,
    ) -> Option<FromDomain> {
        Some(match message {
            ToDomain::BlockOffer { device, peer, port, .. } => {
                match self.disk(&device).offer(peer, port, BLOCK_RING_PAGES) {
                    Ok(ring) => FromDomain::BlockRing {
                        ring: ring.into_iter().collect(),
                        persistent: true,
                        layout: Layout::X86_64,
                    },
                    Err(failure) => failed(failure),
                }
            }
            ToDomain::BlockReady { device, limits } => {
                self.disk(&device).announce(limits);
                FromDomain::Done
            }
            ToDomain::BlockResized { device, limits } => {
                self.disk(&device).resize(limits);
                FromDomain::Done
            }
            ToDomain::NetworkOffer { device, peer, port, mac } => {
                self.interface(&device).offer(peer, port, mac).unwrap_or_else(failed)
            }
            ToDomain::NetworkReady { device, offload } => {
                self.interface(&device).announce(offload);
                FromDomain::Done
            }
            ToDomain::DeviceRelease { device } => {
                let Some(rings) = self.find(&device) else { return Some(unknown(&device)) };
                spawn(async move {
                    release(rings).await;
                    // Without the channel nobody waits for the answer.
                    let _ = reply.give(FromDomain::Done).await;
                });
                return None;
            }
            ToDomain::DeviceGone { device } => match self.find(&device) {
                Some(rings) => {
                    gone(&*rings);
                    FromDomain::Done
                }
                None => unknown(&device),
            },
            other => others(other),
        })
    }

    /// A device of any kind that there is.
    fn find(&self, name: &str) -> Option<Box<dyn Rings>> {
        let disk = self.disks.borrow().iter().find(|disk| disk.name() == name).cloned();
        let interface = || self.interfaces.borrow().iter().find(|interface| interface.name() == name).cloned();
        match disk {
            Some(disk) => Some(Box::new(disk)),
            None => interface().map(|interface| Box::new(interface) as Box<dyn Rings>),
        }
    }
}

/// The entry of this name, made if there is none.
fn by_name<T: Clone>(list: &RefCell<Vec<T>>, name: &str, of: fn(&T) -> &str, make: fn(&str) -> T) -> T {
    let mut list = list.borrow_mut();
    if let Some(known) = list.iter().find(|entry| of(entry) == name) {
        return known.clone();
    }
    let made = make(name);
    list.push(made.clone());
    made
}

fn unknown(name: &str) -> FromDomain {
    failed(format_args!("there is no device {name}"))
}
