//! Guests with devices: connections made, lost on either side, taken away; and sides that do not keep to the rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::bundle::Bundle;
use dom0::plane::{Phase, Plane};
use protocol::connection::{DiskInfo, DiskLimits, Guilty, KillPoint, Offload, State};
use protocol::control::{Envelope, FromDomain, ToDomain};
use protocol::domain::Reason;
use protocol::event::{DOMAIN_EVENT_PORT, Port};
use protocol::grant::{PEER_DISK, PEER_NETWORK};
use protocol::heartbeat;
use sim::{Sim, image};

const DISK: &str = "class = 'driver'\nbackend = 'disk'\nmemory = 1\non_crash = 'restart'\nconnections = 3";
const NETWORK: &str = "class = 'driver'\nbackend = 'network'\nmemory = 1\non_crash = 'restart'";
const WEB: &str = "image = 'hello'\nmemory = 1\non_crash = 'restart'\non_reboot = 'restart'\n\
                   disk = ['phy:/dev/virtio0p1,xvda,r']\nvif = ['']";

const LIMITS: DiskLimits =
    DiskLimits { sectors: 2048, sector_size: 512, read_only: false, flush: true, discard: true, indirect_segments: 32 };
const OFFLOAD: Offload = Offload { checksum: true, scatter_gather: false };

/// The whole stack, with driver domains and guests that answer as honest ones do.
struct Stack<'b> {
    sim: Sim,
    plane: Plane<'b, Sim>,
    /// Everything that was said to whom, in order.
    said: Vec<(String, ToDomain)>,
    /// Domains that do not answer.
    mute: Vec<&'static str>,
}

impl<'b> Stack<'b> {
    fn new(image: &'b [u8], auto: &[(&str, &'b str)]) -> Stack<'b> {
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

    fn full(image: &'b [u8]) -> Stack<'b> {
        Stack::new(image, &[("auto/disk.toml", DISK), ("auto/network.toml", NETWORK), ("auto/web.toml", WEB)])
    }

    /// A domain has come up.
    fn start(&mut self, name: &str) {
        if name != "dom0" {
            self.sim.say(name, 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
        }
    }

    fn poll(&mut self) {
        self.plane.on_port(DOMAIN_EVENT_PORT);
        while self.plane.next_deadline() == 0 {
            self.plane.poll();
        }
    }

    /// Lets everybody hear and answer until nobody says anything more.
    fn settle(&mut self) {
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

    fn answer(&mut self, name: &str, Envelope { id, message, .. }: Envelope<ToDomain>) {
        let answer = match &message {
            ToDomain::BlockOffer { .. } => FromDomain::BlockRing { ring: [8].into_iter().collect() },
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
            _ => FromDomain::Done,
        };
        self.said.push((name.to_owned(), message));
        self.sim.say(name, id, answer);
    }

    /// What was said to a domain since the last look.
    fn heard(&mut self, name: &str) -> Vec<ToDomain> {
        let (own, other): (Vec<_>, Vec<_>) = self.said.drain(..).partition(|(whom, _)| whom == name);
        self.said = other;
        own.into_iter().map(|(_, message)| message).collect()
    }

    fn state(&self, guest: &str, device: &str) -> Option<State> {
        let id = self.plane.find(guest)?;
        self.plane.find_device(id, device)?.link.as_ref().map(|link| link.state)
    }

    fn key(&self, guest: &str, device: &str) -> u32 {
        self.plane.find_device(self.plane.find(guest).unwrap(), device).unwrap().key
    }

    fn die(&mut self, name: &str) {
        self.sim.end(name, Reason::Fault);
        self.poll();
    }

    fn notices(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.plane.take_notice()).collect()
    }

    fn create(&mut self, name: &str, text: &str) -> Result<u16, String> {
        let text = format!("name = '{name}'\nimage = 'hello'\nmemory = 1\n{text}");
        let created = self.plane.create("test.toml", &text, &[], false).map_err(|failure| failure.lines.join("; "))?;
        self.start(name);
        self.settle();
        Ok(created.id)
    }

    fn beat(&self, name: &str, words: &[(usize, u64)]) {
        self.sim
            .by_name(name, |guest| words.iter().for_each(|&(at, word)| heartbeat::store(&guest.heartbeat, at, word)));
    }
}

#[test]
fn a_guest_gets_its_disk_and_its_interface() {
    let image = image();
    let mut stack = Stack::full(&image);
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
    assert_eq!(stack.state("web", "eth0"), Some(State::Serving));
    let web = stack.plane.find("web").unwrap();
    let [offer, net, ..] = stack.heard("web")[..].to_vec().try_into().unwrap_or_else(|all: Vec<_>| {
        let mut all = all.into_iter();
        [all.next().unwrap(), all.next().unwrap()]
    });
    let ToDomain::BlockOffer { device, peer, port } = offer else { panic!("{offer:?}") };
    assert_eq!((device.as_str(), peer), ("xvda", PEER_DISK));
    let ToDomain::NetworkOffer { peer: network_peer, mac, .. } = net else { panic!("{net:?}") };
    assert_eq!((network_peer, &mac[..3]), (PEER_NETWORK, &[0x00, 0x16, 0x3e][..]));
    let attach = stack.heard("disk").pop().unwrap();
    let ToDomain::BlockAttach(attach) = attach else { panic!("{attach:?}") };
    assert_eq!((attach.target.as_str(), attach.read_only, attach.frontend.connection), ("virtio0p1", true, 0));
    stack.sim.by_name("web", |guest| {
        let (backend, other) = guest.ports[&port.0].unwrap();
        assert_eq!((backend, Port(other)), (guest.peers[&PEER_DISK].0, attach.frontend.port));
    });
    stack.sim.by_name("disk", |guest| assert_eq!(guest.peers[&attach.frontend.peer].0, web));
}

#[test]
fn a_backend_that_restarts_is_told_the_same_and_the_guest_nothing() {
    let image = image();
    let mut stack = Stack::full(&image);
    let before = stack.heard("disk");
    stack.heard("web");
    for _ in 0..5 {
        stack.die("disk");
        assert_eq!(stack.state("web", "xvda"), Some(State::Waiting { known: true }));
        stack.start("disk");
        stack.settle();
        assert_eq!(stack.heard("disk"), before);
        assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
        stack.sim.advance(20_000_000_000);
    }
    assert_eq!(stack.heard("web"), []);
    assert_eq!(stack.plane.domain(stack.plane.find("disk").unwrap()).unwrap().restarts, 5);
}
