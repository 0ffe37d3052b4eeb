//! Domains that end, restart, crash in a loop, talk nonsense; and the console domain that must always come back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use std::collections::BTreeMap;

use dom0::bundle::Bundle;
use dom0::plane::{Phase, Plane};
use proptest::prelude::*;
use protocol::arguments::{BootArguments, GivenInterrupt, GivenPorts, decode_arguments};
use protocol::control::{FromDomain, ToDomain};
use protocol::domain::Reason;
use protocol::event::{DOMAIN_EVENT_PORT, Port};
use protocol::handle::Rights;
use protocol::layout::{ARGUMENTS, IMAGE_END};
use protocol::ring::byte;
use sim::{Sim, image, image_with};

fn booted<'b>(image: &'b [u8], files: &[(&str, &'b [u8])]) -> (Sim, Plane<'b, Sim>) {
    let mut all = vec![("images/console", image), ("images/hello", image)];
    all.extend(files.iter().copied());
    let sim = Sim::new();
    let mut plane = Plane::new(sim.clone(), Bundle::of(&all));
    assert!(plane.boot(), "{:?}", sim.state.borrow().log);
    (sim, plane)
}

fn create(plane: &mut Plane<'_, Sim>, text: &str) -> u16 {
    plane.create("config/hello.toml", text, &[], false).unwrap().id
}

/// What is not zero in the image's part of a domain's memory, by address, and the pages that there are.
fn loaded(sim: &Sim, name: &str) -> (BTreeMap<u64, u8>, Vec<u64>) {
    sim.by_name(name, |guest| {
        let written = guest.memory.range(..IMAGE_END).flat_map(|(&at, bytes)| (at..).zip(bytes.iter().copied()));
        let bytes: BTreeMap<_, _> = written.collect();
        let pages = guest.pages.range(..IMAGE_END).map(|(&page, _)| page).collect();
        (bytes.into_iter().filter(|&(_, byte)| byte != 0).collect(), pages)
    })
}

#[test]
fn a_restart_keeps_the_code_and_loads_all_if_it_is_not_there() {
    const BASE: u64 = 0x40_0000;
    let (code, data) = ((BASE, 5, 5000, 0x4000), (BASE + 0x8000, 6, 100, 0x2000));
    let image = image_with(&[code, (BASE + 0x6000, 4, 4096, 0x1000), data], BASE);
    let (sim, mut plane) = booted(&image, &[("images/other", &image)]);
    let id = create(&mut plane, "on_crash = 'restart'");
    let first = loaded(&sim, "hello");
    assert_eq!(first.1.len(), 7);
    let resets = || sim.by_name("hello", |guest| std::mem::take(&mut guest.resets));
    let run = |plane: &mut Plane<'_, Sim>| {
        while plane.domain(id).unwrap().phase != Phase::Running {
            sim.sleep_until(plane.next_deadline());
            plane.poll();
        }
        assert_eq!(loaded(&sim, "hello"), first);
        sim.say("hello", 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
        plane.poll();
    };
    run(&mut plane);
    // It has given pages of its code back, or put something else where others belong.
    let break_it: [fn(&mut sim::Guest); 3] = [
        |guest| _ = guest.pages.remove(&BASE),
        |guest| _ = guest.pages.insert(BASE + 0x8000, 0),
        |guest| guest.memory.retain(|&address, _| address != BASE),
    ];
    for (broken, expected) in break_it.into_iter().zip([vec![true, false], vec![true, false], vec![true]]) {
        sim.by_name("hello", broken);
        end(&sim, &mut plane, "hello", Reason::Fault);
        run(&mut plane);
        assert_eq!(resets(), expected);
        // What the operator restarts is a fresh start.
        plane.restart(id).unwrap();
        assert_eq!(resets(), [false]);
        // So is what was not ready.
        end(&sim, &mut plane, "hello", Reason::Fault);
        run(&mut plane);
        assert_eq!(resets(), [false]);
    }
    // Another image, while the core is not through with a reset for the same one.
    sim.by_name("hello", |guest| guest.reset_slices = 10_000);
    end(&sim, &mut plane, "hello", Reason::Fault);
    assert!(matches!(plane.domain(id).unwrap().phase, Phase::Restarting(_)));
    plane.upgrade(id, "other").unwrap();
    run(&mut plane);
    assert_eq!(resets(), [false, false]);
}

#[test]
fn a_restart_with_its_code_gets_by_where_one_call_fails() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "on_crash = 'restart'");
    let go_on = |plane: &mut Plane<'_, Sim>| {
        while let Phase::Waiting(_) | Phase::Restarting(_) = plane.domain(id).unwrap().phase {
            sim.sleep_until(plane.next_deadline());
            plane.poll();
        }
        plane.domain(id).unwrap().phase
    };
    let (mut anew, mut refused) = (0, 0);
    for call in 0.. {
        plane.restart(id).unwrap();
        assert_eq!(go_on(&mut plane), Phase::Running);
        sim.say("hello", 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
        plane.poll();
        sim.by_name("hello", |guest| guest.resets.clear());
        sim.end("hello", Reason::Fault);
        plane.on_port(DOMAIN_EVENT_PORT);
        let fails = sim.calls.get() + call;
        sim.fail.set(Some((fails, protocol::error::Error::NoMemory)));
        plane.poll();
        let phase = go_on(&mut plane);
        sim.fail.set(None);
        match (phase, sim.by_name("hello", |guest| std::mem::take(&mut guest.resets)).as_slice()) {
            (Phase::Running, [true]) if sim.calls.get() <= fails => break,
            // What says that and how it died is not there, or how often it was restarted.
            (Phase::Running, [] | [true]) => {}
            (Phase::Running, [true, false]) => anew += 1,
            (Phase::Quarantined, []) => refused += 1,
            other => panic!("call {call}: {other:?}"),
        }
    }
    assert!(anew > 5 && refused == 1, "{anew} {refused}");
}

