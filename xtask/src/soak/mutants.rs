//! Soaks with one step of the journal rule switched off. A soak that does not notice looks at nothing.

use anyhow::Result;
use protocol::mutant::Mutant;
use serde::Serialize;

use super::{Arguments, MUTANT_KILLS, Points, Summary, Target, image, soak};
use crate::{bundle, process, workspace};

/// Reads a mutant's name.
pub fn parse(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| {
        let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("there is no such mutant; choose among {}", names.join(", "))
    })
}

/// Where domains with this mutant die. A record that was damaged on purpose is the finding of one mutant only: elsewhere, a closure
/// for a damaged record has to be the mutant's doing.
fn points(mutant: Mutant) -> Points {
    mutant.kill_point().map_or(Points::Product, Points::One)
}

/// What became of one mutant.
#[derive(Debug, Serialize)]
struct Noticed {
    mutant: &'static str,
    /// By whom; `None` if nobody noticed.
    noticed: Option<String>,
    kills: usize,
    seconds: f64,
}

/// Runs with each mutant in turn, and prints which were noticed.
pub fn run_all(arguments: &Arguments) -> Result<u8> {
    let packages = workspace::packages()?;
    let mut list = Vec::new();
    for mutant in Mutant::ALL {
        process::step(format_args!("mutant {}", mutant.name()));
        let mut bundle = bundle::standard(&packages, workspace::FIRST_DOMAIN)?;
        bundle.extend(image::entries(Some(mutant))?);
        let mut one = arguments.clone();
        (one.kills, one.domains) = (MUTANT_KILLS, vec![Target::Disk]);
        one.kill_point = points(mutant);
        // A machine that does not even boot shows nothing.
        let Summary { failure: noticed, kills, seconds, .. } = soak(&one, bundle)?;
        list.push(Noticed { mutant: mutant.name(), noticed, kills, seconds });
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&list)?),
        false => list.iter().for_each(|row| println!("{}", line(row))),
    }
    Ok(u8::from(list.iter().any(|row| row.noticed.is_none())))
}

fn line(row: &Noticed) -> String {
    let first = |text: &String| text.lines().next().unwrap_or_default().to_string();
    let noticed = row.noticed.as_ref().map_or_else(|| "NOT NOTICED".into(), first);
    format!("{:<24} {:>4} kills {:>5.0} s  {noticed}", row.mutant, row.kills, row.seconds)
}

#[cfg(test)]
mod tests {
    use super::super::plan::{DAMAGE, named};
    use super::*;

    #[test]
    fn only_who_believes_damage_gets_damage() {
        for mutant in Mutant::ALL {
            let damages = named(points(mutant), &[Target::Disk]).contains(&DAMAGE);
            assert_eq!(damages, mutant == Mutant::DamageBelieved, "{}", mutant.name());
        }
    }
}
