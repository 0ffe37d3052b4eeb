//! Soaks with one step of the journal rule switched off. A soak that does not notice looks at nothing.
//!
//! The disk domain is built a second time, with the feature `mutants`, into a folder of its own; the product never contains
//! any of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use protocol::mutant::Mutant;
use serde::Serialize;

use super::{Arguments, MUTANT_KILLS, Points, Summary, Target, soak};
use crate::bundle::{self, Entry};
use crate::{build, process, workspace};

/// The disk domain, whose journal it is about.
const DOMAIN: &str = "disk";
/// Where it is built with mutants.
const FOLDER: &str = "target/mutants";

/// Reads a mutant's name.
pub fn parse(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| {
        let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("there is no such mutant; choose among {}", names.join(", "))
    })
}

/// What became of one mutant.
#[derive(Debug, Serialize)]
struct Noticed {
    mutant: &'static str,
    /// By whom; `None` if nobody noticed.
    noticed: Option<String>,
    kills: usize,
    seconds: f64,
    /// Why it is left to tests on the host, if it is.
    only_on_host: Option<&'static str>,
}

/// Builds the disk domain with mutants; gives its image and a configuration that selects `mutant`.
pub fn entries(mutant: Mutant) -> Result<Vec<Entry>> {
    process::step("building the disk domain with mutants");
    let mut cargo = build::domain_cargo_for("build", [DOMAIN], FOLDER);
    cargo.args(["--features", "unikernel/mutants"]);
    process::run(&mut cargo).context("the disk domain does not build with mutants")?;
    let elf: PathBuf = workspace::root().join(FOLDER).join(workspace::TARGET).join("release").join(DOMAIN);
    let name = format!("auto/{DOMAIN}.toml");
    let configuration = std::fs::read_to_string(workspace::root().join("images").join(&name))?;
    let text = format!("{configuration}\nextra = \"mutant={}\"\n", mutant.name());
    Ok(vec![Entry::file(format!("images/{DOMAIN}"), &elf)?, Entry::new(name, text)])
}

/// Runs with each mutant in turn, and prints which were noticed.
pub fn run_all(arguments: &Arguments) -> Result<u8> {
    let packages = workspace::packages()?;
    let mut list = Vec::new();
    for mutant in Mutant::ALL {
        let only_on_host = mutant.only_on_host();
        if only_on_host.is_some() {
            list.push(Noticed { mutant: mutant.name(), noticed: None, kills: 0, seconds: 0.0, only_on_host });
            continue;
        }
        process::step(format_args!("mutant {}", mutant.name()));
        let mut bundle = bundle::standard(&packages, workspace::FIRST_DOMAIN)?;
        bundle.extend(entries(mutant)?);
        let mut one = arguments.clone();
        (one.kills, one.domains) = (MUTANT_KILLS, vec![Target::Disk]);
        one.kill_point = mutant.kill_point().map_or(Points::All, Points::One);
        // A machine that does not even boot shows nothing.
        let Summary { failure: noticed, kills, seconds, .. } = soak(&one, bundle)?;
        list.push(Noticed { mutant: mutant.name(), noticed, kills, seconds, only_on_host });
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&list)?),
        false => list.iter().for_each(|row| println!("{}", line(row))),
    }
    Ok(u8::from(list.iter().any(|row| row.noticed.is_none() && row.only_on_host.is_none())))
}

fn line(row: &Noticed) -> String {
    if let Some(why) = row.only_on_host {
        return format!("{:<24} left to tests on the host: {why}", row.mutant);
    }
    let first = |text: &String| text.lines().next().unwrap_or_default().to_string();
    let noticed = row.noticed.as_ref().map_or_else(|| "NOT NOTICED".into(), first);
    format!("{:<24} {:>4} kills {:>5.0} s  {noticed}", row.mutant, row.kills, row.seconds)
}
