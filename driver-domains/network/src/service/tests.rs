//! The whole domain against guests and a wire that keep to the rules, and against some that do not.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::testing::{ALL, Guest, World, frame, mac, number};
use proptest::prelude::*;
use protocol::connection::Guilty;
use protocol::event;
use protocol::ring::net::{TransmitRequest, flag};
use protocol::ring::sring;

const FAR: [u8; 6] = [6, 0, 0, 0, 0, 1];
const EVERYBODY: [u8; 6] = [0xff; 6];
const NONE: Offload = Offload { checksum: false, scatter_gather: false };

fn counts(world: &mut World, index: u16) -> BridgePort {
    match world.domain.obey(ToDomain::BridgePortAt { index }, ()) {
        Some(FromDomain::BridgePort(Some(port))) => port,
        other => panic!("{other:?}"),
    }
}

fn statistics(world: &mut World, connection: u16) -> Statistics {
    match world.domain.obey(ToDomain::Statistics { connection }, ()) {
        Some(FromDomain::Statistics(statistics)) => statistics,
        other => panic!("{other:?}"),
    }
}

fn numbers(guest: &mut Guest) -> Vec<u32> {
    guest.frames().iter().map(|(frame, _)| number(frame).expect("a frame that is whole")).collect()
}

#[test]
fn frames_arrive_whole_wherever_they_go() {
    let mut world = World::new(&[ALL; 3]);
    world.guests[1].post(200);
    world.guests[2].post(200);
    let cuts: [&[usize]; 6] = [&[10], &[14, 128, 130], &[], &[2000], &[4000], &[64, 4000, 8000]];
    for (at, (length, cuts)) in [60, 200, 1514, 4096, 5000, 9000].into_iter().zip(cuts).enumerate() {
        world.guests[0].send(&frame(mac(1), mac(0), at as u32, length), cuts, 0);
    }
    world.guests[0].send(&frame(FAR, mac(0), 90, 1514), &[700], 0);
    world.guests[0].send(&frame(EVERYBODY, mac(0), 91, 60), &[], 0);
    world.wire.arriving.borrow_mut().push_back((frame(mac(2), FAR, 92, 1514), Checksum::Unknown));
    world.settle();
    // The far station was unknown when it was asked for the first time, so everybody got that frame.
    assert_eq!(numbers(&mut world.guests[1]), [0, 1, 2, 3, 4, 5, 91]);
    assert_eq!(numbers(&mut world.guests[2]), [92, 91]);
    let sent: Vec<_> = world.wire.sent.borrow().iter().map(|frame| number(frame)).collect();
    assert_eq!(sent, [Some(90), Some(91)]);
    assert!(world.guests[0].open.is_empty() && world.guests[0].answers.iter().all(|&status| status == status::OKAY));
}

#[test]
fn a_batch_takes_two_hypercalls_and_nobody_awake_is_notified() {
    let mut world = World::new(&[ALL; 2]);
    world.guests[1].post(256);
    world.settle();
    let calls = world.board.calls.get();
    for at in 0..FRAMES_MAX {
        world.guests[0].send(&frame(mac(1), mac(0), at as u32, 1514), &[], 0);
    }
    world.settle();
    assert_eq!(world.board.calls.get() - calls, 2);
    assert_eq!(statistics(&mut world, 0).grant_calls, 2);
    assert_eq!(world.guests[1].frames().len(), FRAMES_MAX);
    // Both were asleep: the receiver was told of the first frame, the sender of the first answer. Neither went to sleep again.
    let notified = world.board.notified.borrow().len();
    world.guests[1].post(256);
    for at in 0..50 {
        world.guests[0].send(&frame(mac(1), mac(0), at, 300), &[], 0);
        world.settle();
    }
    assert_eq!(world.guests[1].frames().len(), 50);
    assert_eq!(world.board.notified.borrow().len(), notified);
}

