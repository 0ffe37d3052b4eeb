//! What the guests under load say: lines of JSON in the core's log, which the emulator's debug console shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a load may stand still. Many times the longest back-off that a domain under these kills can get into.
const STANDSTILL: Duration = Duration::from_secs(20);

/// The last report of a guest.
#[derive(Clone, Debug)]
struct Latest {
    report: Value,
    done: u64,
    moved: Instant,
}

/// Follows the log of a machine.
#[derive(Debug)]
pub struct Reports {
    log: PathBuf,
    read: u64,
    rest: Vec<u8>,
    latest: BTreeMap<String, Latest>,
    /// Lines in which somebody says that a connection was closed or a check failed.
    complaints: Vec<String>,
}

/// What else is a failure, wherever it is said.
const COMPLAINTS: [&str; 5] = ["guilty is the", "broke a rule", "panicked", "[ERROR]", "is in quarantine"];

impl Reports {
    /// Follows this file; `guests` have to report progress from now on.
    pub fn new(log: PathBuf, guests: &[&str]) -> Reports {
        let started = |name: &&str| (name.to_string(), Latest { report: Value::Null, done: 0, moved: Instant::now() });
        let latest = guests.iter().map(started).collect();
        Reports { log, read: 0, rest: Vec::new(), latest, complaints: Vec::new() }
    }

    /// Reads what was written since the last time, and fails if any guest noticed anything, or stands still.
    pub fn check(&mut self) -> Result<()> {
        let mut file = File::open(&self.log).context("the debug console's log")?;
        file.seek(SeekFrom::Start(self.read))?;
        let before = self.rest.len();
        file.read_to_end(&mut self.rest)?;
        self.read += (self.rest.len() - before) as u64;
        let whole = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, rest);
        String::from_utf8_lossy(&lines).lines().for_each(|line| self.line(line));
        if let Some(complaint) = self.complaints.first() {
            bail!("the log says: {complaint}");
        }
        for (guest, latest) in &self.latest {
            let still = latest.moved.elapsed();
            if still > STANDSTILL {
                bail!("{guest} has done nothing for {:.0} s; its last report: {}", still.as_secs_f32(), latest.report);
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
            self.complaints.push(line.into());
        }
        let Some((guest, report)) = report(line) else { return };
        let Some(latest) = self.latest.get_mut(guest) else { return };
        let number = |key: &str| report.get(key).and_then(Value::as_u64);
        if let Some(fault) = report.get("fault").filter(|fault| !fault.is_null()) {
            self.complaints.push(format!("{guest}: {fault}"));
        }
        let done = number("done").unwrap_or_default();
        if done > latest.done {
            (latest.done, latest.moved) = (done, Instant::now());
        }
        latest.report = report;
    }

    /// Whether every guest has done something.
    pub fn all_move(&self) -> bool {
        self.latest.values().all(|latest| latest.done > 0)
    }

    /// A number of a guest's last report.
    pub fn number(&self, guest: &str, key: &str) -> Option<f64> {
        self.latest.get(guest)?.report.get(key)?.as_f64()
    }

    /// The last report of each guest.
    pub fn latest(&self) -> Value {
        self.latest.iter().map(|(guest, latest)| (guest.clone(), latest.report.clone())).collect()
    }
}

/// The guest and its report, if the line is one.
fn report(line: &str) -> Option<(&str, Value)> {
    let (_, rest) = line.split_once("] [")?;
    let (guest, text) = rest.split_once("] ")?;
    let report = serde_json::from_str::<Value>(&text[text.find('{')?..]).ok()?;
    Some((guest, report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reports_are_followed_and_a_fault_is_found() {
        let folder = std::env::temp_dir().join(format!("soak-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("debug.log");
        let mut file = File::create(&path).unwrap();
        let mut reports = Reports::new(path, &["blkload"]);
        write!(file, "[ 0.1] [blkload] report {{\"done\":5,\"fault\":null}}\n[ 0.2] [blkload] rep").unwrap();
        reports.check().unwrap();
        assert!(reports.all_move());
        assert_eq!(reports.number("blkload", "done"), Some(5.0));
        writeln!(file, "ort {{\"done\":6,\"fault\":\"sector 3 holds what was never written\"}}").unwrap();
        assert!(reports.check().unwrap_err().to_string().contains("sector 3"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_anybody_complains_about_is_a_failure() {
        let mut reports = Reports::new(PathBuf::new(), &[]);
        reports.line("[ 0.1] [disk] [ERROR] connection 0 closed; guilty is the Backend: the record is damaged");
        assert_eq!(reports.complaints.len(), 1);
        assert!(report("[ 0.1] core: 511 MiB of memory").is_none());
    }
}
