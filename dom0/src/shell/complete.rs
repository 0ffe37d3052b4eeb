//! What could follow in a line that is being typed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::connection::KillPoint;

use super::commands::{self, COMMANDS, Words};
use crate::config::Role;
use crate::config::keys::{KEYS, Meaning};
use crate::hypervisor::Hypervisor;
use crate::plane::Plane;

/// The words that could stand where the last word of `line` begins, and how many bytes of it are typed.
pub fn candidates<H: Hypervisor>(plane: &Plane<'_, H>, line: &str) -> (usize, Vec<String>) {
    let command = line.rsplit(';').next().unwrap_or(line).trim_start();
    let mut words: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
    let typed = if command.ends_with(' ') { "" } else { words.pop().unwrap_or("") };
    let mut all = match words.split_first() {
        None => COMMANDS.iter().map(|command| command.name.to_owned()).collect(),
        Some((name, rest)) => arguments(plane, name, rest, typed),
    };
    all.retain(|word| word.starts_with(typed) && !words.contains(&word.as_str()));
    all.sort_unstable();
    all.dedup();
    (typed.len(), all)
}

fn arguments<H: Hypervisor>(plane: &Plane<'_, H>, name: &str, rest: &[&str], typed: &str) -> Vec<String> {
    let Some(command) = commands::find(name) else { return Vec::new() };
    if typed.starts_with('-') {
        return command.options.iter().map(|option| format!("--{}", option.long)).collect();
    }
    let words = rest.iter().filter(|word| !word.starts_with('-')).count();
    match command.words {
        Words::None => Vec::new(),
        Words::Domains => plane.names(),
        Words::Commands => {
            COMMANDS.iter().map(|command| command.name).chain(["config"]).map(ToOwned::to_owned).collect()
        }
        _ if words == 0 && command.words != Words::Configuration => plane.names(),
        Words::Image => plane.bundle.names("images", "").into_iter().map(ToOwned::to_owned).collect(),
        Words::KillPoint => KillPoint::ALL.iter().map(|point| point.name().to_owned()).collect(),
        Words::Disk => devices(plane, rest, Role::Disk),
        Words::Interface => devices(plane, rest, Role::Network),
        Words::Target => alloc::vec!["phy:".to_owned()],
        Words::Configuration if words == 0 => {
            let mut names = plane.bundle.names("config", ".toml");
            names.extend(plane.bundle.names("auto", ".toml"));
            names.into_iter().map(ToOwned::to_owned).collect()
        }
        Words::Configuration => {
            let known = KEYS.iter().filter(|key| matches!(key.meaning, Meaning::Every | Meaning::Native));
            known.map(|key| format!("{}=", key.name)).collect()
        }
    }
}

/// The devices of the domain that is named first.
fn devices<H: Hypervisor>(plane: &Plane<'_, H>, rest: &[&str], role: Role) -> Vec<String> {
    let guest = rest.iter().find_map(|word| plane.find(word));
    let of = plane.devices().filter(|device| Some(device.guest) == guest && device.kind.role() == role);
    of.map(|device| device.name.clone()).collect()
}
