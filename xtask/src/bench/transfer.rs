//! What moving data costs: all that the domains on its way used, for each request or frame.
//!
//! The core counts a domain's CPU time from one switch to the next, so instructions that the core executes on its behalf are in it, and
//! time without work is not. A load is run twice, short and long; the difference divided by the difference in length is free of
//! what starting and ending cost.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use crate::emulator::Machine;

/// How often the log is read.
const POLL: Duration = Duration::from_millis(100);
/// What a load says when it is done.
const DONE: &str = r#"bench {"done":true}"#;

/// Guests under load, and who serves them.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its name in the table.
    pub scenario: &'static str,
    /// How many requests or frames may be under way.
    pub depth: u64,
    /// The driver domain, if there is one.
    pub backend: Option<&'static str>,
    /// Name and configuration of the guest at the other end, if there is one.
    pub partner: Option<(&'static str, &'static str)>,
    /// Configuration of the guest that issues them, which takes a number and a depth.
    pub guest: &'static str,
    /// The word for their number.
    pub count: &'static str,
    /// How many there are in the short and in the long run.
    pub counts: (u64, u64),
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Instructions of all domains on the way, and of the core for them.
    pub instructions: f64,
    /// Of these, the driver domain's.
    pub driver_instructions: f64,
    /// Hypercalls of all of them.
    pub hypercalls: f64,
    /// Events they sent.
    pub notifications: f64,
    /// Hypercalls on grants.
    pub grant_calls: f64,
}

impl Cost {
    fn join(self, other: Cost, with: impl Fn(f64, f64) -> f64) -> Cost {
        Cost {
            instructions: with(self.instructions, other.instructions),
            driver_instructions: with(self.driver_instructions, other.driver_instructions),
            hypercalls: with(self.hypercalls, other.hypercalls),
            notifications: with(self.notifications, other.notifications),
            grant_calls: with(self.grant_calls, other.grant_calls),
        }
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

/// What `disks` and `net` say.
#[derive(Deserialize)]
struct Connections {
    connections: Vec<Connection>,
}

impl Load {
    /// What each request or frame costs.
    pub fn measure(&self, machine: &mut Machine, round: usize) -> Result<Cost> {
        let (short, long) = self.counts;
        let few = self.run(machine, &format!("{round}s"), short)?;
        let many = self.run(machine, &format!("{round}l"), long)?;
        Ok(many.join(few, |many, few| (many - few) / (long - short) as f64))
    }

    fn run(&self, machine: &mut Machine, suffix: &str, count: u64) -> Result<Cost> {
        let guest = format!("{}-{}-{suffix}", self.scenario.replace([' ', ','], ""), self.depth);
        if let Some((name, configuration)) = self.partner {
            machine.succeed(&format!("create {configuration} name={name}"))?;
        }
        let before = self.used(machine, &[])?;
        let Load { guest: configuration, count: word, depth, .. } = self;
        machine.succeed(&format!("create {configuration}{word}={count} depth={depth}\"' name={guest}"))?;
        wait(machine, &guest)?;
        let after = self.used(machine, &[&guest])?;
        for name in [Some(guest.as_str()), self.partner.map(|(name, _)| name)].into_iter().flatten() {
            machine.succeed(&format!("destroy {name}"))?;
        }
        Ok(after.join(before, |after, before| after - before))
    }

    /// What all domains on the way have used since they were started.
    fn used(&self, machine: &mut Machine, guests: &[&str]) -> Result<Cost> {
        let others = [self.backend, self.partner.map(|(name, _)| name)];
        let names: Vec<&str> = others.into_iter().flatten().chain(guests.iter().copied()).collect();
        let mut cost = Cost::default();
        if names.is_empty() {
            return Ok(cost);
        }
        for domain in machine.query::<Vec<Domain>>(&format!("list {} --json", names.join(" ")))? {
            cost.instructions += domain.cpu_ns as f64;
            cost.hypercalls += domain.hypercalls as f64;
            cost.notifications += domain.events_sent as f64;
            if self.backend == Some(domain.name.as_str()) {
                cost.driver_instructions += domain.cpu_ns as f64;
            }
        }
        let list = match self.backend {
            Some("disk") => "disks --json",
            Some(_) => "net --json",
            None => return Ok(cost),
        };
        let connections = machine.query::<Connections>(list)?.connections;
        let statistics = connections.iter().filter_map(|connection| connection.statistics.as_ref());
        cost.grant_calls = statistics.map(|statistics| statistics.grant_calls as f64).sum();
        Ok(cost)
    }
}

fn wait(machine: &mut Machine, guest: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log: Vec<String> = machine.query("dmesg --json")?;
        if log.iter().any(|line| line.contains(&format!("[{guest}] {DONE}"))) {
            return Ok(());
        }
        if log.iter().any(|line| line.contains(&format!("({guest}) "))) || Instant::now() >= deadline {
            let tail = log[log.len().saturating_sub(10)..].join("\n");
            bail!("the load {guest} is not done; the log ends with\n{tail}");
        }
        std::thread::sleep(POLL);
    }
}
