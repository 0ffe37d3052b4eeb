//! What the guests under load say: lines of JSON in the core's log, which the emulator's debug console shows.
//!
//! The core cuts long lines, so only what is whole of a line is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// How long a load may stand still. Many times the longest back-off that a domain under these kills can get into.
const STANDSTILL: Duration = Duration::from_secs(20);

/// The numbers of one report.
type Numbers = BTreeMap<String, u64>;

/// The last report of a guest.
#[derive(Clone, Debug, Serialize)]
struct Latest {
    #[serde(flatten)]
    report: Numbers,
    #[serde(skip)]
    done: u64,
    #[serde(skip)]
    moved: Option<Instant>,
}

/// Numbers that count what a guest got done: requests answered, frames received.
const DONE: [&str; 2] = ["answered", "received"];
/// Numbers that have to stay 0. Frames may be lost, as on a wire.
const FAULTS: [&str; 5] = ["errors", "wrong", "doubled", "reordered", "corrupt"];

/// Follows the log of a machine.
#[derive(Debug)]
pub struct Reports {
    log: PathBuf,
    read: u64,
    rest: Vec<u8>,
    latest: BTreeMap<String, Latest>,
    /// Lines in which somebody says that a connection was closed or a check failed.
    complaints: Vec<String>,
    /// Records that were damaged on purpose: so many connections have to be closed.
    damaged: u64,
    /// Lines in which a domain says that it closed one for that.
    named: u64,
}

/// What a driver domain says, and dom0 after it, when it finds a record damaged in what it says of a request.
pub const DAMAGED: &str = "nothing is replayed, the record is damaged in slot";

/// What else is a failure, wherever it is said.
const COMPLAINTS: [&str; 5] = ["guilty is the", "broke a rule", "panicked", "[ERROR]", "\"verdict\":\"failed\""];

impl Reports {
    /// Follows this file; `guests` have to report progress from now on.
    pub fn new(log: PathBuf, guests: &[&str]) -> Reports {
        let none = Latest { report: Numbers::new(), done: 0, moved: Some(Instant::now()) };
        let started = |name: &&str| (name.to_string(), none.clone());
        let latest = guests.iter().map(started).collect();
        Reports { log, read: 0, rest: Vec::new(), latest, complaints: Vec::new(), damaged: 0, named: 0 }
    }

    /// A record is going to be damaged.
    pub fn expect_damage(&mut self) {
        self.damaged += 1;
    }

    /// Whether the closure of a connection was told of for each record that was damaged.
    pub fn damage_is_named(&self) -> bool {
        self.named == self.damaged
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
            let still = latest.moved.map_or(Duration::ZERO, |moved| moved.elapsed());
            if still > STANDSTILL {
                bail!(
                    "{guest} has done nothing for {:.0} s; its last report: {:?}",
                    still.as_secs_f32(),
                    latest.report
                );
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
            match line.contains("guilty is the Backend") && line.contains(DAMAGED) && self.named < self.damaged {
                true => self.named += 1,
                false => self.complaints.push(line.into()),
            }
        }
        let Some((guest, report)) = report(line) else { return };
        let Some(latest) = self.latest.get_mut(guest) else { return };
        let number = |key: &&str| report.get(*key).copied().unwrap_or_default();
        if let Some(fault) = FAULTS.iter().find(|key| number(key) > 0) {
            self.complaints.push(format!("{guest} counts {} {fault}", number(fault)));
        }
        let done = DONE.iter().map(number).sum();
        if done > latest.done {
            (latest.done, latest.moved) = (done, Some(Instant::now()));
        }
        latest.report = report;
        let gone = self.latest().sum("gone");
        if gone > self.damaged {
            self.complaints.push(format!("guests lost their disk {gone} times, {} times on purpose", self.damaged));
        }
    }

    /// Whether every guest has done something.
    pub fn all_move(&self) -> bool {
        self.latest.values().all(|latest| latest.done > 0)
    }

    /// A number of a guest's last report.
    pub fn number(&self, guest: &str, key: &str) -> Option<u64> {
        self.latest.get(guest)?.report.get(key).copied()
    }

    /// The last report of each guest.
    pub fn latest(&self) -> Loads {
        Loads(self.latest.clone())
    }
}

/// The last report of each guest.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Loads(BTreeMap<String, Latest>);

impl Loads {
    /// The sum of a number over all guests.
    pub fn sum(&self, key: &str) -> u64 {
        self.0.values().filter_map(|latest| latest.report.get(key)).sum()
    }
}

/// The guest and the numbers of its report, if the line is one.
fn report(line: &str) -> Option<(&str, Numbers)> {
    let (guest, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (_, object) = text.split_once('{')?;
    let pairs = object.split_inclusive([',', '}']).filter_map(|pair| {
        // A pair without an end may have been cut inside its number.
        let (key, value) = pair.strip_suffix([',', '}'])?.trim().split_once(':')?;
        Some((key.trim_matches('"').to_string(), value.parse().ok()?))
    });
    Some((guest, pairs.collect()))
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
        write!(file, "[blkload] blkload {{\"answered\":5,\"wrong\":0}}\n[blkload] blk").unwrap();
        reports.check().unwrap();
        assert!(reports.all_move());
        assert_eq!(reports.number("blkload", "answered"), Some(5));
        writeln!(file, "load {{\"answered\":6,\"wrong\":3,\"bytes\":12").unwrap();
        assert!(reports.check().unwrap_err().to_string().contains("blkload counts 3 wrong"));
        assert_eq!(reports.number("blkload", "bytes"), None, "it was cut");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_anybody_complains_about_is_a_failure() {
        let mut reports = Reports::new(PathBuf::new(), &[]);
        reports.line("[disk] [ERROR] connection 0 closed; guilty is the Backend: the record is damaged");
        assert_eq!(reports.complaints.len(), 1);
        let line = "[disk] [ERROR] connection 0 closed; guilty is the Backend: nothing is replayed, the record is damaged in slot: 3";
        reports.expect_damage();
        assert!(!reports.damage_is_named());
        reports.line(line);
        assert!(reports.damage_is_named() && reports.complaints.len() == 1);
        reports.line(line);
        assert_eq!(reports.complaints.len(), 2, "one for each record that was damaged");
    }

    #[test]
    fn a_disk_goes_away_as_often_as_it_was_taken() {
        let mut reports = Reports::new(PathBuf::new(), &["blkload", "blkload2"]);
        reports.expect_damage();
        reports.line("[blkload] blkload {\"answered\":5,\"gone\":1}");
        assert!(reports.complaints.is_empty());
        reports.line("[blkload2] blkload {\"answered\":5,\"gone\":1}");
        assert_eq!(reports.complaints, ["guests lost their disk 2 times, 1 times on purpose"]);
        assert!(report("core: 511 MiB of memory").is_none());
    }
}