#[test]
fn r11_a_header_that_changes_after_it_was_judged_arrives_as_it_was_judged() {
    let mut world = World::new(&[ALL; 2]);
    world.guests[1].post(8);
    let good = frame(mac(1), mac(0), 5, 1000);
    world.guests[0].send(&good, &[], 0);
    world.board.meddle.set(Some(world.guests[0].page(0)));
    world.settle();
    let frames = world.guests[1].frames();
    assert_eq!(frames[0].0[..HEADER], good[..HEADER]);
    assert!(frames[0].0[HEADER..].iter().all(|&byte| byte == 0xee), "the payload is the sender's own affair");
}

#[test]
fn r14_spoofed_runt_oversized_and_malformed_frames_are_refused_and_counted() {
    let mut world = World::new(&[NONE, NONE]);
    world.guests[1].post(200);
    let jumbo = frame(mac(1), mac(0), 1, 5000);
    for bad in [
        &frame(mac(1), mac(1), 1, 60)[..],
        &frame(mac(1), FAR, 1, 60),
        &frame(mac(1), EVERYBODY, 1, 60),
        &frame(mac(1), mac(0), 1, 60)[..13],
        &frame(FAR, mac(0), 1, 4000),
    ] {
        world.guests[0].send(bad, &[], 0);
    }
    world.guests[0].send(&jumbo, &[2500], 0);
    world.guests[0].send(&frame(mac(1), mac(0), 7, 60), &[], 0);
    world.settle();
    let answers = world.guests[0].answers.clone();
    // The frame of 4000 bytes fits the other guest, who gets it as somebody unknown is asked for.
    assert_eq!(answers, [-1, -1, -1, -1, 0, -1, -1, 0]);
    assert_eq!(counts(&mut world, 1).refused, 5);
    assert_eq!(numbers(&mut world.guests[1]), [1, 7]);
    assert!(world.wire.sent.borrow().is_empty());
}

#[test]
fn r5_slots_beyond_their_page_and_sizes_that_do_not_add_up_are_answered_as_errors() {
    let mut world = World::new(&[ALL; 2]);
    let slot = |id, offset, size, flags| TransmitRequest { reference: 1000, offset, flags, id, size };
    let more = flag::transmit::MORE_DATA;
    for bad in
        [slot(0, 4090, 60, 0), slot(1, 0, 0, 0), slot(2, 65535, 65535, 0), slot(3, 0, 60, more), slot(4, 0, 61, 0)]
    {
        world.guests[0].slot(bad);
    }
    world.settle();
    assert_eq!(world.guests[0].answers, [-1; 5]);
    assert_eq!(counts(&mut world, 1).refused, 4);
}

#[test]
fn g_a_bad_grant_is_its_owners_loss() {
    let mut world = World::new(&[ALL; 3]);
    (1..3).for_each(|guest| world.guests[guest].post(8));
    let good = frame(mac(1), mac(0), 3, 1000);
    world.guests[0].slot(TransmitRequest { reference: 77, offset: 0, flags: 0, id: 200, size: 100 });
    world.guests[0].send(&good, &[], 0);
    world.settle();
    assert_eq!(world.guests[0].answers, [-1, 0]);
    assert_eq!(numbers(&mut world.guests[1]), [3]);
}

#[test]
fn r1_a_ring_that_is_broken_closes_its_connection_and_no_other() {
    let mut world = World::new(&[ALL; 3]);
    world.guests[1].post(20);
    // Sender and receiver rings alike: of the one who sends nothing, a broken receive ring shows when it is sent to.
    world.guests[2].receive.0.store_u32(sring::REQUEST_PRODUCER, 5000);
    world.guests[0].send(&frame(mac(2), mac(0), 1, 60), &[], 0);
    world.settle();
    let broken = world.domain.mail().map(|(_, message)| message);
    let Some(FromDomain::ConnectionBroken { connection: 2, guilty: Guilty::Frontend, reason }) = broken else {
        panic!("{broken:?}");
    };
    assert!(reason.contains("5000"), "{reason}");
    world.guests[0].slot(TransmitRequest { flags: flag::transmit::MORE_DATA, id: 9, ..TransmitRequest::default() });
    world.guests[0].turn();
    world.guests[1].send(&frame(FAR, mac(1), 4, 60), &[], 0);
    world.settle();
    let broken = world.domain.mail().map(|(_, message)| message);
    assert!(
        matches!(broken, Some(FromDomain::ConnectionBroken { connection: 0, guilty: Guilty::Frontend, .. })),
        "{broken:?}"
    );
    assert_eq!(world.wire.sent.borrow().len(), 1, "the third is served");
    assert_eq!(world.domain.mail(), None);
}