#[test]
fn a_restart_that_cannot_succeed_ends_though_the_code_was_kept() {
    let image = image();
    let kernel = [1; 5000];
    let (sim, mut plane) = booted(&image, &[("images/monitor", &image), ("boot/vmlinuz", &kernel)]);
    for (name, what) in [("native", "image = 'hello'"), ("linux", "kernel = 'boot/vmlinuz'\nmemory = 2")] {
        let text = format!("{what}\non_crash = 'restart'");
        let id = plane.create(&format!("config/{name}.toml"), &text, &[], false).unwrap().id;
        sim.say(name, 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
        plane.poll();
        sim.by_name(name, |guest| guest.info.memory_pages = guest.pages.range(..IMAGE_END).count() as u64);
        end(&sim, &mut plane, name, Reason::Fault);
        for _ in 0..20 {
            let soon = sim.state.borrow().now + SOON;
            sim.sleep_until(plane.next_deadline().min(soon));
            plane.poll();
        }
        let resets = sim.by_name(name, |guest| guest.resets.clone());
        assert_eq!((plane.domain(id).unwrap().phase, resets), (Phase::Quarantined, vec![true, false]), "{name}");
    }
}

/// As long as dom0 may rest, in ns.
const SOON: u64 = 100_000;

fn end(sim: &Sim, plane: &mut Plane<'_, Sim>, name: &str, reason: Reason) {
    sim.end(name, reason);
    plane.on_port(DOMAIN_EVENT_PORT);
    plane.poll();
}

fn notices(plane: &mut Plane<'_, Sim>) -> Vec<String> {
    std::iter::from_fn(|| plane.take_notice()).collect()
}

fn arguments(sim: &Sim, name: &str) -> BootArguments {
    sim.by_name(name, |guest| decode_arguments(&guest.memory[&ARGUMENTS]).unwrap())
}

/// The ports and the interrupt of the console domain.
fn terminal(sim: &Sim) -> (GivenPorts, GivenInterrupt) {
    let arguments = arguments(sim, "console");
    let (&[ports], &[interrupt]) = (&*arguments.ports, &*arguments.interrupts) else { panic!("{arguments:?}") };
    assert_eq!((ports.first, ports.count, interrupt.line), (0x3f8, 8, 4));
    (ports, interrupt)
}

fn messages(sim: &Sim, name: &str) -> Vec<ToDomain> {
    sim.heard(name).into_iter().map(|envelope| envelope.message).collect()
}

fn connect_message(peer: u16, port: Port, name: &str, shell: bool) -> ToDomain {
    ToDomain::ConsoleConnect { peer, port, name: name.try_into().unwrap(), shell }
}

#[test]
fn the_console_domain_gets_the_terminal_and_serves_everybody() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    assert_eq!(plane.domains()[0].name(), "console");
    terminal(&sim);
    sim.by_name("console", |guest| {
        assert_eq!(guest.given.len(), 2);
        assert!(guest.given.iter().all(|(_, rights)| *rights == Rights::USE));
        assert_eq!(guest.info.schedule.class, protocol::domain::CLASS_DRIVER);
    });
    assert!(plane.shell_port().is_some());
    let id = create(&mut plane, "");
    assert!(arguments(&sim, "hello").console.is_some());
    plane.destroy(id).unwrap();
    let said = messages(&sim, "console");
    assert_eq!(said[0], connect_message(0, Port(3), "dom0", true));
    assert_eq!(said[1], connect_message(id, Port(4), "hello", false));
    assert_eq!(said[2], ToDomain::ConsoleDisconnect { peer: id });
    assert!(plane.destroy(plane.domains()[0].id).unwrap_err().contains("restart console"));
}

