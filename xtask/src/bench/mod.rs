//! The verb `bench`: what the core's operations and the driver domains cost, counted in instructions, and how Linux guests compare
//! with the same kernel on a machine of its own.
//!
//! The emulator is made to take exactly 1 ns for every instruction, so the machine's time stamp counter counts instructions
//! and a number is the same on every host. What caches, TLBs and speculation cost is not in it. With more than one CPU the
//! instructions of all of them count. With driver domains the devices of the emulator take part, whose answers come in larger
//! or smaller batches: such a number is the same within a percent or two.

mod drivers;
mod guest;
mod lifecycle;
mod linux;
mod table;
mod transfer;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::emulator::{Machine, Options};
use crate::{build, process, system, workspace};

/// Machines that are measured, by their CPUs.
const MACHINES: [u32; 2] = [1, 2];
/// Longest time for one command, and for the guests of one scenario.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was promised: name and most instructions, in the median.
const PROMISES: [(&str, u64); 2] = [("null_hypercall", 100), ("event_to_waiting_same_cpu", 400)];

/// Count the instructions of what the core and the driver domains do, and time Linux guests
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure this part only
    #[arg(long)]
    only: Option<Part>,
    /// End with status 1 if a promise is broken
    #[arg(long)]
    strict: bool,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Hypercalls, events, grants, lives of domains
    Core,
    /// Requests and frames through driver domains, and how long they are away when they die
    Drivers,
    /// A Linux guest against the same kernel on a machine of its own
    Linux,
}

/// Samples of one thing, as the guest `echo` reports them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Measurement {
    name: String,
    min: u64,
    median: u64,
    p99: u64,
    samples: usize,
}

impl Measurement {
    /// Of the samples given; `None` if there are none.
    fn of(name: &str, mut samples: Vec<u64>) -> Option<Measurement> {
        samples.sort_unstable();
        let at = |percent: usize| samples.get(samples.len() * percent / 100).copied();
        Some(Measurement { name: name.into(), min: at(0)?, median: at(50)?, p99: at(99)?, samples: samples.len() })
    }
}

/// A measurement, where it was made, and what was promised of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    cpus: u32,
    scenario: &'static str,
    #[serde(flatten)]
    measurement: Measurement,
    promise: Option<u64>,
    kept: Option<bool>,
}

impl Row {
    fn new(cpus: u32, scenario: &'static str, measurement: Measurement) -> Row {
        let promise = PROMISES.iter().find(|(name, _)| *name == measurement.name).map(|&(_, most)| most);
        let kept = promise.map(|most| measurement.median <= most);
        Row { cpus, scenario, measurement, promise, kept }
    }
}

/// Everything measured, for `--json`.
#[derive(Serialize)]
struct Outcome {
    unit: &'static str,
    results: Vec<Row>,
    /// For each request or frame; `cpu` and `driver` are instructions.
    moved: Vec<drivers::Moved>,
    figures: Vec<drivers::Figure>,
    broken: usize,
}

/// Measures what was chosen and prints it. The status is 1 if a promise is broken, with `--strict`.
pub fn run(arguments: &Arguments) -> Result<u8> {
    system::require(&[system::QEMU], arguments.yes)?;
    let packages = build::build_with_tests()?;
    let chosen = |part| arguments.only.is_none_or(|only| only == part);
    let mut results = Vec::new();
    if chosen(Part::Core) {
        for cpus in MACHINES {
            results.extend(measure(cpus).with_context(|| format!("with {cpus} CPUs"))?);
        }
        let measured = |name: &str| results.iter().any(|row: &Row| row.measurement.name == name);
        if let Some((name, _)) = PROMISES.iter().find(|(name, _)| !measured(name)) {
            bail!("{name} was promised, but nothing has measured it");
        }
    }
    let (logs, mut moved, mut figures) = (logs(), Vec::new(), Vec::new());
    if chosen(Part::Drivers) {
        process::step("measuring driver domains");
        (moved, figures) = drivers::measure(&packages, &logs).context("driver domains")?;
    }
    if chosen(Part::Linux) {
        process::step("measuring a Linux guest");
        figures.extend(linux::measure(&packages, &logs).context("a Linux guest")?);
    }
    // After a failure the error has named the logs; they are of no use otherwise.
    let _ = fs::remove_dir_all(logs);
    let kept = results.iter().map(|row| row.kept).chain(figures.iter().map(|figure| figure.kept));
    let broken = kept.filter(|&kept| kept == Some(false)).count();
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&Outcome { unit: "instructions", results, moved, figures, broken })?
        );
    } else {
        print!("{}", table::text(&results, &moved, &figures));
    }
    Ok(u8::from(arguments.strict && broken != 0))
}

/// Where the logs of the machines go.
fn logs() -> PathBuf {
    workspace::target().join("bench").join(std::process::id().to_string())
}

/// Boots a machine with `cpus` CPUs and measures everything that it can show.
fn measure(cpus: u32) -> Result<Vec<Row>> {
    process::step(format_args!("measuring ({cpus} CPUs)"));
    let begin = Instant::now();
    let logs = logs();
    let mut options = Options::new(cpus, logs.clone());
    options.icount = Some(0);
    options.timeout = PATIENCE;
    let mut machine = Machine::boot(options)?;
    let mut rows = Vec::new();
    for scenario in guest::SCENARIOS.iter().filter(|scenario| scenario.cpus <= cpus) {
        let measured = guest::measure(&mut machine, scenario).with_context(|| scenario.name.to_string())?;
        rows.extend(measured.into_iter().map(|measurement| Row::new(cpus, scenario.name, measurement)));
    }
    let measured = lifecycle::measure(&mut machine).context(lifecycle::SCENARIO)?;
    rows.extend(measured.into_iter().map(|measurement| Row::new(cpus, lifecycle::SCENARIO, measurement)));
    drop(machine);
    // After a failure the error has named the logs; they are of no use otherwise.
    let _ = fs::remove_dir_all(logs);
    process::step(format_args!("measured in {:.1} s", begin.elapsed().as_secs_f32()));
    Ok(rows)
}
