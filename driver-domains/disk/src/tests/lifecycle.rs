//! Attach, detach, resize, a device that hangs, and what a batch costs.

use std::rc::Rc;

use protocol::connection::Guilty;
use protocol::control::{FromDomain, ToDomain};
use protocol::heartbeat;
use protocol::ring::block::{Body, Request, Segment, Segments, operation};

use super::frontend::{Domain, Frontend, start};
use super::world::{Dice, World};
use crate::service::TIMEOUT_NS;

fn one() -> (Rc<World>, Domain, Frontend) {
    let world = World::new(200);
    let mut domain = start(&world);
    let frontend = Frontend::new(&world, 0, 1);
    assert!(matches!(frontend.attach(&mut domain), Some(FromDomain::BlockAttached { replayed: 0, .. })));
    (world, domain, frontend)
}

fn ask(frontend: &mut Frontend, domain: &mut Domain, count: usize) {
    let mut dice = Dice(4);
    (0..count).for_each(|_| frontend.ask(&mut dice));
    frontend.publish();
    while domain.turn() {}
}

#[test]
fn a_detach_waits_for_the_device_and_forgets() {
    let (world, mut domain, mut frontend) = one();
    ask(&mut frontend, &mut domain, 6);
    assert_eq!(domain.obey(ToDomain::Detach { connection: 0 }, 77), None);
    while domain.turn() {}
    assert!(!domain.has_mail(), "the device is not done");
    while domain.turn() || world.work(&mut Dice(1)) {}
    assert_eq!(domain.mail(), Some((Some(77), FromDomain::Done)));
    assert!(world.mapped.borrow().is_empty());
    assert_eq!(domain.obey(ToDomain::Detach { connection: 0 }, 78), Some(FromDomain::Done), "again");
    assert_eq!(domain.obey(ToDomain::Detach { connection: 999 }, 78), Some(FromDomain::Done), "never there");
    drop(domain);
    let fresh = Frontend::new(&world, 0, 1);
    let answer = fresh.attach(&mut start(&world));
    assert!(matches!(answer, Some(FromDomain::BlockAttached { replayed: 0, .. })), "{answer:?}");
}

#[test]
fn a_dead_domain_that_is_told_to_detach_forgets_the_record() {
    let (world, mut domain, mut frontend) = one();
    ask(&mut frontend, &mut domain, 6);
    drop(domain);
    world.bury(&mut Dice(1));
    let mut domain = start(&world);
    assert_eq!(domain.obey(ToDomain::Detach { connection: 0 }, 1), Some(FromDomain::Done));
    let fresh = Frontend::new(&world, 0, 1);
    assert!(matches!(fresh.attach(&mut domain), Some(FromDomain::BlockAttached { replayed: 0, .. })));
}

#[test]
fn another_incarnation_waits_for_the_device_and_starts_afresh() {
    let (world, mut domain, mut frontend) = one();
    ask(&mut frontend, &mut domain, 6);
    let mut again = Frontend::new(&world, 0, 1);
    again.attach.frontend.incarnation = 2;
    assert_eq!(domain.obey(ToDomain::BlockAttach(again.attach.clone()), 5), None);
    while domain.turn() || world.work(&mut Dice(1)) {}
    let answer = domain.mail();
    assert!(matches!(answer, Some((Some(5), FromDomain::BlockAttached { replayed: 0, .. }))), "{answer:?}");
    world.sectors.borrow_mut().fill([0; 512]);
    ask(&mut again, &mut domain, 6);
    while domain.turn() || world.work(&mut Dice(1)) {}
    again.listen().unwrap();
    assert_eq!(again.open(), 0);
}

#[test]
fn attaching_twice_changes_nothing_and_what_is_not_there_is_refused() {
    let (world, mut domain, mut frontend) = one();
    ask(&mut frontend, &mut domain, 6);
    assert!(matches!(frontend.attach(&mut domain), Some(FromDomain::BlockAttached { replayed: 0, .. })));
    while domain.turn() || world.work(&mut Dice(1)) {}
    frontend.listen().unwrap();
    assert_eq!(frontend.open(), 0);
    let mut other = Frontend::new(&world, 1, 1);
    other.attach.target = "virtio7".try_into().unwrap();
    assert!(matches!(other.attach(&mut domain), Some(FromDomain::Failed { .. })));
    other.attach.target = "virtio0".try_into().unwrap();
    other.attach.frontend.connection = 3;
    assert!(matches!(other.attach(&mut domain), Some(FromDomain::Failed { .. })), "there are three places");
    for pages in [0, 3] {
        other.attach.frontend.connection = 1;
        other.attach.ring = (0..pages).map(|_| 1).collect();
        assert_eq!(other.is_refused(&mut domain), (1, Guilty::Frontend));
        domain.obey(ToDomain::Detach { connection: 1 }, 0);
    }
}

#[test]
fn a_record_of_another_disk_or_promise_is_refused() {
    let (world, domain, mut frontend) = one();
    drop(domain);
    let mut domain = start(&world);
    frontend.attach.target = "virtio0p1".try_into().unwrap();
    assert_eq!(frontend.is_refused(&mut domain), (0, Guilty::Backend));
    drop(domain);
    world.properties.set(crate::disk::Properties { discard: false, ..world.properties.get() });
    let mut domain = start(&world);
    frontend.attach.target = "virtio0".try_into().unwrap();
    assert_eq!(frontend.is_refused(&mut domain), (0, Guilty::Backend));
}

