//! Starting an emulator: the process, and its ends of the serial port.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::{Options, arguments, bochs};
use crate::{process, system};

/// An emulator that has been started.
pub struct Launched {
    /// Its process.
    pub child: Child,
    /// What is typed on the serial port.
    pub input: Box<dyn Write + Send>,
    /// What the serial port says.
    pub output: Box<dyn Read + Send>,
}

/// Starts the emulator that `options` ask for.
pub fn launch(options: &Options) -> Result<Launched> {
    match &options.medium {
        Some(medium) if options.in_bochs() => bochs::start(options, &medium.file),
        _ => qemu(options),
    }
}

fn qemu(options: &Options) -> Result<Launched> {
    let qemu = options.emulator.clone().or_else(|| process::find(system::QEMU.program));
    let qemu = qemu.with_context(|| format!("{} not found (run `cargo xtask run` once)", system::QEMU.program))?;
    let kvm = arguments::use_kvm_here(options.accel);
    let mut command = supervised(qemu);
    command.args(arguments::arguments(options, kvm, &options.logs.join("debug.log")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(options.logs.join("emulator.log"))?);
    let mut child = command.spawn().context("cannot start the emulator")?;
    let output = Box::new(child.stdout.take().context("the emulator has no output")?);
    let input = Box::new(child.stdin.take().context("the emulator has no input")?);
    Ok(Launched { child, input, output })
}

/// The emulator under a parent that takes it along when it dies, even by a signal.
pub fn supervised(emulator: PathBuf) -> Command {
    match process::find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(emulator);
            command
        }
        None => Command::new(emulator),
    }
}
