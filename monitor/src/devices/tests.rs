//! Handshakes with drivers that do what Linux does, and with such as do not.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use protocol::connection::{DiskLimits, Offload};
use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use protocol::grant::{PEER_DISK, PEER_NETWORK};

use super::orders::{Order, Orders, Refused, press, set_memory_target, set_online};
use super::start::{Start, plant};
use super::*;
use crate::store::testing::Guest;
use crate::store::{Refusal, Store, kind};

mod block;
mod hostile;
mod network;
mod tree;

const LIMITS: DiskLimits =
    DiskLimits { sectors: 8192, sector_size: 512, read_only: false, flush: true, discard: true, indirect_segments: 32 };
const OFFLOAD: Offload = Offload { checksum: true, scatter_gather: true };
const MAC: [u8; 6] = [0x00, 0x16, 0x3e, 1, 2, 0xab];
/// The disk that is offered for reading only.
const READ_ONLY: &str = "xvdb";
/// dom0's ports to driver domains.
const NATIVE: Port = Port(40);

/// The monitor serves the guest's vCPUs on as many of its own.
const fn is_send<T: Send>() {}
const _: () = is_send::<(Store, Devices<u32>, Orders)>();

/// The guest's ports: which wait for whom, and which are tied to what.
#[derive(Default)]
struct Ports {
    waiting: BTreeMap<u32, u16>,
    tied: BTreeMap<u32, Port>,
    lacks_memory: bool,
    layout: Layout,
}

impl Channels for Ports {
    fn bind(&mut self, guest: u32, peer: u16, native: Port) -> bool {
        let good = self.waiting.get(&guest) == Some(&peer);
        if good {
            self.tied.insert(guest, native);
        }
        good
    }

    fn unbind(&mut self, guest: u32, native: Port) {
        if self.tied.get(&guest) == Some(&native) {
            self.tied.remove(&guest);
        }
    }

    fn has_memory(&self) -> bool {
        !self.lacks_memory
    }

    fn layout(&self) -> Layout {
        self.layout
    }
}

/// A guest with its devices, and dom0.
struct World {
    guest: Guest,
    devices: Devices<u32>,
    orders: Orders,
    ports: Ports,
    asked: u32,
}

impl World {
    fn new() -> World {
        let mut store = Store::default();
        let start = Start {
            name: "web",
            pages: 1 << 16,
            pages_max: 1 << 17,
            vcpus: 2,
            online: 1,
            store: (0xfeffc, 1),
            console: (0xfefff, 2),
        };
        let orders = plant(&start, &mut store);
        let devices = Devices::new(&mut store);
        let mut guest = Guest::of(store);
        guest.watch("device", "d").unwrap();
        guest.events();
        World { guest, devices, orders, ports: Ports::default(), asked: 0 }
    }

    /// dom0 asks for something; gives what is said meanwhile.
    fn ask(&mut self, message: ToDomain) -> Vec<Word<u32>> {
        self.asked += 1;
        let rest = self.devices.message(message, self.asked, &mut self.guest.store, &mut self.ports);
        assert_eq!(rest, None);
        self.said()
    }

    /// What is said, after the guest did something.
    fn said(&mut self) -> Vec<Word<u32>> {
        self.guest.pump();
        self.devices.changed(&mut self.guest.store, &mut self.ports);
        self.guest.pump();
        core::iter::from_fn(|| self.devices.next_word()).collect()
    }

    fn offer_disk(&mut self, name: &str, port: Port) -> Vec<Word<u32>> {
        let device = name.try_into().unwrap();
        self.ask(ToDomain::BlockOffer { device, peer: PEER_DISK, port, read_only: name == READ_ONLY })
    }

    fn offer_network(&mut self) -> Vec<Word<u32>> {
        let device = "eth0".try_into().unwrap();
        self.ask(ToDomain::NetworkOffer { device, peer: PEER_NETWORK, port: NATIVE, mac: MAC })
    }

    fn about(&mut self, make: impl FnOnce(heapless::String<16>) -> ToDomain, name: &str) -> Vec<Word<u32>> {
        self.ask(make(name.try_into().unwrap()))
    }

    fn ready(&mut self, name: &str) -> Vec<Word<u32>> {
        self.about(|device| ToDomain::BlockReady { device, limits: LIMITS }, name)
    }

    fn release(&mut self, name: &str) -> Vec<Word<u32>> {
        self.about(|device| ToDomain::DeviceRelease { device }, name)
    }

