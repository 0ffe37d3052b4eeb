//! Driver domains that break the rules of the rings: only the connection to them closes, they are named, and neither their guest
//! nor anybody else dies of it. The honest drivers serve a page meanwhile.

use system_tests::http::{Server, page, pages};
use system_tests::{System, machine};
use xtask::emulator::free_port;

/// What comes of an act.
enum Outcome {
    /// The guest closes the connection, for this reason.
    Closed(&'static str),
    /// The guest sees this, and the connection stays.
    Seen(&'static str),
}

use Outcome::{Closed, Seen};

/// The acts of a disk domain.
const BLOCK: &[(&str, Outcome)] = &[
    ("r1-jump", Closed("ring index")),
    ("r1-half-circle", Closed("ring index")),
    ("r1-backwards", Closed("ring index")),
    ("r2-unknown-id", Closed("which is not under way")),
    ("r2-twice", Closed("which is not under way")),
    ("r3-operation", Closed("answer to operation 3 where 0 was asked")),
    ("r9-status", Closed("which there is not")),
    ("r9-limits", Seen("read")),
    ("r12-silence", Seen("")),
    ("r12-notifications", Seen("read all")),
];

/// The acts of a network domain.
const NET: &[(&str, Outcome)] = &[
    ("r1-jump", Closed("ring index")),
    ("r1-transmit-jump", Closed("ring index")),
    ("r2-unknown-id", Closed("which is not under way")),
    // A buffer is posted again once its frame was copied: the second answer is a second frame.
    ("r2-twice", Seen("alive")),
    ("r2-transmit-id", Closed("which is not under way")),
    ("r2-transmit-twice", Closed("which is not under way")),
    ("r4-endless", Closed("a frame of too many slots")),
    ("r5-place", Closed("do not lie in a page")),
    ("r9-flags", Closed("which were not agreed on")),
    ("r14-sizes", Seen("alive")),
];

/// What the guest has said since `from`, a length of the log.
fn said(system: &System, from: usize, text: &str) -> bool {
    system.debug_log()[from..].lines().any(|line| line.contains("victim: ") && line.contains(text))
}

fn act(system: &mut System, kind: &str, list: &str, (act, outcome): &(&str, Outcome)) {
    let case = format!("{kind}/{act}");
    let from = system.debug_log().len();
    system.ok(&format!("create impostor-{kind} name=evil 'cmdline=case={act}'"));
    system.ok(&format!("create victim-{kind} name=victim"));
    match outcome {
        Closed(reason) => {
            let fault = system.until(&format!("{case}: the name of the guilty side"), |system| {
                Some(system.json(&format!("{list} victim"))[0]["fault"].as_str()?.to_string())
            });
            assert!(
                fault.starts_with("evil: broke the rules, says victim") && fault.contains(reason),
                "{case}: {fault}"
            );
        }
        Seen(text) => {
            if !text.is_empty() {
                system.until(&format!("{case}: `{text}`"), |system| said(system, from, text).then_some(()));
            }
            system.until(&format!("{case}: a connection"), |system| {
                let device = system.json(&format!("{list} victim"))[0].clone();
                assert!(device["fault"].is_null(), "{case}: {device}");
                (device["state"] == "serving").then_some(())
            });
        }
    }
    // Whatever it was served, the guest lives.
    let now = system.debug_log().len();
    system.until(&format!("{case}: a sign of life"), |system| said(system, now, "alive").then_some(()));
    assert_eq!(system.json("list victim")[0]["restarts"], 0, "{case}");
    // Neither has to agree to its end.
    system.ok("destroy victim");
    system.ok("destroy evil");
}

#[test]
fn a_rogue_driver_domain_costs_its_own_connection_only() {
    let server = Server { port: free_port().expect("a free port") };
    let driver = |role: &str| {
        format!(
            "image = \"impostor\"\nclass = \"driver\"\nbackend = \"{role}\"\nmemory = 2\nretained = 16\nconnections = 4\nmax_mappings = 16\n"
        )
    };
    let guest =
        |word: &str, device: &str| format!("image = \"victim\"\nmemory = 4\n{device}\ncmdline = \"use={word}\"\n");
    let mut system = machine(2)
        .http_port(server.port)
        .image("impostor")
        .image("victim")
        .file("config/impostor-block.toml", driver("disk"))
        .file("config/impostor-net.toml", driver("network"))
        .file("config/victim-block.toml", guest("disk", "disk = [\"phy:null0,xvda,w,backend=evil\"]"))
        .file("config/victim-net.toml", guest("net", "vif = [\"backend=evil\"]"))
        .boot();
    let pages = pages();
    let honest = |system: &mut System| {
        system.until("a page from honest drivers", |_| server.serves(page(&pages, "index.html")).ok());
    };
    honest(&mut system);
    for (kind, list, acts) in [("block", "block-list", BLOCK), ("net", "network-list", NET)] {
        for one in acts {
            act(&mut system, kind, list, one);
            honest(&mut system);
        }
    }
    for name in ["disk", "network", "web"] {
        let row = system.json(&format!("list {name}"))[0].clone();
        assert_eq!(row["restarts"], 0, "{row}");
    }
    assert!(system.panicked().is_none());
}