#[test]
fn r12_a_guest_without_buffers_loses_frames_and_delays_nobody() {
    let mut world = World::new(&[ALL; 3]);
    world.guests[2].post(4);
    for at in 0..4 {
        world.guests[0].send(&frame(mac(1), mac(0), at, 60), &[], 0);
        world.guests[0].send(&frame(mac(2), mac(0), at, 60), &[], 0);
    }
    world.settle();
    assert_eq!(numbers(&mut world.guests[2]), [0, 1, 2, 3]);
    assert_eq!((counts(&mut world, 2).dropped, counts(&mut world, 3).dropped), (4, 0));
    assert!(world.guests[0].open.is_empty());
}

#[test]
fn who_sends_to_a_wire_that_is_full_waits_and_others_do_not() {
    let mut world = World::new(&[ALL; 3]);
    world.guests[2].post(50);
    world.wire.arriving.borrow_mut().push_back((frame(mac(0), FAR, 0, 60), Checksum::Unknown));
    world.wire.room.set(Some(3));
    for at in 0..10 {
        world.guests[0].send(&frame(FAR, mac(0), at, 60), &[], 0);
        world.guests[1].send(&frame(mac(2), mac(1), at, 60), &[], 0);
    }
    world.settle();
    assert_eq!((world.wire.sent.borrow().len(), world.guests[0].open.len()), (3, 7));
    assert_eq!(numbers(&mut world.guests[2]).len(), 10);
    assert!(!world.domain.turn(), "waiting for the device is no work");
    world.wire.room.set(None);
    world.settle();
    let sent: Vec<_> = world.wire.sent.borrow().iter().filter_map(|frame| number(frame)).collect();
    assert_eq!(sent, (0..10).collect::<Vec<_>>());
    assert!(world.guests[0].open.is_empty());
}

#[test]
fn a_wire_without_link_gets_nothing_and_holds_nobody_up() {
    let mut world = World::new(&[ALL]);
    world.wire.down.set(true);
    world.guests[0].send(&frame(FAR, mac(0), 1, 60), &[], 0);
    world.settle();
    assert!(world.guests[0].open.is_empty() && world.wire.sent.borrow().is_empty());
    assert_eq!((counts(&mut world, 0).dropped, counts(&mut world, 0).up), (1, false));
}

#[test]
fn ports_take_turns() {
    let mut world = World::new(&[ALL; 3]);
    world.guests[2].post(250);
    for at in 0..150 {
        world.guests[0].send(&frame(mac(2), mac(0), at, 60), &[], 0);
    }
    world.guests[1].send(&frame(mac(2), mac(1), 1000, 60), &[], 0);
    world.settle();
    let order = numbers(&mut world.guests[2]);
    let place = order.iter().position(|&number| number == 1000).unwrap();
    assert!(place <= FRAMES_MAX, "after {place} frames of another");
    assert_eq!(order.len(), 151);
}

#[test]
fn two_guests_cannot_have_one_address() {
    let mut world = World::new(&[ALL]);
    let mut twin = Guest::new(&world.board, 1, ALL);
    twin.mac = mac(0);
    assert!(matches!(world.domain.obey(twin.attach(), ()), Some(FromDomain::Failed { .. })));
}

/// A UDP datagram without checksum.
fn datagram(to: [u8; 6]) -> Vec<u8> {
    let mut frame = [to, mac(0)].concat();
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    frame.extend_from_slice(&[0x04, 0xd2, 0, 53, 0, 11, 0, 0, b'a', b'b', b'c']);
    frame.resize(60, 0);
    frame
}

