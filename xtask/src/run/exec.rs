//! Commands typed by `run --exec` at the real console, one by one, as an operator would.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::emulator::{Exit, Machine, Options, Reply};

/// Least time for a single wait: at the very end of the allowance an answer that is there must still be seen.
const LEAST: Duration = Duration::from_millis(100);

/// What happened, for `--json`.
#[derive(Serialize)]
struct Outcome {
    status: u32,
    boot: Option<String>,
    commands: Vec<Command>,
}

#[derive(Serialize)]
struct Command {
    command: String,
    status: u32,
    output: String,
}

/// Boots, carries out `commands` until the first that fails, and prints what they print. Gives the status to end with.
pub fn run(options: Options, commands: &[String], json: bool) -> Result<u8> {
    let deadline = Instant::now() + options.timeout;
    let mut machine = Machine::boot(options)?;
    let boot = machine.boot_reply().clone();
    let mut outcome = Outcome { status: boot.status, boot: None, commands: Vec::new() };
    if outcome.status != 0 {
        if !json {
            eprint!("{}", boot.text);
            eprintln!("error: a domain in auto/ could not be started (status {}); the reason is above", boot.status);
        }
        outcome.boot = Some(boot.text);
    } else {
        for command in commands {
            let left = deadline.saturating_duration_since(Instant::now()).max(LEAST);
            let (reply, ended) = execute(&mut machine, command, left)?;
            if !json {
                print!("{}", reply.text);
                std::io::stdout().flush()?;
            }
            outcome.status = reply.status;
            outcome.commands.push(Command { command: command.clone(), status: reply.status, output: reply.text });
            if ended || outcome.status != 0 {
                break;
            }
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else if let Some(failed) = outcome.commands.last().filter(|command| command.status != 0) {
        eprintln!("error: `{}` ended with status {}", failed.command, failed.status);
    }
    // A status that does not fit is still a failure.
    Ok(u8::try_from(outcome.status).unwrap_or(u8::MAX))
}

/// Carries out one command; says whether the machine has ended with it.
fn execute(machine: &mut Machine, command: &str, timeout: Duration) -> Result<(Reply, bool)> {
    // Any command may end the machine, a list such as `list; poweroff` too.
    match machine.last_command(command, timeout)? {
        Ok(reply) => Ok((reply, false)),
        Err(Exit::PowerOff(status)) => Ok((Reply { status, text: machine.answer_so_far() }, true)),
        Err(Exit::Reset) => bail!("the machine reset itself during `{command}`"),
        Err(Exit::Failed(code)) => bail!("the emulator failed (exit code {code:?})"),
    }
}
