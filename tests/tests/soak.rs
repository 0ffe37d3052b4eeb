//! Driver domains die under verified load, and nobody notices more than a pause. The long run is `cargo xtask soak`.

use xtask::soak::{Arguments, Points, Summary, Target, soak};
use xtask::{bundle, workspace};

/// Kills of the short run: each named point comes several times.
const KILLS: usize = 200;

/// Kills of the console domain: more in a row than a domain survives that serves nobody in between.
const CONSOLE_KILLS: usize = 25;

/// Soaks, and gives what was found, which has to be good.
fn survive(kills: usize, domains: Vec<Target>) -> Summary {
    let arguments = Arguments {
        kills,
        seed: None,
        domains,
        // The product's image is what is tested here.
        kill_point: Points::Product,
        smp: 2,
        mutant: None,
        mutants: false,
        json: false,
        yes: false,
    };
    let entries = bundle::standard(system_tests::built(), workspace::FIRST_DOMAIN);
    let summary = entries.and_then(|entries| soak(&arguments, entries));
    let summary = summary.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", summary.text());
    assert!(summary.is_good(), "{}", summary.text());
    assert_eq!(summary.kills, kills);
    summary
}

#[test]
fn two_hundred_deaths_under_load() {
    let summary = survive(KILLS, vec![Target::Disk, Target::Network]);
    // That the kills of the disk domain are under load is among what makes a summary fail.
    assert!(summary.points_min > 0 && summary.points.values().all(|&kills| kills >= summary.points_min));
}

#[test]
fn a_console_that_dies_again_and_again_comes_back() {
    survive(CONSOLE_KILLS, vec![Target::Console]);
}
