//! Guests that write what no driver would.

use super::*;
use proptest::prelude::*;

const XVDA: &str = "device/vbd/51712";

#[test]
fn a_ring_that_is_none_is_refused_and_only_that_disk_is_lost() {
    let cases: [&[(&str, &str)]; 12] = [
        &[("ring-ref", "")],
        &[("ring-ref", "-1")],
        &[("ring-ref", "4294967296")],
        &[("ring-ref", "0x8")],
        &[("ring-ref", "08")],
        &[("ring-ref", "8\0")],
        &[("event-channel", "999")],
        &[("event-channel", "")],
        &[("ring-page-order", "4")],
        &[("ring-page-order", "1")],
        &[("protocol", "arm-abi")],
        &[("multi-queue-num-queues", "2")],
    ];
    for keys in cases {
        let mut world = World::new();
        world.offer_disk("xvda", NATIVE);
        world.offer_disk("xvdb", Port(41));
        let port = world.allocate(PEER_DISK);
        world.publish(XVDA, &[("ring-ref", &8), ("event-channel", &port)]);
        for (key, value) in keys {
            world.guest.write(&format!("{XVDA}/{key}"), value).unwrap();
        }
        let words = world.switch(XVDA, 3);
        assert!(refused(&words).is_some(), "{keys:?}: {words:?}");
        assert_eq!((world.back_state(XVDA).as_deref(), world.ports.tied.len()), (Ok("5"), 0));
        assert_eq!(world.switch(XVDA, 6), []);
        assert_eq!(world.back_state(XVDA).as_deref(), Ok("6"));
        let gone = world.gone("xvda");
        assert_eq!(gone, world.answer(FromDomain::Done));
        let other = world.probe_disk("device/vbd/51728");
        assert!(matches!(other.as_slice(), [Word::Answer(_, FromDomain::BlockRing { .. })]));
    }
}

#[test]
fn nothing_comes_of_a_disk_before_it_is_complete() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    for state in ["0", "2", "7", "8", "99", "-1", "x", ""] {
        world.guest.write(&format!("{XVDA}/state"), state).unwrap();
        assert_eq!(world.said(), [], "{state}");
    }
    world.guest.text(kind::RM, 0, &format!("{XVDA}\0")).unwrap();
    assert_eq!(world.said(), []);
    let words = world.release("xvda");
    assert_eq!(words, world.answer(FromDomain::Done));
}

#[test]
fn a_driver_that_says_it_is_connected_without_rings_is_refused() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    assert!(refused(&world.switch(XVDA, 4)).is_some());
}

#[test]
fn a_port_that_waits_for_another_peer_is_not_taken() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    let port = world.allocate(PEER_NETWORK);
    world.publish(XVDA, &[("ring-ref", &8), ("event-channel", &port)]);
    assert!(refused(&world.switch(XVDA, 3)).unwrap().contains("event-channel"));
}

#[test]
fn keys_count_at_the_moment_they_are_read_only() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    world.probe_disk(XVDA);
    world.publish(
        XVDA,
        &[("ring-ref", &4000), ("event-channel", &7777), ("backend", &"/elsewhere"), ("backend-id", &9)],
    );
    assert_eq!(world.offer_disk("xvda", NATIVE), world.answer(ring(&[8])));
    world.ready("xvda");
    assert_eq!(world.guest.store.text("/local/domain/2/backend/vbd/256/51712/state"), Some("4"));
    assert_eq!(world.guest.store.read("/elsewhere"), None);
    world.guest.text(kind::RM, 0, &format!("{XVDA}\0")).unwrap();
    assert_eq!(world.said(), closed("xvda"));
    assert_eq!(world.ports.tied.len(), 0);
}

#[test]
fn the_guest_writes_nothing_of_the_backend() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    for path in ["/local/domain/2/backend/vbd/256/51712/state", "device/vbd/1/state", "memory/target", "name", "device"]
    {
        assert_eq!(world.guest.write(path, "4"), Err(Refusal::Denied.name().into()), "{path}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, u8, u8),
    Remove(u8),
    Offer(u8, u32),
    Ready(u8),
    Release(u8),
    Gone(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 0..4u8, 0..10u8).prop_map(|(disk, key, value)| Step::Write(disk, key, value)),
        1 => (0..3u8).prop_map(Step::Remove),
        2 => (0..3u8, 40..43u32).prop_map(|(disk, port)| Step::Offer(disk, port)),
        1 => (0..3u8).prop_map(Step::Ready),
        1 => (0..3u8).prop_map(Step::Release),
        1 => (0..3u8).prop_map(Step::Gone),
    ]
}

proptest! {
    /// Whatever either side does: no request is answered twice, no port is left tied when its disk is gone, and it all works again.
    #[test]
    fn whatever_happens_the_next_driver_finds_a_disk(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        let ports: Vec<u32> = (0..3).map(|_| world.allocate(PEER_DISK)).collect();
        let mut answered = BTreeSet::new();
        for step in steps {
            let name = |disk: u8| format!("xvd{}", char::from(b'a' + disk));
            let words = match step {
                Step::Write(disk, key, value) => {
                    let key = ["state", "state", "ring-ref", "event-channel"][usize::from(key)];
                    let value = if key == "event-channel" { ports[usize::from(value) % 3] } else { u32::from(value) };
                    let path = format!("device/vbd/{}/{key}", 51712 + 16 * u32::from(disk));
                    let _ = world.guest.write(&path, &format!("{value}"));
                    world.said()
                }
                Step::Remove(disk) => {
                    let _ = world.guest.text(kind::RM, 0, &format!("device/vbd/{}\0", 51712 + 16 * u32::from(disk)));
                    world.said()
                }
                Step::Offer(disk, port) => world.offer_disk(&name(disk), Port(port)),
                Step::Ready(disk) => world.ready(&name(disk)),
                Step::Release(disk) => world.release(&name(disk)),
                Step::Gone(disk) => world.gone(&name(disk)),
            };
            for word in words {
                if let Word::Answer(id, _) = word {
                    prop_assert!(answered.insert(id), "{id} is answered twice");
                }
            }
        }
        for name in ["xvda", "xvdb", "xvdc"] {
            world.gone(name);
        }
        prop_assert!(world.ports.tied.is_empty());
        prop_assert_eq!(world.offer_disk("xvda", NATIVE), []);
        prop_assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
    }
}
