//! Frontends that do what they like: only they feel it.

use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::connection::Guilty;
use protocol::control::FromDomain;
use protocol::ring::Shared;
use protocol::ring::block::{Body, REQUEST_SIZE, Request, Segment, Segments, Status, operation};
use protocol::ring::sring;

use super::frontend::{Domain, Frontend, start};
use super::world::{Dice, World};

/// A domain with an honest frontend at connection 0 and one to be used at 1.
fn pair() -> (Rc<World>, Domain, Frontend, Frontend) {
    let world = World::new(200);
    let mut domain = start(&world);
    let (honest, other) = (Frontend::new(&world, 0, 1), Frontend::new(&world, 1, 1));
    for frontend in [&honest, &other] {
        assert!(matches!(frontend.attach(&mut domain), Some(FromDomain::BlockAttached { .. })));
    }
    (world, domain, honest, other)
}

/// Lets the domain and the disk work until neither has anything to do.
fn settle(world: &World, domain: &mut Domain, dice: &mut Dice) {
    while domain.turn() || world.work(dice) {}
}

/// The honest frontend is served as if it were alone.
fn served(world: &World, domain: &mut Domain, honest: &mut Frontend) {
    let (mut dice, before) = (Dice(5), honest.answered);
    // The other frontend may have written to the same disk.
    honest.write_all();
    (0..20).for_each(|_| honest.ask(&mut dice));
    honest.publish();
    settle(world, domain, &mut dice);
    honest.listen().unwrap();
    assert_eq!((honest.open(), honest.answered), (0, before + 20));
}

