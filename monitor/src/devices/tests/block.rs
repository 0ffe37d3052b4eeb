//! Disks.

use super::*;

const XVDA: &str = "device/vbd/51712";

/// A disk that is in use.
fn connected() -> World {
    let mut world = World::new();
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
    world.ready("xvda");
    assert_eq!(world.switch(XVDA, 4), []);
    world
}

#[test]
fn a_disk_is_found_when_its_directory_is_complete() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    let events = world.guest.events();
    let last = events.last().unwrap();
    assert_eq!(last.0, format!("{XVDA}/state"), "what makes the guest look comes last");
    let keys = [
        ("backend", "/local/domain/2/backend/vbd/256/51712"),
        ("backend-id", "2"),
        ("virtual-device", "51712"),
        ("device-type", "disk"),
        ("state", "1"),
    ];
    for (key, value) in keys {
        assert_eq!(world.guest.read(&format!("{XVDA}/{key}")).as_deref(), Ok(value), "{key}");
    }
    for (key, value) in [("max-ring-page-order", "3"), ("multi-queue-max-queues", "1"), ("feature-persistent", "0")] {
        assert_eq!(world.back(XVDA, key).as_deref(), Ok(value), "{key}");
    }
    assert_eq!(world.guest.list("device/vbd"), Ok(std::vec!["51712".into()]));
}

#[test]
fn a_disk_is_held_up_until_the_guest_has_its_memory() {
    let mut world = World::new();
    world.ports.lacks_memory = true;
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    assert_eq!(world.probe_disk(XVDA), []);
    assert_eq!((world.back_state(XVDA).as_deref(), world.ports.tied.len()), (Ok("2"), 0));
    world.ports.lacks_memory = false;
    assert_eq!(world.said(), world.answer(ring(&[8])), "though the guest changed nothing");
    world.ready("xvda");
    assert_eq!((world.switch(XVDA, 4), world.back_state(XVDA).as_deref()), (Vec::new(), Ok("4")));
    // And one that it lets go meanwhile is let go.
    let mut world = World::new();
    world.ports.lacks_memory = true;
    world.offer_disk("xvda", NATIVE);
    world.probe_disk(XVDA);
    assert_eq!(world.release("xvda"), world.answer(FromDomain::Done));
}

#[test]
fn the_handshake_of_linux_connects_a_disk() {
    let mut world = connected();
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("4"));
    let keys = [
        ("sectors", "8192"),
        ("sector-size", "512"),
        ("physical-sector-size", "512"),
        ("info", "0"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "0"),
        ("feature-discard", "1"),
        ("discard-granularity", "512"),
        ("feature-max-indirect-segments", "32"),
    ];
    for (key, value) in keys {
        assert_eq!(world.back(XVDA, key).as_deref(), Ok(value), "{key}");
    }
    assert_eq!(world.ports.tied.values().collect::<Vec<_>>(), [&NATIVE]);
    // The guest watches the backend's state; all else has to be there when that says so.
    let path = "/local/domain/2/backend/vbd/256/51712";
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    world.probe_disk(XVDA);
    world.guest.watch(path, "b").unwrap();
    world.guest.events();
    world.ready("xvda");
    assert_eq!(world.guest.events().last().unwrap().0, format!("{path}/state"));
}

#[test]
fn a_disk_whose_driver_does_not_wait_is_connected() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    world.probe_disk_to(XVDA, 4);
    world.ready("xvda");
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("4"));
    assert_eq!(world.ports.tied.values().collect::<Vec<_>>(), [&NATIVE]);
}

#[test]
fn a_ring_of_several_pages_is_taken() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    let port = world.allocate(PEER_DISK);
    let keys: [(&str, &dyn ToString); 6] = [
        ("ring-page-order", &2),
        ("ring-ref0", &20),
        ("ring-ref1", &21),
        ("ring-ref2", &22),
        ("ring-ref3", &23),
        ("event-channel", &port),
    ];
    world.publish(XVDA, &keys);
    assert_eq!(world.switch(XVDA, 3), world.answer(ring(&[20, 21, 22, 23])));
}

#[test]
fn the_layout_is_what_the_driver_says_or_else_the_guests_own() {
    let (wide, narrow) = (Layout::X86_64, Layout::X86_32);
    let named = [
        (narrow, None, narrow),
        (wide, None, wide),
        (narrow, Some("x86_64-abi"), wide),
        (wide, Some("x86_32-abi"), narrow),
    ];
    for (own, named, layout) in named {
        let mut world = World::new();
        world.ports.layout = own;
        world.offer_disk("xvda", NATIVE);
        let port = world.allocate(PEER_DISK);
        world.publish(XVDA, &[("ring-ref", &8), ("event-channel", &port)]);
        if let Some(name) = named {
            world.publish(XVDA, &[("protocol", &name)]);
        }
        let answer = FromDomain::BlockRing { ring: [8].into_iter().collect(), persistent: false, layout };
        assert_eq!(world.switch(XVDA, 3), world.answer(answer));
    }
}

#[test]
fn how_a_disk_can_be_opened_is_there_from_the_start() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    world.offer_disk(READ_ONLY, Port(41));
    assert_eq!(world.back(XVDA, "mode").as_deref(), Ok("w"));
    assert_eq!(world.back("device/vbd/51728", "mode").as_deref(), Ok("r"));
}

#[test]
fn a_read_only_disk_says_so() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    world.probe_disk(XVDA);
    let limits = DiskLimits { read_only: true, discard: false, flush: false, indirect_segments: 0, ..LIMITS };
    world.about(|device| ToDomain::BlockReady { device, limits }, "xvda");
    let keys = [("info", "4"), ("mode", "r"), ("feature-discard", "0"), ("feature-flush-cache", "0")];
    for (key, value) in keys {
        assert_eq!(world.back(XVDA, key).as_deref(), Ok(value), "{key}");
    }
    assert!(world.back(XVDA, "discard-granularity").is_err());
}

