//! The operator's terminal, connected to the machine's serial console key by key.
//!
//! The terminal is put in raw mode, so that every key, Ctrl-C and Ctrl-] included, reaches the machine. Only Ctrl-A is ours:
//! Ctrl-A X ends the emulator, Ctrl-A Ctrl-A sends one Ctrl-A.

use std::io::{Read, Write};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::emulator::{Exit, Machine};

const CTRL_A: u8 = 0x01;
/// How long a typed key may wait while the machine is silent; nobody feels this.
const KEY_LATENCY: Duration = Duration::from_millis(10);

/// Connects until the machine ends or the operator ends it. Gives the status to end with.
pub fn serve(mut machine: Machine) -> Result<u8> {
    eprintln!("Ctrl-A X ends the emulator, Ctrl-] returns from a domain's console to dom0");
    let raw = RawMode::enter()?;
    let keys = keys();
    let mut escape = false;
    let mut shown = 0;
    let result = loop {
        let bytes = machine.read_console(shown, KEY_LATENCY);
        shown += bytes.len();
        std::io::stdout().write_all(&bytes)?;
        std::io::stdout().flush()?;
        if let Some(panic) = machine.panicked() {
            break Err(panic);
        }
        if bytes.is_empty()
            && let Some(exit) = machine.ended()
        {
            break Ok(Some(exit));
        }
        match keys.try_recv() {
            Ok(typed) => match translate(&typed, &mut escape) {
                Some(typed) => machine.send(&typed)?,
                None => break Ok(None),
            },
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break Ok(None),
        }
    };
    drop(raw);
    match result? {
        None => {
            eprintln!("\nemulator ended");
            Ok(0)
        }
        Some(Exit::PowerOff(status)) => Ok(u8::try_from(status).unwrap_or(u8::MAX)),
        Some(Exit::Reset) => bail!("the machine reset itself"),
        Some(Exit::Failed(code)) => bail!("the emulator failed (exit code {code:?})"),
    }
}

/// Keys as they are typed; a thread, because reading the terminal waits.
fn keys() -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What goes to the machine; `None` when the operator asked to end. `escape` remembers a Ctrl-A between calls.
fn translate(typed: &[u8], escape: &mut bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for &key in typed {
        match (std::mem::take(escape), key) {
            (true, b'x' | b'X') => return None,
            (false, CTRL_A) => *escape = true,
            (_, key) => out.push(key),
        }
    }
    Some(out)
}

/// Raw mode of the terminal on standard input, undone when dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Result<RawMode> {
        let before = tcgetattr(std::io::stdin()).context("the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("the terminal's raw mode")?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_but_the_escape_reaches_the_machine() {
        let mut escape = false;
        assert_eq!(translate(b"ls\x03\x1d", &mut escape), Some(b"ls\x03\x1d".to_vec()));
        assert_eq!(translate(b"\x01", &mut escape), Some(vec![]));
        assert_eq!(translate(b"\x01", &mut escape), Some(vec![CTRL_A]));
        assert_eq!(translate(b"a\x01q", &mut escape), Some(b"aq".to_vec()));
        assert_eq!(translate(b"\x01x", &mut escape), None);
    }
}