/// Who broke which connection, if somebody did.
fn broken(domain: &mut Domain) -> Option<(u16, Guilty, String)> {
    match domain.mail()?.1 {
        FromDomain::ConnectionBroken { connection, guilty, reason } => {
            Some((connection, guilty, String::from(reason.as_str())))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn r1_an_index_that_jumps_closes_that_connection_only() {
    for wrong in [33, 1 << 31, u32::MAX] {
        let (world, mut domain, mut honest, other) = pair();
        other.page.store_u32(sring::REQUEST_PRODUCER, wrong);
        settle(&world, &mut domain, &mut Dice(1));
        let (connection, guilty, reason) = broken(&mut domain).unwrap();
        assert_eq!((connection, guilty), (1, Guilty::Frontend));
        assert!(reason.contains(&std::format!("{wrong}")), "{reason}");
        assert_eq!(broken(&mut domain), None, "said once");
        served(&world, &mut domain, &mut honest);
        assert!(matches!(other.attach(&mut domain), Some(FromDomain::Failed { .. })), "it stays closed");
        assert!(world.mapped.borrow().is_empty());
    }
}

#[test]
fn r1_an_index_that_jumps_while_requests_are_with_the_device() {
    let (world, mut domain, mut honest, mut other) = pair();
    let mut dice = Dice(2);
    (0..10).for_each(|_| other.ask(&mut dice));
    other.publish();
    while domain.turn() {}
    assert!(!world.submitted.borrow().is_empty());
    other.page.store_u32(sring::REQUEST_PRODUCER, 999);
    settle(&world, &mut domain, &mut dice);
    assert_eq!(broken(&mut domain).map(|(connection, ..)| connection), Some(1));
    assert!(world.mapped.borrow().is_empty(), "nothing of it is mapped any more");
    served(&world, &mut domain, &mut honest);
}

#[test]
fn r2_a_response_producer_that_the_frontend_wrote_is_not_believed_at_attach() {
    let (world, mut domain, mut honest, other) = pair();
    drop(domain);
    other.page.store_u32(sring::RESPONSE_PRODUCER, 7);
    domain = start(&world);
    honest.attach(&mut domain);
    assert_eq!(other.is_refused(&mut domain), (1, Guilty::Frontend));
    served(&world, &mut domain, &mut honest);
}

#[test]
fn a_damaged_record_is_the_drivers_fault_and_is_not_replayed() {
    let (world, mut domain, mut honest, mut other) = pair();
    let mut dice = Dice(3);
    (0..5).for_each(|_| other.ask(&mut dice));
    other.publish();
    domain.turn();
    drop(domain);
    world.bury(&mut dice);
    let before = world.sectors.borrow().clone();
    let mut byte = [0];
    world.record(1).read(160, &mut byte);
    world.record(1).write(160, &[byte[0] ^ 1]);
    domain = start(&world);
    honest.attach(&mut domain);
    assert_eq!(other.is_refused(&mut domain), (1, Guilty::Backend));
    settle(&world, &mut domain, &mut dice);
    assert_eq!(*world.sectors.borrow(), before);
    served(&world, &mut domain, &mut honest);
}

/// A transfer of the first sector of each of these pages.
fn transfer(write: bool, sector: u64, references: &[u32]) -> Request {
    let list = references.iter().map(|&reference| Segment { reference, first: 0, last: 0 }).collect();
    let echo = if write { operation::WRITE } else { operation::READ };
    Request { id: 1, echo, body: Body::Transfer { write, sector, segments: Segments::Direct(list) } }
}

/// Sends one request and gives the status of its answer.
fn ask(world: &World, domain: &mut Domain, frontend: &mut Frontend, request: &[u8; REQUEST_SIZE]) -> i16 {
    assert!(frontend.front.write(&frontend.page, request));
    frontend.publish();
    settle(world, domain, &mut Dice(9));
    let (_, _, status) = frontend.take().expect("an answer");
    assert_eq!(frontend.take(), None);
    assert_eq!(broken(domain), None);
    assert!(world.mapped.borrow().is_empty());
    status
}

#[test]
fn r4_r5_r13_nonsense_gets_an_error_and_the_connection_stays() {
    let (world, mut domain, mut honest, mut other) = pair();
    world.grant(other.who.peer, 50, true);
    world.grant(other.who.peer, 51, false);
    let error = Status::Error as i16;
    let indirect = |count, page| Request {
        id: 1,
        echo: operation::READ,
        body: Body::Transfer { write: false, sector: 0, segments: Segments::Indirect { count, pages: [page; 8] } },
    };
    let discard =
        |sector, sectors| Request { id: 1, echo: operation::DISCARD, body: Body::Discard { sector, sectors } };
    for (what, request) in [
        ("no such grant", transfer(true, 0, &[77])),
        ("one of several grants is missing", transfer(true, 0, &[50, 77, 50])),
        ("reading into a page that may only be read", transfer(false, 0, &[51])),
        ("beyond the end", transfer(true, 200, &[50])),
        ("across the end", transfer(true, 199, &[50, 50])),
        ("sector wraps", transfer(true, u64::MAX, &[50, 50])),
        ("descriptors that are not granted", indirect(3, 78)),
        ("descriptors that are all zero name grant 0", indirect(3, 50)),
        ("more descriptors than offered", indirect(33, 50)),
        ("no descriptors", indirect(0, 50)),
        ("discard beyond the end", discard(199, 2)),
        ("discard that wraps", discard(2, u64::MAX)),
    ] {
        assert_eq!(ask(&world, &mut domain, &mut other, &request.encode()), error, "{what}");
    }
    let mut raw = transfer(true, 0, &[50]).encode();
    for code in [operation::WRITE_BARRIER, 4, 7, 255] {
        raw[0] = code;
        assert_eq!(ask(&world, &mut domain, &mut other, &raw), Status::NotSupported as i16);
    }
    assert_eq!(ask(&world, &mut domain, &mut other, &transfer(true, 199, &[50]).encode()), 0);
    served(&world, &mut domain, &mut honest);
}

#[test]
fn r13_transfers_are_confined_to_the_partition() {
    let world = World::new(200);
    let mut domain = start(&world);
    let mut frontend = Frontend::new(&world, 0, 1);
    frontend.attach.target = "virtio0p1".try_into().unwrap();
    frontend.attach(&mut domain);
    world.grant(frontend.who.peer, 50, true).write(0, &[7; 512]);
    assert_eq!(ask(&world, &mut domain, &mut frontend, &transfer(true, 49, &[50]).encode()), 0);
    assert_eq!(ask(&world, &mut domain, &mut frontend, &transfer(true, 0, &[50]).encode()), 0);
    for sector in [50, 51, u64::MAX - 99, u64::MAX - 100] {
        let status = ask(&world, &mut domain, &mut frontend, &transfer(true, sector, &[50]).encode());
        assert_eq!(status, Status::Error as i16, "sector {sector}");
    }
    let written: Vec<usize> = (0..200).filter(|&at| world.sectors.borrow()[at][0] == 7).collect();
    assert_eq!(written, [100, 149]);
}

#[test]
fn r13_a_read_only_connection_cannot_write() {
    let world = World::new(200);
    let mut domain = start(&world);
    let mut frontend = Frontend::new(&world, 0, 1);
    frontend.attach.read_only = true;
    let Some(FromDomain::BlockAttached { limits, .. }) = frontend.attach(&mut domain) else { panic!() };
    assert!(limits.read_only);
    world.grant(frontend.who.peer, 50, true);
    assert_eq!(ask(&world, &mut domain, &mut frontend, &transfer(true, 0, &[50]).encode()), Status::Error as i16);
    assert_eq!(ask(&world, &mut domain, &mut frontend, &transfer(false, 0, &[50]).encode()), 0);
}

#[test]
fn a_disk_with_large_sectors_is_used_in_whole_ones() {
    let world = World::new(200);
    world.properties.set(crate::disk::Properties { sector_size: 4096, ..world.properties.get() });
    let mut domain = start(&world);
    let mut frontend = Frontend::new(&world, 0, 1);
    frontend.attach(&mut domain);
    world.grant(frontend.who.peer, 50, true);
    let of = |sector, last| {
        let list = [Segment { reference: 50, first: 0, last }].into_iter().collect();
        Request {
            id: 1,
            echo: operation::READ,
            body: Body::Transfer { write: false, sector, segments: Segments::Direct(list) },
        }
    };
    for (sector, last, status) in [(8, 7, 0), (8, 3, -1), (4, 7, -1), (1, 0, -1)] {
        assert_eq!(ask(&world, &mut domain, &mut frontend, &of(sector, last).encode()), status, "{sector} {last}");
    }
}

#[test]
fn r12_a_frontend_that_floods_does_not_keep_another_waiting() {
    let (world, mut domain, mut honest, mut other) = pair();
    let mut dice = Dice(8);
    let mut turns = 0;
    honest.ask(&mut dice);
    honest.publish();
    while honest.open() > 0 {
        while other.front.room() > 0 {
            other.ask(&mut dice);
        }
        other.publish();
        domain.turn();
        (0..4).for_each(|_| {
            world.work(&mut dice);
        });
        honest.listen().unwrap();
        other.listen().unwrap();
        turns += 1;
        assert!(turns < 50);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// R3, R8: a ring full of anything, at any moment.
    #[test]
    fn whatever_a_frontend_writes_hits_nobody_else(writes in prop::collection::vec((0usize..4096, any::<u32>(), 0u32..40), 1..60)) {
        let (world, mut domain, mut honest, other) = pair();
        (1..9).for_each(|reference| drop(world.grant(other.who.peer, reference + 1, reference % 2 == 0)));
        for (at, value, producer) in writes {
            other.page.write(at.min(4092), &value.to_le_bytes());
            // Small numbers are more often right.
            other.page.write(64 + 112 * (at % 32), &[value as u8 % 8, value as u8 % 12]);
            other.page.store_u32(sring::REQUEST_PRODUCER, producer);
            domain.turn();
            world.work(&mut Dice(u64::from(value)));
        }
        settle(&world, &mut domain, &mut Dice(1));
        while let Some((connection, guilty, _)) = broken(&mut domain) {
            prop_assert_eq!((connection, guilty), (1, Guilty::Frontend));
        }
        prop_assert!(world.mapped.borrow().is_empty());
        served(&world, &mut domain, &mut honest);
    }
}
