//! What driver domains cost: requests and frames through them, the same requests with the driver linked into the guest, and the
//! pause when one is restarted.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::PATIENCE;
use super::transfer::{Cost, Load};
use crate::bundle::{self, Entry};
use crate::emulator::{Idle, Machine, Options};
use crate::soak::{self, Points, Target};
use crate::workspace::{self, Package};

/// Runs of each load, of which the median counts: the devices of the emulator answer when the host lets them, and batches come out
/// larger or smaller.
const ROUNDS: usize = 3;
/// Deaths whose pauses are looked at.
const KILLS: usize = 60;
/// Decides when they come.
const SEED: u64 = 1;
/// Most instructions that the driver domain adds to a request of 4 KiB, with 32 under way.
const ADDED_MOST: f64 = 1500.0;
/// Most hypercalls on grants for a batch.
const GRANT_CALLS_MOST: f64 = 2.0;
/// Longest pause, in ms: in the median, and the 99th percentile.
const PAUSE_MOST: (f64, f64) = (50.0, 200.0);

/// Depths at which blocks and frames are moved.
const DEPTHS: [u64; 2] = [1, 32];
/// Name of the table's part with requests, and of that with the driver linked in.
const THROUGH: &str = "block, disk domain";
const LINKED: &str = "block, driver linked in";

/// Reads of 4 KiB from a disk that holds nothing.
const BLOCK: Load = Load {
    scenario: THROUGH,
    backend: Some(("disk", "disks --json")),
    partner: None,
    guest: "blkload 'disk=[\"phy:virtio0,xvda,w\"]'",
    words: "mode=bench",
    count: "requests",
    counts: (256, 8448),
    depth: 1,
};
/// The same without a disk domain.
const BLOCK_LINKED: Load = Load { scenario: LINKED, backend: None, guest: "linked", words: "", ..BLOCK };
/// Frames of 1514 bytes to another guest.
const FRAMES: Load = Load {
    scenario: "frames, guest to guest",
    backend: Some(("network", "net --json")),
    partner: Some(("netload 'cmdline=\"mode=receive\"'", "receiver")),
    guest: "netload",
    words: "mode=send",
    count: "frames",
    ..BLOCK
};
/// Frames to the wire.
const FRAMES_OUT: Load = Load { scenario: "frames, guest to wire", partner: None, words: "mode=flood", ..FRAMES };

/// What one request or frame costs.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    pub scenario: &'static str,
    pub depth: u64,
    #[serde(flatten)]
    pub cost: Cost,
}

/// A number that follows from the others.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub promise: Option<f64>,
    pub kept: Option<bool>,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str, promise: Option<f64>) -> Figure {
        Figure { name: name.into(), value, unit, promise, kept: promise.map(|most| value <= most) }
    }
}

/// Measures all of it.
pub fn measure(packages: &[Package], logs: &Path) -> Result<(Vec<Moved>, Vec<Figure>)> {
    let mut entries = bundle::standard(packages, workspace::FIRST_DOMAIN)?;
    entries.push(Entry::file("images/linked", &workspace::domain_elf("linked"))?);
    entries.push(Entry::new("config/linked.toml", "image = \"linked\"\nmemory = 8\npci = [\"1af4:1042\"]\n"));
    let bundle = logs.join("bundle.tar");
    bundle::write(&bundle, &entries)?;
    let moved = run(&bundle, logs, true).context("counting instructions")?;
    let timed = run(&bundle, logs, false).context("without counting")?;
    let mut figures = derived(&moved, &timed);
    figures.extend(pauses(entries)?);
    Ok((moved, figures))
}

/// Moves everything on a machine of its own.
fn run(bundle: &Path, logs: &Path, counted: bool) -> Result<Vec<Moved>> {
    let mut options = Options::new(1, logs.to_path_buf());
    (options.timeout, options.bundle) = (PATIENCE, bundle.to_path_buf());
    if counted {
        (options.icount, options.idle) = (Some(0), Idle::Waited);
    }
    options.disks.clear();
    options.null_disk = true;
    let mut machine = Machine::boot(options)?;
    // Nobody else is to get frames that everybody gets.
    machine.succeed("destroy web")?;
    let mut moved = Vec::new();
    let mut add = |machine: &mut Machine, load: Load| {
        let cost = load.measure(machine, ROUNDS)?;
        moved.push(Moved { scenario: load.scenario, depth: load.depth, cost });
        anyhow::Ok(())
    };
    for load in [BLOCK, FRAMES].iter().flat_map(|load| DEPTHS.map(|depth| Load { depth, ..*load })) {
        add(&mut machine, load)?;
    }
    add(&mut machine, Load { depth: 32, ..FRAMES_OUT })?;
    // Its disk is the guest's now.
    machine.succeed("destroy disk")?;
    for depth in DEPTHS {
        add(&mut machine, Load { depth, ..BLOCK_LINKED })?;
    }
    Ok(moved)
}

/// What follows from the costs, those counted and those timed.
fn derived(moved: &[Moved], timed: &[Moved]) -> Vec<Figure> {
    let of = |list: &[Moved], scenario, depth| {
        list.iter().find(|one| (one.scenario, one.depth) == (scenario, depth)).map(|one| one.cost).unwrap_or_default()
    };
    let mut figures = Vec::new();
    for depth in DEPTHS {
        let (through, linked) = (of(moved, THROUGH, depth), of(moved, LINKED, depth));
        let promise = (depth == 32).then_some(ADDED_MOST);
        let name = format!("added to a 4 KiB request at depth {depth}");
        figures.push(Figure::new(name, through.cpu - linked.cpu, "instructions", promise));
        let (through, linked) = (of(timed, THROUGH, depth), of(timed, LINKED, depth));
        let name = format!("requests a second at depth {depth}, against the linked driver");
        figures.push(Figure::new(name, linked.elapsed / through.elapsed, "ratio", None));
    }
    let calls = of(moved, THROUGH, 1).grant_calls;
    figures.push(Figure::new("grant hypercalls for a request at depth 1", calls, "calls", Some(GRANT_CALLS_MOST)));
    // With one under way each is a batch, and so is its answer.
    let calls = of(moved, FRAMES.scenario, 1).grant_calls / 2.0;
    figures.push(Figure::new("grant hypercalls for a batch of frames", calls, "calls", Some(GRANT_CALLS_MOST)));
    figures
}

/// How long guests wait when a driver domain dies, from the death to the next answer.
fn pauses(entries: Vec<Entry>) -> Result<Vec<Figure>> {
    let arguments = soak::Arguments {
        kills: KILLS,
        seed: Some(SEED),
        domains: vec![Target::Disk, Target::Network],
        kill_point: Points::None,
        smp: 2,
        mutant: None,
        mutants: false,
        json: false,
        yes: false,
    };
    let summary = soak::soak(&arguments, entries).context("killing driver domains")?;
    if let Some(failure) = &summary.failure {
        bail!("a guest noticed that a driver domain died: {failure}");
    }
    let mut figures = Vec::new();
    for pause in summary.pauses() {
        let name = pause.domain.name();
        for (which, value, most) in [("median", pause.ms.median, PAUSE_MOST.0), ("p99", pause.ms.p99, PAUSE_MOST.1)] {
            figures.push(Figure::new(format!("pause when {name} dies, {which}"), value, "ms", Some(most)));
        }
        let name = format!("pause when {name} dies, median");
        figures.push(Figure::new(name, pause.requests.median, "median requests", None));
    }
    Ok(figures)
}