#[test]
fn a_blank_checksum_is_filled_in_for_who_wants_it() {
    let mut world = World::new(&[ALL, ALL, NONE]);
    (1..3).for_each(|guest| world.guests[guest].post(8));
    let blank = flag::transmit::CHECKSUM_BLANK | flag::transmit::DATA_VALIDATED;
    world.guests[0].send(&datagram(EVERYBODY), &[], blank);
    world.settle();
    let (left, filled) = (world.guests[1].frames(), world.guests[2].frames());
    assert_eq!(left, [(datagram(EVERYBODY), flag::receive::CHECKSUM_BLANK | flag::receive::DATA_VALIDATED)]);
    assert_eq!(filled[0].1, flag::receive::DATA_VALIDATED);
    let mut expected = datagram(EVERYBODY);
    expected[40..42].copy_from_slice(&0x1e5eu16.to_be_bytes());
    assert_eq!(filled[0].0, expected);
    assert_eq!(*world.wire.sent.borrow(), [expected]);
}

#[test]
fn a_frame_without_checksum_that_is_said_to_be_blank_goes_as_it_is() {
    let mut world = World::new(&[ALL, NONE]);
    world.guests[1].post(8);
    world.guests[0].send(&frame(EVERYBODY, mac(0), 3, 60), &[], flag::transmit::CHECKSUM_BLANK);
    world.settle();
    assert_eq!((numbers(&mut world.guests[1]), world.wire.sent.borrow().len()), (vec![3], 1));
}

#[test]
fn a_blank_checksum_from_the_wire_is_filled_in_for_who_wants_it() {
    let mut world = World::new(&[ALL, NONE]);
    (0..2).for_each(|guest| world.guests[guest].post(8));
    let mut blank = datagram(mac(1));
    blank[6..12].copy_from_slice(&FAR);
    world.wire.arriving.borrow_mut().push_back((blank, Checksum::Blank));
    world.settle();
    assert_eq!(world.guests[1].frames()[0].0[40..42], 0x1e5eu16.to_be_bytes());
}

#[test]
fn what_a_detached_guest_leaves_is_forgotten() {
    let mut world = World::new(&[ALL; 2]);
    assert_eq!(world.domain.obey(ToDomain::Detach { connection: 1 }, ()), None);
    world.settle();
    assert_eq!(world.domain.mail(), Some((Some(()), FromDomain::Done)));
    let mut heir = Guest::new(&world.board, 1, ALL);
    assert!(matches!(world.domain.obey(heir.attach(), ()), Some(FromDomain::NetworkAttached { .. })));
    heir.post(4);
    world.guests[0].send(&frame(mac(1), mac(0), 6, 60), &[], 0);
    world.settle();
    assert_eq!(numbers(&mut heir), [6]);
}

/// Sends from two guests to each other and to the wire, and from the wire; dies after `stores`, twice.
fn crash_at(stores: [u64; 2]) {
    let mut world = World::new(&[ALL; 2]);
    let (mut next, mut arrived, mut crashes) = (0, [Vec::new(), Vec::new()], stores.into_iter());
    world.board.fuse.set(crashes.next().unwrap());
    for round in 0..12 {
        for from in 0..2u16 {
            let to = [mac(1 - from), FAR, EVERYBODY][round % 3];
            let cuts: &[usize] = if round % 2 == 0 { &[40, 200] } else { &[] };
            world.guests[from as usize].send(&frame(to, mac(from), next, 400), cuts, 0);
            next += 1;
        }
        world.wire.arriving.borrow_mut().push_back((frame(mac(0), FAR, next, 700), Checksum::Unknown));
        next += 1;
        for (guest, arrived) in world.guests.iter_mut().zip(&mut arrived) {
            guest.post(12);
            guest.turn();
            arrived.extend(numbers(guest));
        }
        world.domain.turn();
        if world.board.fuse.get() == 0 {
            world.board.fuse.set(u64::MAX);
            let second = crashes.next();
            world.restart_at(second);
        }
    }
    world.restart();
    world.settle();
    for (guest, arrived) in world.guests.iter_mut().zip(&mut arrived) {
        arrived.extend(numbers(guest));
        assert!(guest.open.is_empty(), "no answer to {:?}", guest.open);
        let once: BTreeSet<_> = arrived.iter().collect();
        assert_eq!(once.len(), arrived.len(), "twice among {arrived:?}");
    }
    let sent: Vec<_> =
        world.wire.sent.borrow().iter().map(|frame| number(frame).expect("a frame that is whole")).collect();
    let once: BTreeSet<_> = sent.iter().collect();
    assert_eq!(once.len(), sent.len(), "twice among {sent:?}");
    // Few are lost: those of a batch or two for each crash.
    assert!(sent.len() >= 8, "{sent:?}");
}