    fn gone(&mut self, name: &str) -> Vec<Word<u32>> {
        self.about(|device| ToDomain::DeviceGone { device }, name)
    }

    /// The answer to the last request.
    fn answer(&self, answer: FromDomain) -> Vec<Word<u32>> {
        std::vec![Word::Answer(self.asked, answer)]
    }

    /// A key of the backend's end, as the guest's driver reads it.
    fn back(&mut self, front: &str, key: &str) -> Result<String, String> {
        let back = self.guest.read(&format!("{front}/backend"))?;
        self.guest.read(&format!("{back}/{key}"))
    }

    fn back_state(&mut self, front: &str) -> Result<String, String> {
        self.back(front, "state")
    }

    /// The guest has a port that waits for a peer.
    fn allocate(&mut self, peer: u16) -> u32 {
        let port = 10 + self.ports.waiting.len() as u32;
        self.ports.waiting.insert(port, peer);
        port
    }

    /// As `xenbus_switch_state`: in a transaction, only if there is a state; gives what is said then.
    fn switch(&mut self, front: &str, state: u32) -> Vec<Word<u32>> {
        loop {
            let transaction = self.guest.begin();
            let path = format!("{front}/state");
            if self.guest.text(kind::READ, transaction, &format!("{path}\0")).is_ok() {
                self.guest.text(kind::WRITE, transaction, &format!("{path}\0{state}")).unwrap();
            }
            match self.guest.end(transaction) {
                Err(refusal) if refusal == Refusal::Again.name() => {}
                other => break drop(other.unwrap()),
            }
        }
        self.said()
    }

    /// Writes keys in one transaction.
    fn publish(&mut self, front: &str, keys: &[(&str, &dyn ToString)]) {
        let transaction = self.guest.begin();
        for (key, value) in keys {
            let payload = format!("{front}/{key}\0{}", value.to_string());
            self.guest.text(kind::WRITE, transaction, &payload).unwrap();
        }
        self.guest.end(transaction).unwrap();
    }

    /// As `blkfront_probe`: finds the device, makes a ring of one page; gives what is said then.
    fn probe_disk(&mut self, front: &str) -> Vec<Word<u32>> {
        self.probe_disk_to(front, 3)
    }

    /// The same up to this state.
    fn probe_disk_to(&mut self, front: &str, state: u32) -> Vec<Word<u32>> {
        assert_eq!(self.guest.read(&format!("{front}/device-type")).as_deref(), Ok("disk"));
        assert_eq!(self.back_state(front).as_deref(), Ok("2"));
        let port = self.allocate(PEER_DISK);
        let keys: [(&str, &dyn ToString); 4] =
            [("ring-ref", &8), ("event-channel", &port), ("protocol", &"x86_64-abi"), ("feature-persistent", &1)];
        self.publish(front, &keys);
        self.switch(front, state)
    }

    /// As `netfront_probe` and `xennet_connect`.
    fn probe_network(&mut self, front: &str) -> Vec<Word<u32>> {
        self.switch(front, 1);
        assert_eq!(self.back_state(front).as_deref(), Ok("2"));
        assert_eq!(self.back(front, "feature-rx-copy").as_deref(), Ok("1"));
        let port = self.allocate(PEER_NETWORK);
        let keys: [(&str, &dyn ToString); 9] = [
            ("tx-ring-ref", &8),
            ("rx-ring-ref", &9),
            ("event-channel", &port),
            ("request-rx-copy", &1),
            ("feature-rx-notify", &1),
            ("feature-sg", &1),
            ("feature-gso-tcpv4", &1),
            ("feature-gso-tcpv6", &1),
            ("feature-ipv6-csum-offload", &1),
        ];
        self.publish(front, &keys);
        self.switch(front, 4)
    }
}

fn ring(references: &[u32]) -> FromDomain {
    FromDomain::BlockRing { ring: references.iter().copied().collect(), persistent: false, layout: Layout::X86_64 }
}

fn closed(name: &str) -> Vec<Word<u32>> {
    std::vec![Word::Report(FromDomain::DeviceClosed { device: name.try_into().unwrap() })]
}

fn refused<R: Clone>(words: &[Word<R>]) -> Option<String> {
    match words {
        [Word::Answer(_, FromDomain::Failed { reason })] => Some(reason.as_str().into()),
        _ => None,
    }
}