#[test]
fn another_size_is_told_by_the_state_written_again() {
    let mut world = connected();
    let path = "/local/domain/2/backend/vbd/256/51712";
    world.guest.watch(&format!("{path}/state"), "s").unwrap();
    world.guest.events();
    let limits = DiskLimits { sectors: 9000, ..LIMITS };
    world.about(|device| ToDomain::BlockResized { device, limits }, "xvda");
    assert_eq!(world.guest.events(), [(format!("{path}/state"), "s".into())]);
    assert_eq!(world.back(XVDA, "sectors").as_deref(), Ok("9000"));
}

#[test]
fn an_offer_is_answered_again_until_something_comes_of_it() {
    let mut world = World::new();
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])), "once, and to the last question");
    assert_eq!(world.offer_disk("xvda", NATIVE), world.answer(ring(&[8])));
    world.ready("xvda");
    let again = world.ready("xvda");
    assert_eq!(again, world.answer(FromDomain::Done));
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("4"));
}

#[test]
fn a_detach_waits_for_the_driver() {
    let mut world = connected();
    assert_eq!(world.release("xvda"), []);
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("5"));
    assert_eq!(world.back(XVDA, "online").as_deref(), Ok("0"));
    assert_eq!(world.switch(XVDA, 5), [], "it is mounted");
    assert_eq!(world.ports.tied.len(), 1);
    assert_eq!(world.switch(XVDA, 6), world.answer(FromDomain::Done));
    assert_eq!((world.back_state(XVDA).as_deref(), world.ports.tied.len()), (Ok("6"), 0));
    let gone = world.gone("xvda");
    assert_eq!(gone, world.answer(FromDomain::Done));
    assert!(world.guest.read(&format!("{XVDA}/state")).is_err());
    assert!(world.guest.store.read("/local/domain/2/backend/vbd/256/51712").is_none());
    assert!(refused(&world.gone("xvda")).unwrap().contains("no device xvda"));
    // There is room for the next one.
    assert_eq!(world.offer_disk("xvda", Port(41)), []);
    assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
}

#[test]
fn a_disk_that_no_driver_took_is_let_go_at_once() {
    let mut world = World::new();
    world.offer_disk("xvda", NATIVE);
    let words = world.release("xvda");
    assert_eq!(words, world.answer(FromDomain::Done));
}

/// The driver is unloaded, and loaded again.
#[test]
fn a_driver_that_lets_go_by_itself_can_come_back() {
    let mut world = connected();
    assert_eq!(world.switch(XVDA, 5), []);
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("5"));
    assert_eq!(world.switch(XVDA, 6), closed("xvda"));
    assert_eq!((world.back_state(XVDA).as_deref(), world.ports.tied.len()), (Ok("6"), 0));
    assert_eq!(world.switch(XVDA, 6), [], "said once");
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("6"), "nobody is there");
    assert_eq!(world.switch(XVDA, 1), []);
    assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
    world.ready("xvda");
    assert_eq!(world.back_state(XVDA).as_deref(), Ok("4"));
}

/// The kernel crashed and another one was started in its place, which resets what it finds connected.
#[test]
fn a_kernel_that_takes_over_begins_anew() {
    for wait in [true, false] {
        let mut world = connected();
        let mut words = Vec::new();
        for state in if wait { [5, 6, 1].as_slice() } else { &[1] } {
            words.extend(world.switch(XVDA, *state));
        }
        assert_eq!(words, closed("xvda"));
        world.offer_disk("xvda", NATIVE);
        assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
    }
}

#[test]
fn what_is_offered_anew_replaces_the_former_one() {
    let mut world = connected();
    assert_eq!(world.offer_disk("xvda", Port(77)), []);
    assert_eq!((world.ports.tied.len(), world.guest.read(&format!("{XVDA}/state")).as_deref()), (0, Ok("1")));
    assert_eq!(world.probe_disk(XVDA), world.answer(ring(&[8])));
    assert_eq!(world.ports.tied.values().collect::<Vec<_>>(), [&Port(77)]);
}

#[test]
fn many_disks_connect_in_any_order() {
    let mut world = World::new();
    let names: Vec<String> = ('a'..='t').map(|letter| format!("xvd{letter}")).collect();
    for (index, name) in names.iter().enumerate() {
        world.offer_disk(name, Port(40 + index as u32));
    }
    let found = world.guest.list("device/vbd").unwrap();
    assert_eq!(found.len(), names.len());
    for (index, number) in found.iter().enumerate().rev() {
        let words = world.probe_disk(&format!("device/vbd/{number}"));
        assert!(matches!(words.as_slice(), [Word::Answer(_, FromDomain::BlockRing { .. })]), "{index}: {words:?}");
    }
    let tied: BTreeSet<u32> = world.ports.tied.values().map(|port| port.0).collect();
    assert_eq!(tied.len(), names.len());
}

#[test]
fn names_that_linux_does_not_know_are_refused() {
    let mut world = World::new();
    assert!(refused(&world.offer_disk("disk0", NATIVE)).unwrap().contains("disk0"));
    assert_eq!(world.offer_disk("xvda", NATIVE), []);
    let same = ToDomain::NetworkOffer { device: "xvda".try_into().unwrap(), peer: 3, port: NATIVE, mac: MAC };
    let words = world.ask(same);
    assert!(refused(&words).unwrap().contains("xvda"));
}