#[test]
fn the_console_domain_comes_back_and_is_told_everything_again() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[("auto/hello.toml", b"")]);
    let (before, given) = (messages(&sim, "console"), terminal(&sim));
    end(&sim, &mut plane, "console", Reason::Fault);
    assert_eq!(messages(&sim, "console"), before);
    let lines = notices(&mut plane);
    assert!(lines[0].starts_with("console died on vCPU 0 of a"), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("console is restarted"), "{lines:?}");
    assert_eq!(terminal(&sim), given, "its handles survive");
}

#[test]
fn what_happens_at_the_end_is_what_the_configuration_says() {
    let image = image();
    let text = "on_poweroff = 'preserve'\non_reboot = 'destroy'\non_crash = 'restart'";
    let (sim, mut plane) = booted(&image, &[]);
    let free = sim.books();
    let id = create(&mut plane, text);
    end(&sim, &mut plane, "hello", Reason::Panic);
    assert_eq!(plane.domain(id).unwrap().restarts, 1);
    end(&sim, &mut plane, "hello", Reason::Shutdown);
    assert_eq!(plane.domain(id).unwrap().phase, Phase::Kept);
    plane.restart(id).unwrap();
    assert_eq!(plane.domain(id).unwrap().phase, Phase::Running);
    end(&sim, &mut plane, "hello", Reason::Reboot);
    assert!(plane.domain(id).is_none());
    assert_eq!(sim.books(), free);
    let log = sim.state.borrow().log.join("\n");
    assert!(
        log.contains("hello panicked") && log.contains("hello is kept") && log.contains("hello is destroyed"),
        "{log}"
    );
}

#[test]
fn a_crash_loop_backs_off_and_ends_in_quarantine() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "on_crash = 'restart'");
    let begin = sim.state.borrow().now;
    for _ in 0..8 {
        end(&sim, &mut plane, "hello", Reason::Fault);
        while let Phase::Waiting(at) = plane.domain(id).unwrap().phase {
            assert_eq!(plane.next_deadline(), at);
            let now = sim.state.borrow().now;
            sim.advance(at - now);
            plane.poll();
        }
        assert_eq!(plane.domain(id).unwrap().phase, Phase::Running);
    }
    assert!(sim.state.borrow().now - begin > 3_000_000_000, "waits grow");
    end(&sim, &mut plane, "hello", Reason::Fault);
    assert_eq!(plane.domain(id).unwrap().phase, Phase::Quarantined);
    assert_eq!(plane.next_deadline(), u64::MAX);
    assert!(notices(&mut plane).last().unwrap().contains("quarantine"));
    plane.restart(id).unwrap();
    assert_eq!(plane.domain(id).unwrap().phase, Phase::Running);
}

#[test]
fn the_operators_restart_is_a_fresh_start() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "on_crash = 'restart'");
    // Twice, for what counts is the past before it.
    for _ in 0..2 {
        while plane.domain(id).unwrap().phase != Phase::Quarantined {
            end(&sim, &mut plane, "hello", Reason::Fault);
            sim.advance(5_000_000_000);
            plane.poll();
        }
        plane.restart(id).unwrap();
        for _ in 0..3 {
            end(&sim, &mut plane, "hello", Reason::Fault);
            assert_eq!(plane.domain(id).unwrap().phase, Phase::Running);
        }
    }
}