#[test]
fn l1_a_crash_at_every_store_doubles_and_tears_nothing_and_leaves_nothing_unanswered() {
    for stores in 0..700 {
        crash_at([stores, u64::MAX]);
    }
    for stores in (0..700).step_by(41) {
        (0..60).for_each(|second| crash_at([stores, second * 29]));
    }
}

#[test]
fn each_kill_point_is_survived() {
    for point in [
        KillPoint::MidTake,
        KillPoint::MidBatch,
        KillPoint::AfterCompletion,
        KillPoint::MidAnswer,
        KillPoint::AfterPublish,
    ] {
        for after in 1..4 {
            let mut world = World::new(&[ALL; 2]);
            world.guests[1].post(100);
            assert_eq!(world.domain.obey(ToDomain::ArmKill { point, after }, ()), Some(FromDomain::Done));
            let mut arrived = Vec::new();
            for at in 0..30 {
                world.guests[0].send(&frame(mac(1), mac(0), at, 500), &[64], 0);
                world.settle();
                if world.board.fuse.get() == 0 {
                    world.restart();
                }
            }
            world.settle();
            arrived.extend(numbers(&mut world.guests[1]));
            assert!(
                arrived.len() >= 28 && arrived.is_sorted() && world.guests[0].open.is_empty(),
                "{point:?} {arrived:?}"
            );
        }
    }
}

#[test]
fn a_frontend_that_slept_through_a_restart_is_kicked_once() {
    let mut world = World::new(&[ALL; 1]);
    world.settle();
    world.board.notified.borrow_mut().clear();
    world.restart();
    world.settle();
    assert_eq!(*world.board.notified.borrow(), [event::Port(0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A frontend that writes anything anywhere in its rings, beside one that goes on.
    #[test]
    fn r_a_frontend_that_scribbles_harms_itself_only(
        scribbles in prop::collection::vec((any::<bool>(), 0usize..1024, any::<u32>()), 1..60),
        slots in prop::collection::vec(any::<[u8; 12]>(), 0..40),
    ) {
        let mut world = World::new(&[ALL; 3]);
        world.guests[2].post(100);
        for slot in slots {
            world.guests[0].slot(TransmitRequest::parse(&slot));
        }
        let (page, front) = &mut world.guests[0].transmit;
        let _ = front.publish(page);
        for (at, (transmit, word, value)) in scribbles.into_iter().enumerate() {
            let page = if transmit { &world.guests[0].transmit.0 } else { &world.guests[0].receive.0 };
            page.store_u32(word * 4, value);
            world.guests[1].send(&frame(mac(2), mac(1), at as u32, 100), &[], 0);
            world.guests[1].send(&frame(mac(0), mac(1), 1000, 100), &[], 0);
            for _ in 0..4 {
                world.guests[1].turn();
                world.domain.turn();
            }
            world.guests[1].turn();
            // What is for a guest whose connection is closed is for somebody unknown: everybody gets it.
            let meant = numbers(&mut world.guests[2]).into_iter().filter(|&number| number < 1000);
            prop_assert_eq!(meant.collect::<Vec<_>>(), [at as u32]);
            prop_assert!(world.guests[1].open.is_empty());
            world.guests[2].post(2);
        }
        while let Some((_, message)) = world.domain.mail() {
            let by_scribbler = matches!(message, FromDomain::ConnectionBroken { connection: 0, guilty: Guilty::Frontend, .. });
            prop_assert!(by_scribbler, "{:?}", message);
        }
    }
}
