//! Driver domains that serve guests, and end: watched, restarted, left alone, upgraded, killed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::plane::Phase;
use protocol::connection::State;
use protocol::control::{FromDomain, ToDomain};
use protocol::heartbeat;
use sim::image;
use sim::stack::Stack;

#[test]
fn a_silent_backend_is_restarted_with_that_reason_and_a_paused_one_is_not_judged() {
    let image = image();
    let mut stack = Stack::full(&image);
    let disk = stack.plane.find("disk").unwrap();
    stack.beat("disk", &[(heartbeat::PERIOD, 500_000_000), (heartbeat::BEATS, 1)]);
    stack.sim.say("web", 0, FromDomain::Done);
    stack.sim.advance(200_000_000);
    stack.poll();
    stack.plane.pause(disk).unwrap();
    for _ in 0..20 {
        stack.sim.advance(100_000_000);
        stack.poll();
    }
    stack.plane.unpause(disk).unwrap();
    for beat in 2..20 {
        stack.beat("disk", &[(heartbeat::BEATS, beat)]);
        stack.sim.advance(400_000_000);
        stack.poll();
    }
    assert_eq!(stack.plane.domain(disk).unwrap().restarts, 0);
    stack.sim.advance(600_000_000);
    stack.poll();
    assert_eq!(stack.plane.domain(disk).unwrap().restarts, 1);
    let end = stack.plane.domain(disk).unwrap().last_end.clone().unwrap();
    assert!(end.starts_with("gave no sign of life for "), "{end}");
}

#[test]
fn a_backend_that_never_gets_ready_is_tried_again_then_left_alone() {
    let image = image();
    let mut stack = Stack::full(&image);
    let disk = stack.plane.find("disk").unwrap();
    stack.die("disk");
    for _ in 0..40 {
        stack.sim.advance(5_000_000_000);
        stack.poll();
    }
    assert!(stack.plane.domain(disk).unwrap().restarts > 3);
    assert_eq!(stack.state("web", "xvda"), Some(State::Waiting { known: true }));
    stack.start("disk");
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
}

#[test]
fn a_backend_in_quarantine_holds_nobody() {
    let image = image();
    let mut stack = Stack::full(&image);
    let disk = stack.plane.find("disk").unwrap();
    for _ in 0..20 {
        stack.die("disk");
        stack.sim.advance(2_000_000_000);
        stack.poll();
    }
    assert_eq!(stack.plane.domain(disk).unwrap().phase, Phase::Quarantined);
    let key = stack.key("web", "xvda");
    stack.heard("web");
    stack.plane.detach(key, false);
    stack.settle();
    assert_eq!(stack.state("web", "xvda"), None);
    assert_eq!(stack.heard("web").pop(), Some(ToDomain::DeviceGone { device: "xvda".try_into().unwrap() }));
    stack.plane.restart(disk).unwrap();
    stack.heard("disk");
    stack.start("disk");
    stack.settle();
    assert_eq!(stack.heard("disk"), [ToDomain::Detach { connection: 0 }], "its record has to go, too");
}

#[test]
fn blackout_is_from_the_death_to_the_first_request_served() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.beat("disk", &[(heartbeat::PERIOD, u64::MAX / 2)]);
    stack.sim.by_name("disk", |guest| guest.death.time_ns = 5_000_000);
    stack.die("disk");
    stack.start("disk");
    stack.settle();
    stack.beat("disk", &[(heartbeat::FIRST_SERVED, 12_000_000), (heartbeat::PERIOD, u64::MAX / 2)]);
    stack.sim.advance(200_000_000);
    stack.poll();
    stack.sim.advance(200_000_000);
    stack.poll();
    let outage = stack.plane.domain(stack.plane.find("disk").unwrap()).unwrap().outage.unwrap();
    assert_eq!(outage.blackout_ns(u64::MAX / 4), Some(7_000_000));
}

#[test]
fn an_upgrade_stays_if_it_serves_everything_and_goes_back_if_not() {
    let image = image();
    let mut stack = Stack::full(&image);
    let disk = stack.plane.find("disk").unwrap();
    let running = |stack: &Stack<'_>| match &stack.plane.domain(disk).unwrap().config.guest {
        dom0::config::Guest::Native { image } => image.clone(),
        other => panic!("{other:?}"),
    };
    assert!(stack.plane.upgrade(disk, "nosuch").unwrap_err().contains("no image nosuch"));
    stack.plane.upgrade(disk, "disk2").unwrap();
    assert_eq!(stack.plane.take_upgraded(disk), None);
    stack.start("disk");
    stack.settle();
    assert_eq!((stack.plane.take_upgraded(disk), running(&stack)), (Some(Ok(())), "disk2".into()));
    // It dies.
    stack.plane.upgrade(disk, "hello").unwrap();
    stack.die("disk");
    assert!(stack.plane.take_upgraded(disk).unwrap().unwrap_err().contains("goes on with disk2"));
    stack.start("disk");
    stack.settle();
    assert_eq!((stack.state("web", "xvda"), running(&stack)), (Some(State::Serving), "disk2".into()));
    // It does not take a connection.
    stack.plane.upgrade(disk, "hello").unwrap();
    stack.mute.push("disk");
    stack.start("disk");
    stack.settle();
    let attach = stack.sim.heard("disk").pop().unwrap();
    stack.sim.say("disk", attach.id, FromDomain::Failed { reason: "no indirect requests".try_into().unwrap() });
    stack.poll();
    assert!(stack.plane.take_upgraded(disk).unwrap().unwrap_err().contains("no indirect requests"));
    stack.mute.pop();
    stack.start("disk");
    stack.settle();
    assert_eq!((stack.state("web", "xvda"), running(&stack)), (Some(State::Serving), "disk2".into()));
    // It says nothing.
    stack.plane.upgrade(disk, "hello").unwrap();
    stack.sim.advance(11_000_000_000);
    stack.poll();
    assert!(stack.plane.take_upgraded(disk).unwrap().is_err());
    assert_eq!(running(&stack), "disk2");
}

#[test]
fn a_kill_is_a_death() {
    let image = image();
    let mut stack = Stack::full(&image);
    let disk = stack.plane.find("disk").unwrap();
    stack.plane.kill(disk).unwrap();
    stack.start("disk");
    stack.settle();
    let domain = stack.plane.domain(disk).unwrap();
    assert_eq!((domain.restarts, domain.last_end.as_deref()), (1, Some("was killed by the operator")));
    assert_eq!(stack.state("web", "xvda"), Some(State::Serving));
    assert!(stack.plane.kill(0).is_err());
}
