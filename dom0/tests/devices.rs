//! Guests with devices: connections made, lost on either side, taken away; and sides that do not keep to the rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::plane::Phase;
use proptest::prelude::*;
use protocol::connection::{DiskLimits, Guilty, State};
use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use protocol::grant::{PEER_DISK, PEER_NETWORK};
use protocol::ring::block::Layout;
use sim::image;
use sim::stack::{DISK, LIMITS, NETWORK, OFFLOAD, Stack, WEB};

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
    let ToDomain::BlockOffer { device, peer, port, .. } = offer else { panic!("{offer:?}") };
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

#[test]
fn a_guest_whose_backend_is_not_there_waits_for_it() {
    let image = image();
    let mut stack = Stack::new(&image, &[("auto/web.toml", WEB)]);
    assert_eq!(stack.state("web", "xvda"), None);
    let id = stack.plane.find("web").unwrap();
    assert_eq!(stack.plane.find_device(id, "xvda").unwrap().status(), "no-backend");
    stack.create("disk", DISK).unwrap();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
    assert_eq!(stack.state("web", "eth0"), None);
    let disk = stack.plane.find("disk").unwrap();
    stack.heard("web");
    stack.plane.destroy(disk).unwrap();
    stack.settle();
    assert_eq!(stack.heard("web"), [ToDomain::DeviceGone { device: "xvda".try_into().unwrap() }]);
    stack.create("disk", DISK).unwrap();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving), "another one is as good");
}

#[test]
fn a_guest_that_restarts_is_offered_everything_anew_once_its_old_rings_are_forgotten() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.heard("disk");
    stack.mute.push("disk");
    stack.die("web");
    stack.start("web");
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Waiting { known: false }), "the old rings are still attached");
    stack.mute.pop();
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
    let heard = stack.heard("disk");
    assert_eq!(heard[0], ToDomain::Detach { connection: 0 });
    let ToDomain::BlockAttach(attach) = &heard[1] else { panic!("{heard:?}") };
    assert_eq!((heard.len(), attach.frontend.connection), (2, 0));
}

#[test]
fn a_backend_that_dies_while_a_guest_restarts_forgets_the_old_rings_first() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.mute.push("disk");
    stack.die("web");
    stack.start("web");
    stack.settle();
    stack.sim.heard("disk");
    stack.die("disk");
    stack.mute.pop();
    stack.heard("disk");
    stack.start("disk");
    stack.settle();
    let heard = stack.heard("disk");
    assert_eq!(heard[0], ToDomain::Detach { connection: 0 });
    assert!(matches!(heard[1], ToDomain::BlockAttach(_)));
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
}

#[test]
fn detach_asks_the_guest_then_the_backend_and_leaves_nothing() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.heard("web");
    let key = stack.key("web", "xvda");
    stack.plane.detach(key, false);
    stack.settle();
    let device = || "xvda".try_into().unwrap();
    let expected = [ToDomain::DeviceRelease { device: device() }, ToDomain::DeviceGone { device: device() }];
    assert_eq!(stack.heard("web"), expected);
    assert_eq!(stack.heard("disk").pop(), Some(ToDomain::Detach { connection: 0 }));
    assert_eq!(stack.state("web", "xvda"), None);
    stack.sim.by_name("disk", |guest| assert_eq!(guest.ports.len(), 2, "control and console: {:?}", guest.ports));
    let disk = dom0::config::disk::parse("phy:web,xvda,w").unwrap();
    stack.plane.add_disk(stack.plane.find("web").unwrap(), &disk).unwrap();
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
}

#[test]
fn a_guest_that_does_not_let_go_is_waited_for_unless_forced() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.mute.push("web");
    let key = stack.key("web", "xvda");
    stack.plane.detach(key, false);
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Closing));
    stack.die("disk");
    stack.start("disk");
    stack.settle();
    let heard = stack.heard("disk");
    assert!(matches!(heard.last(), Some(ToDomain::BlockAttach(_))), "what is under way is finished first: {heard:?}");
    stack.plane.detach(key, true);
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), None);
}