/// Something else that has to be started again now.
fn somebody_else_dies(sim: &Sim, plane: &mut Plane<'_, Sim>, id: u16) {
    let before = plane.domain(id).unwrap().restarts;
    sim.advance(20_000_000_000);
    let calls = sim.calls.get();
    end(sim, plane, "hello", Reason::Fault);
    assert_eq!(plane.domain(id).unwrap().restarts, before + 1);
    assert!(sim.calls.get() - calls < 500, "{}", sim.calls.get() - calls);
}

/// A turn of what is taken apart: dom0 comes back to it soon, and not before it rested.
fn go_on(sim: &Sim, plane: &mut Plane<'_, Sim>) {
    let (now, deadline) = (sim.state.borrow().now, plane.next_deadline());
    assert!(deadline <= now + SOON);
    let calls = sim.calls.get();
    if deadline > now {
        plane.poll();
        assert_eq!(sim.calls.get(), calls);
    }
    sim.sleep_until(deadline);
    plane.poll();
}

#[test]
fn others_are_restarted_while_a_large_domain_is_taken_apart() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let large = plane.create("config/large.toml", "image = 'hello'\non_crash = 'preserve'", &[], false).unwrap().id;
    let id = create(&mut plane, "on_crash = 'restart'");
    let slices = |count| sim.by_name("large", |guest| guest.reset_slices = count);

    // By a restart.
    slices(10_000);
    assert_eq!(plane.restart(large), Ok(None));
    assert!(matches!(plane.domain(large).unwrap().phase, Phase::Restarting(_)));
    assert!(plane.request(large, ToDomain::Ping).is_err());
    assert!(plane.kill(large).unwrap_err().contains("does not run"));
    somebody_else_dies(&sim, &mut plane, id);
    assert_eq!(plane.domain(large).unwrap().restarts, 0);
    while plane.domain(large).unwrap().phase != Phase::Running {
        go_on(&sim, &mut plane);
    }
    assert_eq!(plane.domain(large).unwrap().restarts, 1);
    assert!(notices(&mut plane).last().unwrap().starts_with("large is restarted, "));
    assert!(plane.next_deadline() > sim.state.borrow().now + SOON);

    // By an end after which it is kept.
    slices(10_000);
    plane.kill(large).unwrap();
    somebody_else_dies(&sim, &mut plane, id);
    assert_eq!(plane.domain(large).unwrap().phase, Phase::Kept);
    while sim.by_name("large", |guest| guest.reset_slices) > 0 {
        go_on(&sim, &mut plane);
    }
    assert_eq!(sim.by_name("large", |guest| guest.reset_slices), 0);

    // By a restart that fails on the way.
    slices(10_000);
    assert_eq!(plane.restart(large), Ok(None));
    sim.sleep_until(plane.next_deadline());
    sim.fail.set(Some((sim.calls.get(), protocol::error::Error::NoMemory)));
    plane.poll();
    sim.fail.set(None);
    assert_eq!(plane.domain(large).unwrap().phase, Phase::Quarantined);
    assert_eq!(plane.restart(large), Ok(None));

    // By its destruction.
    sim.state.borrow_mut().destroy_slices = 10_000;
    plane.destroy(large).unwrap();
    somebody_else_dies(&sim, &mut plane, id);
    while !plane.all_reaped() {
        go_on(&sim, &mut plane);
    }
}

#[test]
fn a_restart_that_fails_is_no_endless_loop() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "on_crash = 'restart'");
    sim.end("hello", Reason::Fault);
    plane.on_port(DOMAIN_EVENT_PORT);
    // Two calls look at each of two domains, one reads the report, the reset after it fails.
    sim.fail.set(Some((sim.calls.get() + 3, protocol::error::Error::NoMemory)));
    plane.poll();
    assert_eq!(plane.domain(id).unwrap().phase, Phase::Quarantined);
    assert!(plane.request(id, ToDomain::Ping).is_err());
    sim.fail.set(None);
    plane.restart(id).unwrap();
    assert_eq!(sim.state.borrow().mapped, 5);
}

