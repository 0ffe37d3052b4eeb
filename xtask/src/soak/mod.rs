//! The verb `soak`: driver domains die under verified load, again and again, and nobody may notice more than a pause.
//!
//! The guests under load check contents and order themselves, and say so in the log. The first thing that any of them
//! notices, or that dom0 shows of a guest or a connection, ends the run.

mod guests;
mod image;
mod mutants;
mod plan;
mod reports;
mod session;
mod tally;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use protocol::mutant::Mutant;

pub use plan::{Points, Target};
pub use tally::Summary;

use crate::bundle::{self, Entry};
use crate::emulator::Options;
use crate::{build, process, system, workspace};
use guests::GUESTS;
use plan::Plan;
use session::Session;
use tally::Tally;

/// Requests a second of the disk. An emulated one answers faster than the load looks at answers; with this, requests wait for
/// the device, and are in flight when their driver dies.
const DISK_RATE: u32 = 500;
/// Kills within which every mutant has to be noticed.
const MUTANT_KILLS: usize = 200;
/// How often a line says where the run is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Kill driver domains under verified load, and see whether anybody notices
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How many kills
    #[arg(long, default_value_t = 200)]
    pub kills: usize,
    /// Repeat the run with this seed; another one each time by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Which driver domains are killed
    #[arg(long, value_delimiter = ',', default_values_t = [Target::Disk, Target::Network])]
    pub domains: Vec<Target>,
    /// Where they are killed: at a named point, `all` points and random instants, those of the `product` (none damages a record), or
    /// `none` of the points
    #[arg(long, default_value = "all", value_name = "POINT")]
    pub kill_point: Points,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2)]
    pub smp: u32,
    /// Run with one step of the journal rule switched off, which has to make the run fail
    #[arg(long, value_parser = mutants::parse, value_name = "MUTANT", conflicts_with = "mutants")]
    pub mutant: Option<Mutant>,
    /// Run with each mutant in turn; end with status 1 if one is not noticed
    #[arg(long)]
    pub mutants: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Install missing system packages without asking
    #[arg(long)]
    pub yes: bool,
}

/// Soaks, and prints what was found. The status is 1 if anybody noticed anything, or if the kills were not what they are to be.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let packages = build::prepare(&[system::QEMU], arguments.yes)?;
    if arguments.mutants {
        return mutants::run_all(arguments);
    }
    let mut entries = bundle::standard(&packages, workspace::FIRST_DOMAIN)?;
    if arguments.mutant.is_some() || plan::named(arguments.kill_point, &arguments.domains).contains(&plan::DAMAGE) {
        entries.extend(image::entries(arguments.mutant)?);
    }
    let summary = soak(arguments, entries)?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&summary)?),
        false => print!("{}", summary.text()),
    }
    Ok(u8::from(!summary.is_good()))
}

/// Soaks a machine with this bundle. Fails only if it cannot be started at all.
pub fn soak(arguments: &Arguments, mut entries: Vec<Entry>) -> Result<Summary> {
    let seed = arguments.seed.unwrap_or_else(new_seed);
    let logs = new_folder()?;
    for guest in GUESTS {
        entries.push(Entry::new(format!("config/{}.toml", guest.name), guest.text()));
    }
    let mut options = Options::new(arguments.smp, logs.clone());
    options.disk_rate = Some(DISK_RATE);
    options.bundle = logs.join("bundle.tar");
    bundle::write(&options.bundle, &entries)?;
    let begin = Instant::now();
    let mut tally = Tally::default();
    let targets: Vec<Target> = arguments.domains.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let mut plan = Plan::new(seed, targets.clone(), arguments.kill_point);
    let mut session = Session::begin(options, GUESTS)?;
    let outcome = kill_all(arguments, &mut session, &mut plan, &mut tally);
    let loads = session.reports().latest();
    let median = |target: Target| session.reports().number(guests::of(target).0, "p50_us");
    let loaded = |target: &Target| *target != Target::Console;
    let request_ns = |target: Target| Some(target).filter(loaded).and_then(median).map(|us| us as f64 * 1000.0);
    let domains = tally.rows(request_ns);
    let (seconds, kills) = (begin.elapsed().as_secs_f64(), tally.kills());
    let (points, points_min) = tally.points(arguments.kill_point, &targets);
    let failure = outcome.err().map(|error| format!("{error:#}"));
    let mut summary = Summary { seed, seconds, kills, points, points_min, domains, loads, failure, shortcoming: None };
    summary.shortcoming = summary.find_shortcoming();
    drop(session);
    match &summary.failure {
        Some(_) => process::step(format_args!("the logs are in {}", workspace::short(&logs))),
        None => drop(fs::remove_dir_all(&logs)),
    }
    Ok(summary)
}

fn kill_all(arguments: &Arguments, session: &mut Session, plan: &mut Plan, tally: &mut Tally) -> Result<()> {
    session.warm_up()?;
    let begin = Instant::now();
    let mut told = begin;
    while tally.kills() < arguments.kills {
        let kill = plan.next();
        let survived = session.kill(kill)?;
        tally.add(survived);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            process::step(format_args!("{}", tally.progress(arguments.kills, begin.elapsed())));
        }
    }
    // What the last death did shows only now.
    std::thread::sleep(Duration::from_secs(2));
    session.check()
}

fn new_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

fn new_folder() -> Result<PathBuf> {
    let folder = workspace::target().join("soak").join(format!("{}-{}", std::process::id(), new_seed() % 1_000_000));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
