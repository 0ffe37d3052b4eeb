//! What dom0 sees: a domain made, restarted in place and destroyed, at the prompt.

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::{Measurement, PATIENCE};
use crate::emulator::Machine;

/// Its name in the table.
pub const SCENARIO: &str = "lifecycle";
/// Times everything is measured. Each domain is a fresh one, and the runs hardly differ.
const ROUNDS: usize = 10;

/// What a command says that it did.
#[derive(Deserialize)]
struct Done {
    ns: u64,
}

/// A domain in the list, with readings of the time stamp counter.
#[derive(Deserialize)]
struct Domain {
    created_tsc: u64,
    first_run_tsc: u64,
}

/// The machine.
#[derive(Deserialize)]
struct Info {
    tsc_hz: u64,
}

/// Makes, restarts and destroys a small domain many times.
pub fn measure(machine: &mut Machine) -> Result<Vec<Measurement>> {
    // dom0 converts by the frequency it measured, which is not exactly 1 GHz.
    let tsc_hz = machine.query::<Info>("info --json")?.tsc_hz;
    let ticks = |ns: u64| (u128::from(ns) * u128::from(tsc_hz) / 1_000_000_000) as u64;
    let (mut create, mut restart, mut destroy) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("life-{round}");
        machine.succeed(&format!("create hello name={name}"))?;
        create.push(to_first_instruction(machine, &name)?);
        machine.succeed(&format!("restart {name}"))?;
        restart.push(to_first_instruction(machine, &name)?);
        destroy.push(ticks(machine.query::<Done>(&format!("destroy {name} --json"))?.ns));
    }
    let named =
        [("create_to_first_instruction", create), ("restart_to_first_instruction", restart), ("destroy", destroy)];
    Ok(named.into_iter().filter_map(|(name, samples)| Measurement::of(name, samples)).collect())
}

/// Ticks from the moment the core began to make the domain, or to take it back, to its first instruction.
fn to_first_instruction(machine: &mut Machine, name: &str) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list: Vec<Domain> = machine.query(&format!("list {name} --json"))?;
        if let Some(domain) = list.first().filter(|domain| domain.first_run_tsc > domain.created_tsc) {
            return Ok(domain.first_run_tsc - domain.created_tsc);
        }
        if Instant::now() >= deadline {
            bail!("{name} has not run");
        }
    }
}