#[test]
fn what_a_backend_refuses_is_said_and_nothing_stays() {
    let image = image();
    let mut stack = Stack::full(&image);
    let id = stack.create("other", "disk = ['phy:none,xvda,w']").unwrap();
    let device = stack.plane.find_device(id, "xvda").unwrap();
    assert_eq!((device.status(), device.link.is_none()), ("refused", true));
    assert_eq!(device.fault.as_deref(), Some("disk: it is not served: there is no disk none"));
    assert!(stack.notices().iter().any(|line| line == "other: xvda: disk: it is not served: there is no disk none"));
    stack.sim.by_name("disk", |guest| assert_eq!(guest.ports.len(), 3));
}

#[test]
fn room_is_bounded_by_the_configuration() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.create("one", "disk = ['phy:a,xvda,w', 'phy:b,xvdb,w']").unwrap();
    let text = stack.create("two", "disk = ['phy:a,xvda,w']").unwrap_err();
    assert_eq!(text, "two: disk serves 3 devices and has room for 3: detach one, or raise its `connections`");
    assert!(stack.plane.find("two").is_none());
    stack.plane.destroy(stack.plane.find("one").unwrap()).unwrap();
    stack.settle();
    stack.create("two", "disk = ['phy:a,xvda,w']").unwrap();
}

#[test]
fn an_entry_can_name_its_backend() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.create("disk2", DISK).unwrap();
    let id = stack.create("other", "disk = ['phy:a,xvda,w', 'phy:b,xvdb,w,backend=disk2']").unwrap();
    assert_eq!(["xvda", "xvdb"].map(|device| stack.state("other", device)), [Some(State::Serving); 2]);
    let second = stack.plane.find("disk2").unwrap();
    let link = stack.plane.find_device(id, "xvdb").unwrap().link.clone().unwrap();
    assert_eq!((link.backend, link.peer), (second, second));
    assert!(stack.create("wrong", "disk = ['phy:a,xvda,w,backend=network']").unwrap_err().contains("does not serve"));
}

#[test]
fn who_breaks_the_rules_is_named_and_only_that_connection_closes() {
    let image = image();
    let mut stack = Stack::full(&image);
    let broken = |guilty| FromDomain::ConnectionBroken { connection: 0, guilty, reason: "index 9".try_into().unwrap() };
    stack.sim.say("disk", 0, broken(Guilty::Frontend));
    stack.settle();
    let text = "web: xvda: web: broke the rules, the connection is closed: index 9";
    assert!(stack.notices().iter().any(|line| line == text));
    assert_eq!((stack.state("web", "xvda"), stack.state("web", "eth0")), (None, Some(State::Serving)));
    let id = stack.plane.find("web").unwrap();
    assert_eq!(stack.plane.find_device(id, "xvda").unwrap().status(), "refused");
    stack.sim.say("disk", 0, broken(Guilty::Backend));
    stack.settle();
    stack.die("web");
    stack.start("web");
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving), "a fresh start is a fresh chance");
}

#[test]
fn a_guest_can_close_its_own_connection_only_and_says_who_broke_the_rules() {
    let image = image();
    let mut stack = Stack::full(&image);
    let broken = |device: &str| FromDomain::DeviceBroken {
        device: device.try_into().unwrap(),
        reason: "index 9".try_into().unwrap(),
    };
    // It has no such device, and that of another guest is none of its business.
    for (name, device) in [("web", "xvdz"), ("disk", "xvda")] {
        stack.sim.say(name, 0, broken(device));
    }
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
    for _ in 0..2 {
        stack.sim.say("web", 0, broken("xvda"));
        stack.settle();
    }
    let text = "web: xvda: disk: broke the rules, says web, which closed the connection: index 9";
    assert_eq!(stack.notices().iter().filter(|line| *line == text).count(), 1);
    assert_eq!((stack.state("web", "xvda"), stack.state("web", "eth0")), (None, Some(State::Serving)));
}

#[test]
fn a_device_that_its_guest_let_go_of_is_offered_again_once_its_old_rings_are_forgotten() {
    let image = image();
    let mut stack = Stack::full(&image);
    let closed = |device: &str| FromDomain::DeviceClosed { device: device.try_into().unwrap() };
    for name in ["web", "disk"] {
        stack.heard(name);
        // Not its own, or none at all.
        stack.sim.say(name, 0, closed(if name == "web" { "xvdz" } else { "xvda" }));
    }
    stack.settle();
    assert_eq!((stack.heard("web"), stack.heard("disk")), (vec![], vec![]));
    stack.sim.say("web", 0, closed("xvda"));
    stack.settle();
    let offered = stack.heard("web");
    assert!(matches!(offered[..], [ToDomain::BlockOffer { .. }, ToDomain::BlockReady { .. }]), "{offered:?}");
    let heard = stack.heard("disk");
    assert!(matches!(heard[..], [ToDomain::Detach { connection: 0 }, ToDomain::BlockAttach(_)]), "{heard:?}");
    assert_eq!((stack.state("web", "xvda"), stack.state("web", "eth0")), (Some(State::Serving), Some(State::Serving)));
    // While it is asked to let go, that it did is the answer.
    stack.mute.push("web");
    let key = stack.key("web", "xvda");
    stack.plane.detach(key, false);
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Closing));
    stack.sim.say("web", 0, closed("xvda"));
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), None);
}

