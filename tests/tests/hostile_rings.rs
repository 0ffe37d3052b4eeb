//! A frontend that breaks the rules of its ring costs nobody but itself: R1 to R14 of the list of attacks, from a guest's side.
//!
//! One boot runs all acts, each by a domain of its own, beside a verified load that has to go on. An act either ends the
//! rogue's own connection, and the rogue is named; or it is answered, and the connection goes on.

use serde_json::Value;
use system_tests::{System, machine};

/// What comes of an act.
enum Outcome {
    /// The connection is closed and the rogue is named; it hears nothing any more.
    Closed,
    /// The connection is never made, and the rogue is named.
    Refused,
    /// The rogue sees this.
    Seen(&'static str),
}

use Outcome::{Closed, Refused, Seen};

/// The acts against a disk domain.
const BLOCK: &[(&str, Outcome)] = &[
    ("r1-size-plus-one", Closed),
    ("r1-half-circle", Closed),
    ("r1-backwards", Closed),
    ("r2-response-index", Seen("answered")),
    ("r4-segments", Seen("refused")),
    ("r5-pieces", Seen("refused")),
    ("r6-no-kick", Seen("answered")),
    ("r8-stale-page", Refused),
    ("r8-page-twice", Seen("connected")),
    ("r9-three-pages", Refused),
    ("r9-never-granted", Refused),
    ("r10-response-bytes", Seen("clean")),
    ("r11-rewritten-slot", Seen("answered")),
    ("r12-never-drained", Seen("answered")),
    ("r12-notifications", Seen("answered")),
    ("r13-beyond-the-end", Seen("refused")),
    ("r13-read-only", Seen("refused")),
    ("r13-operations", Seen("refused")),
];

/// The acts against a network domain.
const NET: &[(&str, Outcome)] = &[
    ("r1-transmit-index", Closed),
    ("r4-slots", Closed),
    ("r5-offset", Seen("dropped")),
    ("r5-reference", Seen("dropped")),
    ("r11-rewritten-frame", Seen("answered")),
    ("r14-sizes", Seen("dropped")),
    ("r14-segmentation", Seen("dropped")),
    ("r14-spoofed-source", Seen("answered")),
    ("r14-flood", Seen("answered")),
];

/// What a guest counts in its last report.
fn answered(system: &System) -> u64 {
    let log = system.debug_log();
    let report = log.lines().rev().find(|line| line.starts_with("[blkload] blkload {")).unwrap_or_default();
    assert!(report.is_empty() || report.contains("\"errors\":0,\"wrong\":0,"), "the load noticed something: {report}");
    let (_, rest) = report.split_once("\"answered\":").unwrap_or_default();
    rest.split(',').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The victim goes on.
fn goes_on(system: &mut System) {
    let before = answered(system);
    system.until("requests of the load", |system| (answered(system) > before).then_some(()));
    let devices = system.json("block-list blkload");
    assert!(devices[0]["fault"].is_null() && devices[0]["state"] == "serving", "{devices}");
}

fn act(system: &mut System, list: &str, kind: &str, (act, outcome): &(&str, Outcome)) {
    let case = format!("{kind}/{act}");
    let configuration = if *act == "r13-read-only" { "rogue-ro".into() } else { format!("rogue-{kind}") };
    system.ok(&format!("create {configuration} name=rogue 'cmdline=case={case}'"));
    if let Closed | Seen(_) = outcome {
        let said = format!("rogue {case}: ");
        let seen = system.until(&case, |system| {
            let log = system.debug_log();
            let (_, rest) = log.split_once(&said)?;
            rest.split_once('\n').map(|(seen, _)| seen.trim().to_string())
        });
        let expected = if let Seen(text) = outcome { text } else { "silence" };
        assert_eq!(seen, expected, "{case}");
    }
    match outcome {
        Seen(_) => {
            let device = system.json(&format!("{list} rogue"))[0].clone();
            assert!(device["fault"].is_null() && device["state"] == "serving", "{case}: {device}");
        }
        Closed | Refused => {
            // A refused attach is told before its reason.
            system.until(&format!("{case}: the name of the guilty side"), |system| {
                let device: Value = system.json(&format!("{list} rogue"))[0].clone();
                device["fault"].as_str().filter(|fault| fault.starts_with("rogue: ")).map(drop)
            });
        }
    }
    system.ok("destroy rogue");
}

#[test]
fn a_rogue_frontend_costs_nobody_but_itself() {
    let rogue = |device: &str| format!("image = \"rogue\"\nmemory = 4\n{device}\n");
    let mut system = machine(2)
        .image("rogue")
        .file("config/rogue-block.toml", rogue("disk = [\"phy:scratch2,xvda,w\"]"))
        .file("config/rogue-ro.toml", rogue("disk = [\"phy:scratch2,xvda,r\"]"))
        .file("config/rogue-net.toml", rogue("vif = [\"\"]"))
        .file(
            "config/blkload.toml",
            "memory = 8\ngrant_frames = 4\ndisk = [\"phy:scratch,xvda,w\"]\ncmdline = \"depth=32 seconds=0\"\n",
        )
        .boot();
    system.ok("create blkload");
    goes_on(&mut system);
    for (list, kind, acts) in [("block-list", "block", BLOCK), ("network-list", "net", NET)] {
        for one in acts {
            act(&mut system, list, kind, one);
            goes_on(&mut system);
        }
    }
    for name in ["disk", "network"] {
        let driver = system.json(&format!("list {name}"))[0].clone();
        assert_eq!(driver["restarts"], 0, "{driver}");
    }
    assert!(system.panicked().is_none());
}
