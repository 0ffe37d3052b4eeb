//! What domains measure themselves: the guest `echo`, alone and in pairs. It leaves its results in the core's log.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Measurement, PATIENCE};
use crate::emulator::Machine;

/// How a line of results begins, after the name of the domain it comes from.
const MARK: &str = "bench ";
/// What follows it in the last one.
const DONE: &str = r#"{"done":true}"#;
/// How often the log is read.
const POLL: std::time::Duration = std::time::Duration::from_millis(50);

/// Domains that measure something.
pub struct Scenario {
    /// Its name in the table.
    pub name: &'static str,
    /// CPUs the machine must have.
    pub cpus: u32,
    /// Name and configuration of the one that answers, if there is one.
    partner: Option<(&'static str, &'static str)>,
    /// Name and configuration of the one that measures.
    measuring: (&'static str, &'static str),
}

/// Everything that is measured this way. Log lines are told apart by the name of their domain, so no two have the same.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "alone", cpus: 1, partner: None, measuring: ("alone", "cpus=0 cmdline=solo") },
    Scenario {
        name: "pair",
        cpus: 1,
        partner: Some(("answer", "cpus=0")),
        measuring: ("ask", "cpus=0 'connect=[\"answer\"]'"),
    },
    Scenario {
        name: "pair, driver answers",
        cpus: 1,
        partner: Some(("driver", "cpus=0 class=driver")),
        measuring: ("ask-driver", "cpus=0 'connect=[\"driver\"]'"),
    },
    Scenario {
        name: "pair on two CPUs",
        cpus: 2,
        partner: Some(("far", "cpus=1")),
        measuring: ("ask-far", "cpus=0 'connect=[\"far\"]'"),
    },
];

/// Starts the domains of a scenario, and waits for what they measured.
pub fn measure(machine: &mut Machine, scenario: &Scenario) -> Result<Vec<Measurement>> {
    for (name, configuration) in scenario.partner.iter().chain([&scenario.measuring]) {
        machine.succeed(&format!("create echo name={name} {configuration}"))?;
    }
    let measured = results(machine, scenario.measuring.0)?;
    if let Some((name, _)) = scenario.partner {
        machine.succeed(&format!("destroy {name}"))?;
    }
    Ok(measured)
}

fn results(machine: &mut Machine, domain: &str) -> Result<Vec<Measurement>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log: Vec<String> = machine.query("dmesg --json")?;
        let (found, done) = read(&log, domain)?;
        if done {
            return Ok(found);
        }
        if log.iter().any(|line| line.contains(&format!("({domain}) "))) || Instant::now() >= deadline {
            let tail = log[log.len().saturating_sub(10)..].join("\n");
            bail!("the guest {domain} has not finished its measurements; the log ends with\n{tail}");
        }
        std::thread::sleep(POLL);
    }
}

/// The results of a domain in the log, and whether there will be no more.
fn read(log: &[String], domain: &str) -> Result<(Vec<Measurement>, bool)> {
    let mut found = Vec::new();
    for line in log {
        let Some((_, text)) = line.split_once(&format!("[{domain}] {MARK}")) else { continue };
        if text == DONE {
            return Ok((found, true));
        }
        found.push(serde_json::from_str(text).with_context(|| format!("cannot read the log line `{line}`"))?);
    }
    Ok((found, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_up_to_the_end_and_only_of_the_domain_asked_for() {
        let result = |name: &str| format!(r#"bench {{"name":"{name}","min":1,"median":2,"p99":3,"samples":4}}"#);
        let mut log = vec![
            "[    0.000000] core: 511 MiB of memory".to_string(),
            format!("[    0.055463] [a] {}", result("one")),
            format!("[    0.055464] [b] {}", result("other")),
            format!("[    0.055465] [a] {}", result("two")),
        ];
        let (found, done) = read(&log, "a").unwrap();
        assert_eq!((found.len(), done), (2, false));
        assert_eq!(found[1], Measurement { name: "two".into(), min: 1, median: 2, p99: 3, samples: 4 });
        log.push(r#"[    0.055466] [a] bench {"done":true}"#.into());
        assert!(read(&log, "a").unwrap().1);
        log.insert(1, "[    0.055466] [a] bench {".into());
        assert!(read(&log, "a").is_err());
    }
}