#[test]
fn answers_that_make_no_sense_close_the_connection_and_name_their_author() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.mute.extend(["web", "disk"]);
    stack.die("web");
    stack.start("web");
    stack.poll();
    let asked = |stack: &mut Stack<'_>, name: &str| {
        stack.poll();
        stack
            .sim
            .heard(name)
            .into_iter()
            .find(|envelope| matches!(envelope.message, ToDomain::BlockOffer { .. } | ToDomain::BlockAttach(_)))
    };
    // Answers to what was never asked change nothing.
    let offer = asked(&mut stack, "web").unwrap();
    for wrong in [offer.id + 1000, 0] {
        stack.sim.say(
            "web",
            wrong,
            FromDomain::BlockRing { ring: [8].into_iter().collect(), persistent: false, layout: Layout::X86_64 },
        );
        stack.sim.say(
            "network",
            offer.id,
            FromDomain::BlockRing { ring: [8].into_iter().collect(), persistent: false, layout: Layout::X86_64 },
        );
        stack.poll();
        assert_eq!(stack.state("web", "xvda"), Some(State::Offered));
    }
    // A ring of three pages is none.
    stack.sim.say(
        "web",
        offer.id,
        FromDomain::BlockRing { ring: [8, 9, 10].into_iter().collect(), persistent: false, layout: Layout::X86_64 },
    );
    stack.poll();
    assert_eq!(stack.state("web", "xvda"), Some(State::Closed));
    assert!(stack.notices().iter().any(|line| line.contains("web: its ring has 3 pages, not 1, 2, 4 or 8")));
    stack.mute.retain(|name| *name == "console");
    stack.settle();
    // A backend that speaks of something else.
    stack.mute.push("disk");
    let id = stack.create("other", "disk = ['phy:a,xvda,w']").unwrap();
    let attach = asked(&mut stack, "disk").unwrap();
    stack.sim.say("disk", attach.id, FromDomain::NetworkAttached { offload: OFFLOAD });
    stack.poll();
    assert!(stack.notices().iter().any(|line| line.starts_with("other: xvda: disk: ")));
    assert_eq!(stack.plane.find_device(id, "xvda").unwrap().status(), "closed");
    for message in [
        FromDomain::ConnectionBroken { connection: u16::MAX, guilty: Guilty::Backend, reason: "".try_into().unwrap() },
        FromDomain::DiskResized { connection: u16::MAX, limits: LIMITS },
    ] {
        assert!(stack.sim.say("disk", 0, message));
    }
    stack.poll();
    assert_eq!(stack.state("other", "xvda"), Some(State::Closed));
}

#[test]
fn a_request_without_an_answer_is_put_again_more_and_more_rarely() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.mute.push("disk");
    let id = stack.create("other", "disk = ['phy:a,xvda,w']").unwrap();
    let mut times = 0;
    for _ in 0..100 {
        stack.sim.advance(1_000_000_000);
        stack.poll();
        times += stack.sim.heard("disk").len();
    }
    assert!((4..10).contains(&times), "{times}");
    assert_eq!(stack.plane.find_device(id, "xvda").unwrap().fault.as_deref(), Some("disk does not answer"));
    stack.mute.pop();
    stack.sim.advance(60_000_000_000);
    stack.settle();
    assert_eq!(stack.state("other", "xvda"), Some(State::Serving));
    assert_eq!(stack.plane.find_device(id, "xvda").unwrap().fault, None);
}

#[test]
fn a_resized_disk_is_told_to_its_guest() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.heard("web");
    let limits = DiskLimits { sectors: 4096, ..LIMITS };
    stack.sim.say("disk", 0, FromDomain::DiskResized { connection: 0, limits });
    stack.settle();
    assert_eq!(stack.heard("web"), [ToDomain::BlockResized { device: "xvda".try_into().unwrap(), limits }]);
}