#[test]
fn connections_are_announced_to_both_and_again_after_a_restart() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let earlier = plane.create("config/hello.toml", "name = 'echo'\nimage = 'hello'", &[], false).unwrap().id;
    let later = create(&mut plane, "connect = ['echo']\ncmdline = 'x'");
    let line = arguments(&sim, "hello").command_line;
    let port = sim.by_name("hello", |guest| {
        *guest.ports.iter().find(|(_, end)| end.is_some_and(|(peer, _)| peer == earlier)).unwrap().0
    });
    assert_eq!(line, format!("x connect=echo:{port}:{earlier}").as_str());
    let own = sim.by_name("echo", |guest| {
        *guest.ports.iter().find(|(_, end)| end.is_some_and(|(peer, _)| peer == later)).unwrap().0
    });
    let connected = ToDomain::Connected { name: "hello".try_into().unwrap(), port: Port(own), peer: later };
    assert!(messages(&sim, "echo").contains(&connected));
    sim.by_name("echo", |guest| assert_eq!(guest.peers[&later].0, later));
    plane.restart(earlier).unwrap();
    assert!(messages(&sim, "echo").contains(&connected));
    plane.restart(later).unwrap();
    assert_eq!(arguments(&sim, "hello").command_line, line);
    plane.destroy(later).unwrap();
    plane.restart(earlier).unwrap();
    assert!(!messages(&sim, "echo").contains(&connected));
}

#[test]
fn requests_are_answered_by_id() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "");
    let first = plane.request(id, ToDomain::Ping).unwrap();
    let second = plane.request(id, ToDomain::MemoryTarget { pages: 3 }).unwrap();
    let heard = sim.heard("hello");
    assert_eq!(heard[1].message, ToDomain::MemoryTarget { pages: 3 });
    sim.say("hello", 0, FromDomain::Ready { abi_version: protocol::ABI_VERSION });
    sim.say("hello", heard[1].id, FromDomain::Failed { reason: "too\u{1b}little".try_into().unwrap() });
    sim.say("hello", heard[0].id, FromDomain::Done);
    sim.say("hello", 77, FromDomain::Done);
    plane.on_port(Port(3));
    plane.poll();
    assert!(plane.domain(id).unwrap().ready);
    assert_eq!(plane.answer(first), Some(Ok(FromDomain::Done)));
    assert_eq!(plane.answer(first), None);
    assert_eq!(plane.answer(second), Some(Err("too?little".into())), "nothing a domain says controls the terminal");
}

#[test]
fn a_domain_that_never_reads_blocks_nobody() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "");
    let mut refused = None;
    for round in 0..2000 {
        if let Err(text) = plane.request(id, ToDomain::Ping) {
            refused = Some((round, text));
            break;
        }
    }
    let (round, text) = refused.expect("the queue is bounded");
    assert!(round > 100 && text.contains("takes no messages"), "{round}: {text}");
    plane.destroy(id).unwrap();
    assert_eq!(sim.state.borrow().mapped, 3);
}

#[test]
fn a_domain_that_breaks_its_ring_loses_the_channel_and_is_named() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    let id = create(&mut plane, "");
    sim.by_name("hello", |guest| guest.control_out.poke(byte::CONTROL.producer, &u32::MAX.to_le_bytes()));
    plane.on_port(Port(3));
    plane.poll();
    let lines = notices(&mut plane);
    assert!(lines[0].starts_with("hello: control channel closed: it peer's ring index"), "{lines:?}");
    assert!(plane.request(id, ToDomain::Ping).is_err());
    plane.restart(id).unwrap();
    plane.request(id, ToDomain::Ping).unwrap();
}

#[test]
fn a_flood_of_messages_is_taken_in_bounded_bites() {
    let image = image();
    let (sim, mut plane) = booted(&image, &[]);
    create(&mut plane, "");
    let mut sent = 0;
    while sim.say("hello", 0, FromDomain::Done) {
        sent += 1;
    }
    assert!(sent > 100);
    plane.on_port(Port(3));
    plane.poll();
    assert_eq!(plane.next_deadline(), 0, "there is more to take, later");
    while plane.next_deadline() == 0 {
        plane.poll();
    }
    assert!(sim.say("hello", 0, FromDomain::Done), "there is room again");
    assert!(!sim.state.borrow().events.is_empty(), "and the domain was told");
}

