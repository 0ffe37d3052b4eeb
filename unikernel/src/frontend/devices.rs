//! The devices of a guest by name, and what dom0 says about them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use protocol::connection::DEVICE_MAX;
use protocol::control::{ControlError, FromDomain, ToDomain};

use super::block::Disk;
use crate::control::{Reply, failed, refuse};
use crate::executor::spawn;

/// Pages of a block ring: 32 requests at once, as much as the disks of this time make use of.
const BLOCK_RING_PAGES: usize = 1;
/// Most devices of each kind. More offers are refused.
const DEVICES_MAX: usize = 32;

/// The devices of a guest.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    disks: Rc<RefCell<Vec<Disk>>>,
}

impl Devices {
    /// None yet.
    pub fn new() -> Devices {
        Devices::default()
    }

    /// The disk of this name, whether dom0 has connected it already or not.
    pub fn disk(&self, name: &str) -> Disk {
        let mut disks = self.disks.borrow_mut();
        if let Some(known) = disks.iter().find(|disk| disk.name() == name) {
            return known.clone();
        }
        let disk = Disk::new(name);
        disks.push(disk.clone());
        disk
    }

    /// Answers dom0 for as long as the channel holds: for guests that understand nothing but devices.
    pub async fn serve(&self) -> ControlError {
        crate::control::serve_later(|message, reply| self.handle(message, reply, refuse)).await
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
            ToDomain::BlockOffer { device, peer, port } => {
                if self.is_full(&device) {
                    return Some(failed(format_args!("no room for a device named {device}")));
                }
                match self.disk(&device).offer(peer, port, BLOCK_RING_PAGES) {
                    Ok(ring) => FromDomain::BlockRing { ring: ring.into_iter().collect() },
                    Err(failure) => failed(failure),
                }
            }
            ToDomain::BlockReady { device, limits } => self.with_disk(&device, |disk| disk.announce(limits)),
            ToDomain::BlockResized { device, limits } => self.with_disk(&device, |disk| disk.resize(limits)),
            ToDomain::DeviceRelease { device } => {
                let Some(disk) = self.known_disk(&device) else { return Some(unknown(&device)) };
                let released = disk.release();
                spawn(async move {
                    released.await;
                    // Without the channel nobody waits for the answer.
                    let _ = reply.give(FromDomain::Done).await;
                });
                return None;
            }
            ToDomain::DeviceGone { device } => self.with_disk(&device, Disk::gone),
            other => others(other),
        })
    }

    fn known_disk(&self, name: &str) -> Option<Disk> {
        self.disks.borrow().iter().find(|disk| disk.name() == name).cloned()
    }

    fn is_full(&self, name: &str) -> bool {
        self.known_disk(name).is_none() && self.disks.borrow().len() >= DEVICES_MAX
    }

    fn with_disk(&self, name: &str, act: impl FnOnce(&Disk)) -> FromDomain {
        match self.known_disk(name) {
            Some(disk) => {
                act(&disk);
                FromDomain::Done
            }
            None => unknown(name),
        }
    }
}

fn unknown(name: &str) -> FromDomain {
    debug_assert!(name.len() <= DEVICE_MAX);
    failed(format_args!("there is no device {name}"))
}
