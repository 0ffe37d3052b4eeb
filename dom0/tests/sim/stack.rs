//! The whole stack over the simulated machine: driver domains and guests that answer as honest ones do, unless told not to.

use dom0::bundle::Bundle;
use dom0::plane::Plane;
use protocol::connection::{BridgePort, DiskInfo, DiskLimits, Offload, State, Statistics};
use protocol::control::{Envelope, FromDomain, ToDomain};
use protocol::domain::Reason;
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::heartbeat;
use protocol::ring::block::Layout;

use super::Sim;

pub const DISK: &str = "class = 'driver'\nbackend = 'disk'\nmemory = 1\non_crash = 'restart'\nconnections = 3";
pub const NETWORK: &str = "class = 'driver'\nbackend = 'network'\nmemory = 1\non_crash = 'restart'";
pub const WEB: &str = "image = 'hello'\nmemory = 1\non_crash = 'restart'\non_reboot = 'restart'\n\
                   disk = ['phy:/dev/virtio0p1,xvda,r']\nvif = ['']";

pub const LIMITS: DiskLimits =
    DiskLimits { sectors: 2048, sector_size: 512, read_only: false, flush: true, discard: true, indirect_segments: 32 };
pub const OFFLOAD: Offload = Offload { checksum: true, scatter_gather: false };

/// The whole stack, with driver domains and guests that answer as honest ones do.
pub struct Stack<'b> {
    pub sim: Sim,
    pub plane: Plane<'b, Sim>,
    /// Everything that was said to whom, in order.
    pub said: Vec<(String, ToDomain)>,
    /// Domains that do not answer.
    pub mute: Vec<&'static str>,
}

impl<'b> Stack<'b> {
    pub fn new(image: &'b [u8], auto: &[(&str, &'b str)]) -> Stack<'b> {
        let names = ["console", "hello", "disk", "network", "disk2"];
        let paths: Vec<String> = names.iter().map(|name| format!("images/{name}")).collect();
        let mut files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), image)).collect();
        files.extend(auto.iter().map(|(path, text)| (*path, text.as_bytes())));
        let sim = Sim::new();
        let mut plane = Plane::new(sim.clone(), Bundle::of(&files));
        assert!(plane.boot(), "{:?}", sim.state.borrow().log);
        let mut stack = Stack { sim, plane, said: Vec::new(), mute: vec!["console"] };
        for name in stack.plane.names() {
            stack.start(&name);
        }
        stack.settle();
        stack
    }

    pub fn full(image: &'b [u8]) -> Stack<'b> {
        Stack::new(image, &[("auto/disk.toml", DISK), ("auto/network.toml", NETWORK), ("auto/web.toml", WEB)])
    }

    /// A domain has come up.
    pub fn start(&mut self, name: &str) {
        if name != "dom0" {
            self.sim.say(name, 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
        }
    }

    pub fn poll(&mut self) {
        self.plane.on_port(DOMAIN_EVENT_PORT);
        while self.plane.next_deadline() == 0 {
            self.plane.poll();
        }
    }

    /// Lets everybody hear and answer until nobody says anything more.
    pub fn settle(&mut self) {
        loop {
            self.poll();
            let mut silent = true;
            for name in self.plane.names().into_iter().filter(|name| name != "dom0") {
                if self.mute.contains(&name.as_str()) {
                    continue;
                }
                for envelope in self.sim.heard(&name) {
                    silent = false;
                    self.answer(&name, envelope);
                }
            }
            if silent {
                return;
            }
        }
    }

    pub fn answer(&mut self, name: &str, Envelope { id, message, .. }: Envelope<ToDomain>) {
        let answer = match &message {
            ToDomain::BlockOffer { .. } => {
                FromDomain::BlockRing { ring: [8].into_iter().collect(), persistent: false, layout: Layout::X86_64 }
            }
            ToDomain::NetworkOffer { .. } => FromDomain::NetworkRings { transmit: 9, receive: 10, offload: OFFLOAD },
            ToDomain::BlockAttach(attach) if attach.target == "none" => {
                FromDomain::Failed { reason: "there is no disk none".try_into().unwrap() }
            }
            ToDomain::BlockAttach(_) => FromDomain::BlockAttached { limits: LIMITS, replayed: 0 },
            ToDomain::NetworkAttach(_) => FromDomain::NetworkAttached { offload: OFFLOAD },
            ToDomain::DiskAt { index: 0 } => FromDomain::Disk(Some(DiskInfo {
                name: "virtio0".try_into().unwrap(),
                label: "web".try_into().unwrap(),
                limits: LIMITS,
                users: 1,
            })),
            ToDomain::DiskAt { .. } => FromDomain::Disk(None),
            ToDomain::BridgePortAt { index } if *index < 2 => FromDomain::BridgePort(Some(BridgePort {
                connection: index.checked_sub(1),
                mac: [0x52, 0x54, 0, 0, 0, 1],
                up: true,
                refused: 7,
                ..BridgePort::default()
            })),
            ToDomain::BridgePortAt { .. } => FromDomain::BridgePort(None),
            ToDomain::Statistics { .. } => {
                FromDomain::Statistics(Statistics { requests: 1234, ..Statistics::default() })
            }
            _ => FromDomain::Done,
        };
        self.said.push((name.to_owned(), message));
        self.sim.say(name, id, answer);
    }

    /// What was said to a domain since the last look.
    pub fn heard(&mut self, name: &str) -> Vec<ToDomain> {
        let (own, other): (Vec<_>, Vec<_>) = self.said.drain(..).partition(|(whom, _)| whom == name);
        self.said = other;
        own.into_iter().map(|(_, message)| message).collect()
    }

    pub fn state(&self, guest: &str, device: &str) -> Option<State> {
        let id = self.plane.find(guest)?;
        self.plane.find_device(id, device)?.link.as_ref().map(|link| link.state)
    }

    pub fn key(&self, guest: &str, device: &str) -> u32 {
        self.plane.find_device(self.plane.find(guest).unwrap(), device).unwrap().key
    }

    pub fn die(&mut self, name: &str) {
        self.sim.end(name, Reason::Fault);
        self.poll();
    }

    pub fn notices(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.plane.take_notice()).collect()
    }

    pub fn create(&mut self, name: &str, text: &str) -> Result<u16, String> {
        let memory = if text.contains("memory") { "" } else { "memory = 1\n" };
        let text = format!("name = '{name}'\nimage = 'hello'\n{memory}{text}");
        let created = self.plane.create("test.toml", &text, &[], false).map_err(|failure| failure.lines.join("; "))?;
        self.start(name);
        self.settle();
        Ok(created.id)
    }

    pub fn beat(&self, name: &str, words: &[(usize, u64)]) {
        self.sim
            .by_name(name, |guest| words.iter().for_each(|&(at, word)| heartbeat::store(&guest.heartbeat, at, word)));
    }
}