#[test]
fn creating_and_destroying_guests_with_devices_leaves_nothing() {
    let image = image();
    let mut stack = Stack::full(&image);
    let ports = |stack: &Stack<'_>, name| stack.sim.by_name(name, |guest: &mut sim::Guest| guest.ports.clone());
    let count = |stack: &Stack<'_>| (ports(stack, "disk").len(), ports(stack, "network").len());
    let (books, before) = (stack.sim.books(), count(&stack));
    for round in 0..300 {
        let id = stack.create("guest", "disk = ['phy:a,xvda,w', 'phy:b,xvdb,w']\nvif = ['']").unwrap();
        match round % 3 {
            0 => stack.die("disk"),
            1 => stack.die("guest"),
            _ => {}
        }
        if stack.plane.find("guest").is_some() {
            stack.plane.destroy(id).unwrap();
        }
        stack.start("disk");
        stack.settle();
        stack.sim.advance(20_000_000_000);
        stack.settle();
        assert_eq!((stack.sim.books(), count(&stack)), (books.clone(), before), "round {round}");
    }
}

/// What can happen, in any order, to guests and driver domains by their numbers.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, bool),
    Destroy(usize),
    Die(usize),
    Restart(usize),
    Kill(usize),
    Start(usize),
    Mute(usize),
    Hear,
    Attach(usize),
    Detach(usize, bool),
    Broken(usize, u16, bool),
    Closed(usize, bool),
    Lie(usize, u32),
    Upgrade(usize, bool),
    Wait(u64),
    FailNext(usize),
}

/// Guests first, then driver domains.
const ACTORS: [&str; 5] = ["a", "b", "c", "disk", "network"];

fn step() -> impl Strategy<Value = Step> {
    let actor = 0..ACTORS.len();
    prop_oneof![
        4 => (actor.clone(), any::<bool>()).prop_map(|(who, two)| Step::Create(who, two)),
        2 => actor.clone().prop_map(Step::Destroy),
        4 => actor.clone().prop_map(Step::Die),
        1 => actor.clone().prop_map(Step::Restart),
        1 => actor.clone().prop_map(Step::Kill),
        4 => actor.clone().prop_map(Step::Start),
        2 => actor.clone().prop_map(Step::Mute),
        6 => Just(Step::Hear),
        2 => (0..3_usize).prop_map(Step::Attach),
        3 => (0..3_usize, any::<bool>()).prop_map(|(who, force)| Step::Detach(who, force)),
        1 => (3..5_usize, 0..4_u16, any::<bool>()).prop_map(|(who, number, front)| Step::Broken(who, number, front)),
        2 => (actor.clone(), any::<bool>()).prop_map(|(who, disk)| Step::Closed(who, disk)),
        2 => (actor.clone(), 0..40_u32).prop_map(|(who, id)| Step::Lie(who, id)),
        1 => (3..5_usize, any::<bool>()).prop_map(|(who, good)| Step::Upgrade(who, good)),
        2 => (0..20_000_000_000_u64).prop_map(Step::Wait),
        1 => (0..30_usize).prop_map(Step::FailNext),
    ]
}

trait Take {
    fn take(&mut self, step: Step);
}

