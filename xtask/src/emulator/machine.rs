//! A running emulator: started, talked to, and ended for certain.

use std::fs::{self, File};
use std::io::Write;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};

use super::launch::{Launched, launch};
use super::prompt::{self, Reply};
use super::transcript::{State, Transcript};
use super::{Options, bochs, report};

/// How long the rest of a panic report may take after its first line.
const REPORT_TIME: Duration = Duration::from_millis(1500);
/// How often a condition outside the transcript is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of the console that an error shows.
const TAIL_LINES: usize = 40;

/// How the emulator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The machine was powered off with this status.
    PowerOff(u32),
    /// The machine reset itself, which a triple fault does too.
    Reset,
    /// The emulator failed, with this exit code if it has one.
    Failed(Option<i32>),
}

/// A running machine. Dropping it ends the emulator, whatever state it is in.
pub struct Machine {
    child: Child,
    input: Box<dyn Write + Send>,
    console: Arc<Transcript>,
    /// Bytes of the console that earlier calls have dealt with.
    seen: usize,
    options: Options,
    boot: Reply,
}

impl Machine {
    /// Starts the emulator and returns at once.
    pub fn start(options: Options) -> Result<Machine> {
        let built = [(&options.core, "the core"), (&options.bundle, "the bundle")];
        let disks = options.disks.iter().map(|disk| (&disk.file, "the disk"));
        let medium = options.medium.iter().map(|medium| (&medium.file, "the image"));
        if let Some((file, what)) = built.into_iter().chain(disks).chain(medium).find(|(file, _)| !file.exists()) {
            bail!(
                "{what} is not there: {} is missing (`cargo xtask build` makes the core, the bundle and the disk)",
                file.display()
            );
        }
        fs::create_dir_all(&options.logs).with_context(|| format!("cannot make {}", options.logs.display()))?;
        let log = File::create(options.logs.join("serial.log"))?;
        let Launched { child, input, output } = launch(&options)?;
        let console = Transcript::record(output, log);
        Ok(Machine { child, input, console, seen: 0, options, boot: Reply::default() })
    }

    /// Starts the emulator and waits for the first prompt.
    pub fn boot(options: Options) -> Result<Machine> {
        let mut machine = Machine::start(options)?;
        let (status, text) = machine.wait("the first prompt", machine.options.timeout, prompt::at_prompt)?;
        machine.boot = Reply { status, text };
        Ok(machine)
    }

    /// What the machine said until the first prompt, and the status that prompt showed: not 0 if a domain in auto/ could
    /// not be started.
    pub fn boot_reply(&self) -> &Reply {
        &self.boot
    }

    /// Types a command and waits for its end.
    pub fn command(&mut self, line: &str) -> Result<Reply> {
        self.command_within(line, self.options.timeout)
    }

    /// Types a command and waits for its end at most this long.
    pub fn command_within(&mut self, line: &str, timeout: Duration) -> Result<Reply> {
        self.type_line(line)?;
        self.wait(&format!("the end of `{line}`"), timeout, |output| prompt::reply(output, line))
    }

