//! What moving data costs: all that the domains on its way used, for each request or frame.
//!
//! The core counts a domain's CPU time from one switch to the next, so what the core executes on its behalf is in it, and time
//! without work is not; where each instruction takes 1 ns, that is a count of instructions. A load is run twice, short and
//! long: the difference, divided by the difference in length, is free of what starting and ending cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::emulator::Machine;

/// How often the log is read.
const POLL: Duration = Duration::from_millis(100);
/// What a load says when it is done, before the time it took.
const DONE: &str = "bench ";

/// A guest under load, and who serves it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its name in the table.
    pub scenario: &'static str,
    /// The driver domain, and the command that shows its connections, if there is one.
    pub backend: Option<(&'static str, &'static str)>,
    /// Configuration and name of the guest at the other end, if there is one.
    pub partner: Option<(&'static str, &'static str)>,
    /// Configuration of the guest that issues requests or sends frames.
    pub guest: &'static str,
    /// Its command line, without their number and how many may be under way.
    pub words: &'static str,
    /// The word for the number.
    pub count: &'static str,
    /// The number in the short and in the long run.
    pub counts: (u64, u64),
    /// How many may be under way.
    pub depth: u64,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// ns of CPU time of all domains on the way, and of the core for them.
    pub cpu: f64,
    /// Of these, the driver domain's.
    pub driver: f64,
    /// Hypercalls of all of them.
    pub hypercalls: f64,
    /// Events they sent.
    pub notifications: f64,
    /// Hypercalls on grants.
    pub grant_calls: f64,
    /// ns from the first to the last.
    pub elapsed: f64,
}

impl Cost {
    /// Joins each number with that of another.
    fn join(self, other: Cost, with: impl Fn(f64, f64) -> f64) -> Cost {
        Cost {
            cpu: with(self.cpu, other.cpu),
            driver: with(self.driver, other.driver),
            hypercalls: with(self.hypercalls, other.hypercalls),
            notifications: with(self.notifications, other.notifications),
            grant_calls: with(self.grant_calls, other.grant_calls),
            elapsed: with(self.elapsed, other.elapsed),
        }
    }

    /// That of several whose CPU time is the median; all zeros if there are none.
    fn median(mut costs: Vec<Cost>) -> Cost {
        costs.sort_by(|one, other| one.cpu.total_cmp(&other.cpu));
        costs.get(costs.len() / 2).copied().unwrap_or_default()
    }
}

/// A domain in the list.
#[derive(Deserialize)]
struct Domain {
    name: String,
    cpu_ns: u64,
    hypercalls: u64,
    events_sent: u64,
}

/// A connection, in the lists of disks and of the network's ports.
#[derive(Deserialize)]
struct Connection {
    statistics: Option<Statistics>,
}

#[derive(Deserialize)]
struct Statistics {
    grant_calls: u64,
}

#[derive(Deserialize)]
struct Connections {
    connections: Vec<Connection>,
}

/// What a load says at its end.
#[derive(Deserialize)]
struct Done {
    ns: u64,
}

impl Load {
    /// What each request or frame costs: the median of so many `rounds`.
    pub fn measure(&self, machine: &mut Machine, rounds: usize) -> Result<Cost> {
        let (short, long) = self.counts;
        let mut costs = Vec::new();
        for round in 0..rounds {
            let few = self.run(machine, &format!("{round}-short"), short)?;
            let many = self.run(machine, &format!("{round}-long"), long)?;
            costs.push(many.join(few, |many, few| (many - few) / (long - short) as f64));
        }
        Ok(Cost::median(costs))
    }

    fn run(&self, machine: &mut Machine, suffix: &str, count: u64) -> Result<Cost> {
        let Load { scenario, partner, guest, words, count: word, depth, .. } = self;
        // Log lines are told apart by the name of their domain, so no two have the same.
        let name = format!("{}-{depth}-{suffix}", scenario.replace(|c: char| !c.is_ascii_alphanumeric(), ""));
        if let Some((configuration, name)) = partner {
            machine.succeed(&format!("create {configuration} name={name}"))?;
        }
        let before = self.used(machine, None)?;
        let line = format!("{words} {word}={count} depth={depth}");
        machine.succeed(&format!("create {guest} name={name} 'cmdline=\"{}\"'", line.trim()))?;
        let ns = wait(machine, &name).with_context(|| scenario.to_string())?;
        let after = Cost { elapsed: ns as f64, ..self.used(machine, Some(&name))? };
        for name in [Some(name.as_str()), partner.map(|(_, name)| name)].into_iter().flatten() {
            machine.succeed(&format!("destroy {name}"))?;
        }
        Ok(after.join(before, |after, before| after - before))
    }

    /// What all domains on the way have used since they were started, but for the time.
    fn used(&self, machine: &mut Machine, guest: Option<&str>) -> Result<Cost> {
        let mut cost = Cost::default();
        let others = [self.backend.map(|(name, _)| name), self.partner.map(|(_, name)| name), guest];
        let names: Vec<&str> = others.into_iter().flatten().collect();
        if names.is_empty() {
            return Ok(cost);
        }
        for domain in machine.query::<Vec<Domain>>(&format!("list {} --json", names.join(" ")))? {
            cost.cpu += domain.cpu_ns as f64;
            cost.hypercalls += domain.hypercalls as f64;
            cost.notifications += domain.events_sent as f64;
            if self.backend.is_some_and(|(name, _)| name == domain.name) {
                cost.driver += domain.cpu_ns as f64;
            }
        }
        let Some((_, list)) = self.backend else { return Ok(cost) };
        let connections = machine.query::<Connections>(list)?.connections;
        let statistics = connections.iter().filter_map(|connection| connection.statistics.as_ref());
        cost.grant_calls = statistics.map(|statistics| statistics.grant_calls as f64).sum();
        Ok(cost)
    }
}

/// Waits until a load is done; gives how long it took, in ns.
fn wait(machine: &mut Machine, guest: &str) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log: Vec<String> = machine.query("dmesg --json")?;
        let said = log.iter().find_map(|line| line.split_once(&format!("[{guest}] {DONE}")));
        if let Some((_, text)) = said {
            let done: Done = serde_json::from_str(text).with_context(|| format!("`{text}`"))?;
            return Ok(done.ns);
        }
        if log.iter().any(|line| line.contains(&format!("({guest}) "))) || Instant::now() >= deadline {
            let tail = log[log.len().saturating_sub(10)..].join("\n");
            bail!("the load {guest} is not done; the log ends with\n{tail}");
        }
        std::thread::sleep(POLL);
    }
}