#[test]
fn a_resize_is_told_and_holds() {
    let (world, mut domain, frontend) = one();
    let mut part = Frontend::new(&world, 1, 1);
    part.attach.target = "virtio0p1".try_into().unwrap();
    part.attach(&mut domain);
    world.sectors.borrow_mut().resize(300, [0; 512]);
    world.properties.set(crate::disk::Properties { sectors: 300, ..world.properties.get() });
    world.now.set(world.now.get() + 1_000_000_000);
    domain.turn();
    let Some((None, FromDomain::DiskResized { connection: 0, limits })) = domain.mail() else { panic!() };
    assert_eq!(limits.sectors, 300);
    assert_eq!(domain.mail(), None, "a partition stays as it is");
    let Some(FromDomain::BlockAttached { limits, .. }) = frontend.attach(&mut domain) else { panic!() };
    assert_eq!(limits.sectors, 300);
    let names: std::vec::Vec<_> = (0..3)
        .map(|index| match domain.obey(ToDomain::DiskAt { index }, 0) {
            Some(FromDomain::Disk(info)) => info.map(|info| (info.limits.sectors, info.users)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [Some((300, 1)), Some((50, 1)), None]);
}

#[test]
fn a_device_that_hangs_is_reset_and_its_requests_are_executed_again() {
    let (world, mut domain, mut frontend) = one();
    world.stuck.set(true);
    ask(&mut frontend, &mut domain, 12);
    let given = world.now.get();
    world.now.set(given + TIMEOUT_NS / 4);
    domain.turn();
    assert_eq!(world.heartbeat.borrow()[&heartbeat::OLDEST], given);
    assert_eq!((world.resets.get(), world.heartbeat.borrow()[&heartbeat::TIMEOUT]), (0, TIMEOUT_NS));
    world.now.set(given + TIMEOUT_NS / 2);
    while domain.turn() {}
    assert_eq!(world.resets.get(), 1);
    world.now.set(given + TIMEOUT_NS / 2 + 200_000_000);
    domain.turn();
    assert_eq!(world.heartbeat.borrow()[&heartbeat::OLDEST], given, "its debt is as old as it was");
    while domain.turn() || world.work(&mut Dice(1)) {}
    frontend.listen().unwrap();
    assert_eq!(frontend.open(), 0);
    frontend.check_disk().unwrap();
    world.now.set(given + TIMEOUT_NS);
    domain.turn();
    assert_eq!((world.resets.get(), world.heartbeat.borrow()[&heartbeat::OLDEST]), (1, 0));
}

#[test]
fn the_heart_beats_with_every_turn_and_the_first_answer_is_noted() {
    let (world, mut domain, mut frontend) = one();
    domain.turn();
    let beats = world.heartbeat.borrow()[&heartbeat::BEATS];
    domain.turn();
    assert_eq!(world.heartbeat.borrow()[&heartbeat::BEATS], beats + 1);
    assert!(!world.heartbeat.borrow().contains_key(&heartbeat::FIRST_SERVED));
    world.now.set(777);
    ask(&mut frontend, &mut domain, 1);
    while domain.turn() || world.work(&mut Dice(1)) {}
    assert_eq!(world.heartbeat.borrow()[&heartbeat::FIRST_SERVED], 777);
}

#[test]
fn a_batch_takes_two_grant_calls_and_nobody_who_is_awake_is_notified() {
    let (world, mut domain, mut frontend) = one();
    world.grant(frontend.who.peer, 50, true);
    let read = |id| {
        let list = [Segment { reference: 50, first: 0, last: 0 }].into_iter().collect();
        let body = Body::Transfer { write: false, sector: id, segments: Segments::Direct(list) };
        Request { id, echo: operation::READ, body }
    };
    while domain.turn() {}
    for _ in 0..20 {
        let before = world.grant_calls.get();
        (0..5).for_each(|id| assert!(frontend.send(&read(id))));
        assert!(frontend.publish(), "the domain sleeps");
        (5..10).for_each(|id| assert!(frontend.send(&read(id))));
        assert!(!frontend.publish(), "it was told already");
        while domain.turn() {}
        while world.work(&mut Dice(6)) {}
        while domain.turn() {}
        assert_eq!(world.grant_calls.get() - before, 2);
        assert_eq!((0..10).filter(|_| frontend.take().is_some()).count(), 10);
    }
    // The frontend slept only at the beginning; it never asked to be notified again.
    assert_eq!(world.notified.borrow().values().sum::<u64>(), 1);
}

#[test]
fn pages_that_come_again_are_mapped_once_and_let_go_with_the_connection() {
    let world = World::new(200);
    let (mut dice, mut frontend) = (Dice(5), Frontend::new(&world, 0, 1));
    frontend.attach.persistent = true;
    let mut domain = start(&world);
    frontend.attach(&mut domain);
    let mut round = |world: &World, domain: &mut Domain| {
        (0..4).for_each(|_| frontend.ask(&mut dice));
        let _ = frontend.publish();
        for _ in 0..20 {
            domain.turn();
            while world.work(&mut dice) {}
        }
        frontend.listen().unwrap();
    };
    // More pages than these are never under way, so all of them are known at some time.
    (0..40).for_each(|_| round(&world, &mut domain));
    let kept = world.mapped.borrow().len();
    assert!(kept > 0 && kept <= crate::kept::KEPT_MAX, "{kept}");
    let last = *world.mapped.borrow().keys().max().unwrap();
    (0..40).for_each(|_| round(&world, &mut domain));
    assert_eq!(*world.mapped.borrow().keys().max().unwrap(), last, "nothing new is mapped");
    domain.obey(ToDomain::Detach { connection: 0 }, 1);
    for _ in 0..3 {
        domain.turn();
    }
    assert!(world.mapped.borrow().is_empty());
}