impl Take for Stack<'_> {
    fn take(&mut self, step: Step) {
        let id = |stack: &Self, who: usize| stack.plane.find(ACTORS[who]);
        match step {
            Step::Create(who, two) if id(self, who).is_none() => {
                let text = match who {
                    3 => DISK.into(),
                    4 => NETWORK.into(),
                    _ => {
                        let second = if two { ", 'phy:none,xvdb,w'" } else { "" };
                        let end = ["restart", "destroy", "preserve"][who];
                        format!("on_crash = '{end}'\ndisk = ['phy:x,xvda,w'{second}]\nvif = ['']")
                    }
                };
                let _ = self.create(ACTORS[who], &text);
            }
            Step::Destroy(who) => drop(id(self, who).map(|id| self.plane.destroy(id))),
            Step::Die(who) if id(self, who).is_some() => self.die(ACTORS[who]),
            Step::Restart(who) => drop(id(self, who).map(|id| self.plane.restart(id))),
            Step::Kill(who) => drop(id(self, who).map(|id| self.plane.kill(id))),
            Step::Start(who) if id(self, who).is_some() => self.start(ACTORS[who]),
            Step::Mute(who) => self.mute.push(ACTORS[who]),
            Step::Hear => {
                self.mute.truncate(1);
                self.settle();
            }
            Step::Attach(who) => {
                let disk = dom0::config::disk::parse("phy:y,xvdc,w").unwrap();
                let _ = id(self, who).map(|id| self.plane.add_disk(id, &disk));
            }
            Step::Detach(who, force) => {
                let of = |device: &&dom0::plane::Device| Some(device.guest) == id(self, who);
                let key = self.plane.devices().find(of).map(|device| device.key);
                key.into_iter().for_each(|key| self.plane.detach(key, force));
            }
            Step::Broken(who, connection, front) if id(self, who).is_some() => {
                let guilty = if front { Guilty::Frontend } else { Guilty::Backend };
                let reason = "index 9".try_into().unwrap();
                self.sim.say(ACTORS[who], 0, FromDomain::ConnectionBroken { connection, guilty, reason });
            }
            Step::Closed(who, disk) if id(self, who).is_some() => {
                let device = if disk { "xvda" } else { "eth0" }.try_into().unwrap();
                self.sim.say(ACTORS[who], 0, FromDomain::DeviceClosed { device });
            }
            Step::Lie(who, id) if self.plane.find(ACTORS[who]).is_some() => {
                let message = match id % 4 {
                    0 => FromDomain::Done,
                    1 => FromDomain::BlockRing {
                        ring: [1, 2, 3].into_iter().collect(),
                        persistent: false,
                        layout: Layout::X86_64,
                    },
                    2 => FromDomain::BlockAttached { limits: LIMITS, replayed: 0 },
                    _ => FromDomain::Failed { reason: "so".try_into().unwrap() },
                };
                self.sim.say(ACTORS[who], id, message);
            }
            Step::Upgrade(who, good) => {
                let image = if good { "disk2" } else { "nosuch" };
                let _ = id(self, who).map(|id| self.plane.upgrade(id, image));
            }
            Step::Wait(ns) => self.sim.advance(ns),
            Step::FailNext(calls) => {
                let at = self.sim.calls.get() + calls;
                self.sim.fail.set(Some((at, protocol::error::Error::NoMemory)));
            }
            _ => {}
        }
        self.poll();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_happens_no_connection_is_stuck_and_nothing_leaks(steps in prop::collection::vec(step(), 0..60)) {
        let image = image();
        let mut stack = Stack::new(&image, &[("auto/disk.toml", DISK), ("auto/network.toml", NETWORK)]);
        let before = stack.sim.books();
        for step in steps {
            stack.take(step);
        }
        stack.sim.fail.set(None);
        for name in &ACTORS[3..] {
            match stack.plane.find(name) {
                Some(id) => drop(stack.plane.restart(id).unwrap()),
                None => drop(stack.create(name, if *name == "disk" { DISK } else { NETWORK }).unwrap()),
            }
        }
        for id in stack.plane.domains().iter().map(|domain| domain.id).collect::<Vec<_>>() {
            if stack.plane.domain(id).unwrap().phase != Phase::Running {
                stack.plane.restart(id).unwrap();
            }
        }
        stack.mute.truncate(1);
        for _ in 0..4 {
            for name in stack.plane.names() {
                if !stack.plane.domains().iter().any(|domain| domain.name() == name && domain.ready) {
                    stack.start(&name);
                }
            }
            stack.settle();
            stack.sim.advance(61_000_000_000);
            stack.settle();
        }
        for device in stack.plane.devices() {
            let status = device.status();
            prop_assert!(status == "serving" || (status == "refused" && device.fault.is_some()), "{device:?}");
        }
        for name in &ACTORS[..3] {
            stack.plane.find(name).into_iter().for_each(|id| stack.plane.destroy(id).unwrap());
        }
        stack.settle();
        prop_assert_eq!(stack.plane.devices().count(), 0);
        for name in &ACTORS[3..] {
            let ports = stack.sim.by_name(name, |guest| guest.ports.len());
            prop_assert_eq!(ports, 2, "control and console are left of {}", name);
        }
        let after = stack.sim.books();
        prop_assert_eq!((after.0, after.1, after.2, after.3), (before.0, before.1, before.2, before.3));
    }
}