#[test]
fn auto_starts_in_an_order_that_connects_and_reports_what_is_bad() {
    let image = image();
    let sim = Sim::new();
    let files: [(&str, &[u8]); 6] = [
        ("images/console", &image),
        ("images/a", &image),
        ("images/b", &image),
        ("auto/a.toml", b"connect = ['b']"),
        ("auto/b.toml", b"nics = 1"),
        ("auto/c.toml", b"memroy = 4"),
    ];
    let mut plane = Plane::new(sim, Bundle::of(&files));
    assert!(!plane.boot());
    assert_eq!(plane.names(), ["dom0", "console", "b", "a"]);
    let lines = notices(&mut plane);
    assert!(lines.contains(&"auto/c.toml:1: memroy: unknown key; did you mean `memory`?".into()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("warning: auto/b.toml:1: nics")), "{lines:?}");
}

/// What can happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    Destroy(u8),
    Restart(u8),
    End(u8, Reason),
    Ask(u8),
    Say(u8),
    Garbage(u8, u32),
    Wait(u64),
    FailNext(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let reasons = vec![Reason::Shutdown, Reason::Reboot, Reason::Panic, Reason::Fault, Reason::Killed];
    prop_oneof![
        3 => (0_u8..4, any::<bool>()).prop_map(|(name, connect)| Step::Create(name, connect)),
        1 => (0_u8..5).prop_map(Step::Destroy),
        1 => (0_u8..5).prop_map(Step::Restart),
        3 => (0_u8..5, prop::sample::select(reasons)).prop_map(|(name, reason)| Step::End(name, reason)),
        1 => (0_u8..5).prop_map(Step::Ask),
        1 => (0_u8..5).prop_map(Step::Say),
        1 => (0_u8..4, any::<u32>()).prop_map(|(name, word)| Step::Garbage(name, word)),
        1 => (0_u64..20_000_000_000).prop_map(Step::Wait),
        1 => (0_usize..30).prop_map(Step::FailNext),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_the_books_are_straight_in_the_end(steps in prop::collection::vec(step(), 0..60)) {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "console"];
        const ENDS: [&str; 4] = ["destroy", "restart", "preserve", "restart"];
        let image = image();
        let (sim, mut plane) = booted(&image, &[]);
        let before = sim.books();
        for step in steps {
            let there = |plane: &Plane<'_, Sim>, name: u8| plane.find(NAMES[name as usize]);
            match step {
                Step::Create(name, connect) => {
                    let other = NAMES[(name as usize + 1) % 4];
                    let connect = if connect { format!("connect = ['{other}']") } else { String::new() };
                    let end = ENDS[name as usize];
                    let text = format!("name = '{}'\nimage = 'hello'\nmemory = 1\non_crash = '{end}'\non_reboot = '{end}'\n{connect}", NAMES[name as usize]);
                    let _ = plane.create("test.toml", &text, &[], name == 0);
                }
                Step::Destroy(name) => drop(there(&plane, name).map(|id| plane.destroy(id))),
                Step::Restart(name) => drop(there(&plane, name).map(|id| plane.restart(id))),
                Step::End(name, reason) if there(&plane, name).is_some() => end(&sim, &mut plane, NAMES[name as usize], reason),
                Step::Ask(name) => drop(there(&plane, name).map(|id| plane.request(id, ToDomain::Ping))),
                Step::Say(name) if there(&plane, name).is_some() => {
                    sim.say(NAMES[name as usize], 1, FromDomain::Done);
                }
                Step::Garbage(name, word) if there(&plane, name).is_some() => {
                    sim.by_name(NAMES[name as usize], |guest| guest.control_out.poke(byte::CONTROL.producer, &word.to_le_bytes()));
                }
                Step::Wait(ns) => sim.advance(ns),
                Step::FailNext(calls) => sim.fail.set(Some((sim.calls.get() + calls, protocol::error::Error::NoMemory))),
                _ => {}
            }
            plane.on_port(DOMAIN_EVENT_PORT);
            plane.poll();
            let names = plane.names();
            prop_assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
        }
        sim.fail.set(None);
        let console = plane.find("console").unwrap();
        plane.restart(console).unwrap();
        for id in plane.domains().iter().map(|domain| domain.id).filter(|&id| id != console).collect::<Vec<_>>() {
            plane.destroy(id).unwrap();
        }
        plane.poll();
        prop_assert_eq!(sim.books(), before);
    }
}