    /// Types a line and its end.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\r").as_bytes())
    }

    /// Types bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen = prompt::whole(&self.console.lock().bytes);
        let sent = self.input.write_all(bytes).and_then(|()| self.input.flush());
        sent.map_err(|error| self.failure(anyhow!(error).context("cannot type on the console")))
    }

    /// Waits until the console shows `pattern` after what earlier calls have dealt with; gives the text up to its end.
    pub fn wait_for(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        self.wait_until(&format!("{pattern:?}"), timeout, |text| {
            let end = text.find(pattern)? + pattern.len();
            Some(text[..end].to_string())
        })
    }

    /// Waits until `look` finds what it wants in what the console shows after what earlier calls have dealt with.
    pub fn wait_until<T>(&mut self, what: &str, timeout: Duration, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.wait(what, timeout, |bytes| look(&prompt::text(bytes)))
    }

    /// Waits until the console shows a prompt after what earlier calls have dealt with.
    pub fn wait_prompt(&mut self, timeout: Duration) -> Result<Reply> {
        self.wait("a prompt", timeout, |bytes| prompt::at_prompt(bytes).map(|(status, text)| Reply { status, text }))
    }

    /// Waits until `look` finds what it wants in the output since the last call.
    fn wait<T>(&mut self, what: &str, timeout: Duration, look: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        let from = self.seen;
        let found = self.console.wait(Instant::now() + timeout, |state| {
            if report::has_panicked(&state.bytes[from..]) {
                return Some(None);
            }
            Some(Some((look(&state.bytes[from..])?, prompt::whole(&state.bytes))))
        });
        match found {
            Some(Some((value, seen))) => {
                self.seen = seen;
                Ok(value)
            }
            Some(None) => Err(self.panic()),
            None if self.console.lock().ended => {
                let exit = self.wait_exit(REPORT_TIME);
                Err(self.failure(anyhow!("the machine ended ({exit:?}) before {what}")))
            }
            None => Err(self.failure(anyhow!("no {what} within {timeout:?}"))),
        }
    }

    /// Waits until the machine ends by itself.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<Exit> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(self.exit(status.code()));
            }
            if report::has_panicked(&self.console.lock().bytes[self.seen..]) {
                return Err(self.panic());
            }
            if Instant::now() >= deadline {
                return Err(self.failure(anyhow!("the machine did not end within {timeout:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Types a command that may end the machine, and waits for whichever comes first, its end or the machine's.
    pub fn last_command(&mut self, line: &str, timeout: Duration) -> Result<std::result::Result<Reply, Exit>> {
        self.type_line(line)?;
        let from = self.seen;
        let found = self.console.wait(Instant::now() + timeout, |state| {
            let output = &state.bytes[from..];
            let ended = report::has_panicked(output) || state.ended;
            ended.then_some(None).or_else(|| Some(Some(prompt::reply(output, line)?)))
        });
        match found {
            Some(Some(reply)) => Ok(Ok(reply)),
            Some(None) => Ok(Err(self.wait_exit(REPORT_TIME)?)),
            None => Err(self.failure(anyhow!("neither an answer nor an end within {timeout:?}"))),
        }
    }

    /// Waits for the core's panic report; gives it with names and source lines.
    pub fn wait_panic(&mut self, timeout: Duration) -> Result<String> {
        let look = |state: &State| report::has_panicked(&state.bytes).then_some(());
        match self.console.wait(Instant::now() + timeout, look) {
            Some(()) => Ok(self.panic_report()),
            None => Err(self.failure(anyhow!("no panic of the core within {timeout:?}"))),
        }
    }

    fn panic_report(&self) -> String {
        // The report is complete when nothing follows any more.
        let _ = self.console.wait(Instant::now() + REPORT_TIME, |state| state.ended.then_some(()));
        report::report(&self.transcript(), &self.options.core)
    }

    fn panic(&self) -> Error {
        anyhow!("the core panicked; logs are in {}\n\n{}", self.options.logs.display(), self.panic_report())
    }

    /// Everything the console has shown.
    pub fn transcript(&self) -> String {
        prompt::text(&self.console.lock().bytes)
    }

    /// Bytes of the console from `position` on; waits for some at most this long.
    pub fn read_console(&self, position: usize, timeout: Duration) -> Vec<u8> {
        let read = |state: &State| Some(state.bytes.get(position..)?.to_vec()).filter(|bytes| !bytes.is_empty());
        self.console.wait(Instant::now() + timeout, read).unwrap_or_default()
    }

    /// What the console has shown since the last line was typed, without the echo of that line.
    pub fn answer_so_far(&self) -> String {
        let text = prompt::text(&self.console.lock().bytes[self.seen..]);
        text.split_once('\n').map_or(String::new(), |(_, answer)| answer.to_string())
    }

    /// Whether the core has panicked; gives its report then.
    pub fn panicked(&self) -> Option<Error> {
        // Up to `seen` each wait has looked; a long run shows megabytes.
        let panicked = report::has_panicked(&self.console.lock().bytes[self.seen..]);
        panicked.then(|| self.panic())
    }

    /// How the emulator ended, if it has.
    pub fn ended(&mut self) -> Option<Exit> {
        let status = self.child.try_wait().ok()??;
        Some(self.exit(status.code()))
    }

    /// What the core wrote to the debug console: its log, whoever owns the serial port. Whole lines only: the last one may
    /// be half written.
    pub fn debug_log(&self) -> String {
        let bytes = fs::read(self.options.logs.join("debug.log")).unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        String::from_utf8_lossy(&bytes[..whole]).into_owned()
    }

    fn exit(&self, code: Option<i32>) -> Exit {
        if self.options.in_bochs() {
            return if bochs::powered_off(&self.options.logs) { Exit::PowerOff(0) } else { Exit::Failed(code) };
        }
        exit(code, self.console.lock().bytes.is_empty())
    }

    /// What the machine was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The emulator's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn failure(&self, error: Error) -> Error {
        let text = self.transcript();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        let complaint = fs::read_to_string(self.options.logs.join("emulator.log")).unwrap_or_default();
        anyhow!("{error:#}; logs are in {}\n{complaint}--- console ---\n{tail}\n---", self.options.logs.display())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit device ends the emulator with `status << 1 | 1`. A bad command line of the emulator gives 1 as well, but then
/// the machine never said a word.
fn exit(code: Option<i32>, silent: bool) -> Exit {
    match code {
        Some(0) => Exit::Reset,
        Some(1) if silent => Exit::Failed(code),
        Some(code) if code & 1 == 1 && code > 0 => Exit::PowerOff(code as u32 >> 1),
        code => Exit::Failed(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_carry_the_status() {
        assert_eq!(exit(Some(1), false), Exit::PowerOff(0));
        assert_eq!(exit(Some(5), false), Exit::PowerOff(2));
        assert_eq!(exit(Some(0), false), Exit::Reset);
        assert_eq!(exit(Some(2), false), Exit::Failed(Some(2)));
        assert_eq!(exit(Some(1), true), Exit::Failed(Some(1)));
        assert_eq!(exit(None, false), Exit::Failed(None));
    }
}
