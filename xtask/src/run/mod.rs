//! The verb `run`: the machine, with the operator's terminal or with a list of commands.

mod devices;
mod exec;
mod medium;
mod terminal;

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bundle::{self, Entry};
use crate::emulator::{Accel, Machine, Options, prompt};
use crate::guest::Kind;
use crate::{build, process, workspace};

/// Boot the machine in an emulator
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Commands for dom0's shell instead of a terminal, separated by `;`; ends with their status
    #[arg(long, value_name = "COMMANDS")]
    exec: Option<String>,
    /// CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory
    #[arg(long, default_value = "512M", default_value_if("guest", clap::builder::ArgPredicate::IsPresent, "1536M"))]
    memory: String,
    /// How code is executed
    #[arg(long, value_enum, default_value_t)]
    accel: Accel,
    /// A configuration to start at boot, in addition to images/auto
    #[arg(long, value_name = "FILE")]
    auto: Vec<PathBuf>,
    /// A Linux guest to make, if it is not there yet, and to start at boot
    #[arg(long, value_enum)]
    guest: Vec<Kind>,
    /// Words added to the boot line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    #[command(flatten)]
    medium: medium::Boot,
    #[command(flatten)]
    devices: devices::Devices,
    /// Seconds that boot and all commands together may take
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Print one JSON object instead of text (with commands)
    #[arg(long)]
    json: bool,
    /// Install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// Builds, boots and serves the operator. Gives the status to end with.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let mut tools = arguments.medium.tools();
    tools.extend(arguments.guest.iter().flat_map(|guest| guest.tools()));
    let packages = build::prepare(&tools, arguments.yes)?;
    let logs = workspace::target().join("run").join(std::process::id().to_string());
    let mut options = Options::new(arguments.smp, logs.clone());
    let mut guest_disks = Vec::new();
    if !arguments.auto.is_empty() || !arguments.guest.is_empty() {
        let mut entries = bundle::standard(&packages, workspace::FIRST_DOMAIN)?;
        for file in &arguments.auto {
            entries.push(auto_entry(file)?);
        }
        for guest in &arguments.guest {
            let number = arguments.devices.disks() + guest_disks.len();
            guest_disks.extend(guest.bundle(&mut entries, number)?);
        }
        options.bundle = logs.join("bundle.tar");
        bundle::write(&options.bundle, &entries)?;
    }
    arguments.medium.apply(&mut options)?;
    arguments.devices.apply(&mut options)?;
    options.disks.append(&mut guest_disks);
    options.memory.clone_from(&arguments.memory);
    options.accel = arguments.accel;
    options.append.clone_from(&arguments.append);
    options.timeout = Duration::from_secs(arguments.timeout);

    let interactive = arguments.exec.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    process::step(format_args!("booting ({} CPUs, {})", options.cpus, options.memory));
    let status = if interactive {
        if arguments.json {
            bail!("--json needs --exec");
        }
        terminal::serve(Machine::start(options)?)?
    } else {
        let commands = match &arguments.exec {
            Some(line) => line.clone(),
            None => commands_from_stdin()?,
        };
        exec::run(options, &prompt::split_commands(&commands), arguments.json)?
    };
    // After a failure the error has named the logs; they are of no use otherwise.
    let _ = fs::remove_dir_all(logs);
    Ok(status)
}

fn auto_entry(file: &Path) -> Result<Entry> {
    let name = bundle::file_name(&file.with_extension("toml"));
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Entry::new(format!("auto/{name}"), bytes))
}

/// Without a terminal the commands come from standard input, one a line.
fn commands_from_stdin() -> Result<String> {
    let mut commands = String::new();
    std::io::stdin().read_to_string(&mut commands).context("standard input")?;
    Ok(commands)
}
