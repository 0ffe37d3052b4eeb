//! The disk domain as a soak needs it beside the product's: able to damage its record before it dies, and with one step of the
//! journal rule switched off.
//!
//! It is built a second time, with features that the product never has, into folders of their own.

use anyhow::{Context, Result};
use protocol::mutant::Mutant;

use crate::bundle::Entry;
use crate::{build, process, workspace};

/// The disk domain, whose journal it is about.
const DOMAIN: &str = "disk";

/// Builds the disk domain, with mutants if one is wanted; gives its image, and a configuration that selects the mutant.
pub fn entries(mutant: Option<Mutant>) -> Result<Vec<Entry>> {
    let (what, folder, features) = match mutant {
        None => ("that damages its record", "target/damage", "disk/damage"),
        Some(_) => ("with mutants", "target/mutants", "disk/damage,unikernel/mutants"),
    };
    process::step(format_args!("building the disk domain {what}"));
    let mut cargo = build::domain_cargo_for("build", [DOMAIN], folder);
    cargo.args(["--features", features]);
    process::run(&mut cargo).with_context(|| format!("the disk domain {what} does not build"))?;
    let elf = workspace::root().join(folder).join(workspace::TARGET).join("release").join(DOMAIN);
    let mut entries = vec![Entry::file(format!("images/{DOMAIN}"), &elf)?];
    if let Some(mutant) = mutant {
        let name = format!("auto/{DOMAIN}.toml");
        let configuration = std::fs::read_to_string(workspace::root().join("images").join(&name))?;
        entries.push(Entry::new(name, format!("{configuration}\nextra = \"mutant={}\"\n", mutant.name())));
    }
    Ok(entries)
}
