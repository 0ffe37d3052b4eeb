//! Running other programs: one line of progress before, one clear message after a failure.

use std::fmt::Display;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Says on standard error what happens next; standard output belongs to results.
pub fn step(text: impl Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==> {text}\x1b[0m");
    } else {
        eprintln!("==> {text}");
    }
}

/// Cargo, at the top of the workspace, without flags in the environment that would replace those of our configuration files.
pub fn cargo() -> Command {
    let mut cargo = crate::workspace::command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").stdin(Stdio::null());
    cargo
}

/// Runs a command whose output the operator sees.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs a command and gives its standard output.
pub fn capture(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{}`", show(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", show(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", show(command)))
}

/// The path of a program, if it can be found.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    // The system folders are looked at even where an ordinary user's PATH lacks them.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The command as it would be typed.
pub fn show(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = Path::new(program.as_ref()).file_name().map_or(program.clone(), |name| name.to_string_lossy());
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(program.clone()).chain(arguments).map(|word| quote(&word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["run", "--exec", "list; info"]);
        assert_eq!(show(&command), "cargo run --exec 'list; info'");
    }

    #[test]
    fn programs_are_found_and_missing_ones_are_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
