//! The test images: domains that take dom0's place, wear the core out, and say what is left of it.
//!
//! Short, unless `cargo xtask test --full` asks for the lengths that the images have of themselves.

use std::time::Duration;

use system_tests::{Setup, full, machine};
use xtask::emulator::Exit;

/// Boots `image` as the first domain and waits for its verdict; gives the core's log.
fn run(image: &str, cpus: u32, words: &str, actors: &[&str], limit: Duration) -> String {
    run_on(machine(cpus), image, words, actors, limit)
}

/// The same on this machine.
fn run_on(setup: Setup, image: &str, words: &str, actors: &[&str], limit: Duration) -> String {
    let setup = setup.first_domain(image).append(words);
    let mut system = actors.iter().fold(setup, |setup, actor| setup.image(actor)).start();
    let exit = system.wait_exit(limit).unwrap_or_else(|error| panic!("{error:#}\n{}", system.debug_log()));
    let log = system.debug_log();
    assert_eq!(exit, Exit::PowerOff(0), "{log}");
    let says = |line: &&str| line.contains(&format!("{image}: ")) || actors.iter().any(|name| line.contains(name));
    println!("{}", log.lines().filter(says).collect::<Vec<_>>().join("\n"));
    log
}

/// A storm; each thing that it consists of must have happened.
fn storm(cpus: u32, words: &str, limit: Duration) {
    let log = run("storm", cpus, words, &["director", "actor"], limit);
    for what in ["pauses: ", "memory: ", "restarts: ", "destroyed: "] {
        let counts = log.lines().filter(|line| line.starts_with("[director]")).filter_map(|line| line.split_once(what));
        let happened = counts.filter(|(_, rest)| rest.starts_with(|digit| matches!(digit, '1'..='9'))).count();
        assert!(happened > 0, "not one of {what}\n{log}");
    }
}

#[test]
fn churn_leaves_nothing_behind() {
    let (count, limit) = if full() { (10_000, 3600) } else { (1000, 240) };
    run("churn", 2, &format!("count={count}"), &[], Duration::from_secs(limit));
}

#[test]
fn churn_on_one_cpu() {
    run("churn", 1, "count=60 seed=2", &[], Duration::from_secs(120));
}

#[test]
fn storm_on_four_cpus() {
    let seconds = if full() { 300 } else { 20 };
    let limit = Duration::from_secs(seconds * 3 + 240);
    storm(4, &format!("seconds={seconds}"), limit);
}

#[test]
fn storm_on_one_cpu() {
    storm(1, "seconds=8 directors=1 seed=7", Duration::from_secs(180));
}

#[test]
fn hostile_calls_change_nothing() {
    let (rounds, limit) = if full() { (200, 3600) } else { (10, 400) };
    run("hostile", 2, &format!("rounds={rounds}"), &[], Duration::from_secs(limit));
}

#[test]
fn a_disk_answers_and_a_card_changes_hands() {
    let log = run("probe", 2, "", &[], Duration::from_secs(120));
    let disk = std::fs::read(xtask::workspace::disk()).expect("the disk's image can be read");
    for sector in [0, 1] {
        let bytes = &disk[sector * 512..][..512];
        let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        assert!(log.contains(&format!("sector {sector} has sum {sum:08x}")), "{log}");
    }
}

#[test]
fn guests_exit_for_what_they_do() {
    run("machines", 2, "count=3", &["machine"], Duration::from_secs(120));
}

#[test]
fn guests_share_a_cpu() {
    run("machines", 1, "count=2", &["machine"], Duration::from_secs(120));
}

#[test]
fn an_exit_is_short() {
    let log = run_on(machine(1).undisturbed(), "machines", "exits=1000", &["machine"], Duration::from_secs(60));
    // An instruction takes 8 ns there, and a tick is one.
    let ticks = log.split("ticks an exit: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse::<u64>().ok());
    let instructions = ticks.expect("the machine measures") / 8;
    println!("{instructions} instructions from exit to exit");
    assert!(instructions <= 1200, "{instructions} instructions from exit to exit");
}
