//! What a soak found, in numbers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::plan::{self, DAMAGE, Kill, Points, Target, point_name};
use super::reports::Loads;

/// Requests in flight that make a kill one under load.
const UNDER_LOAD: u64 = 8;
/// Kills that have to be under load, in percent, for a run to say something about load.
const UNDER_LOAD_PERCENT: usize = 90;
/// Of so many kills, one at least has to be at each named point: of 3,000 a hundred.
const POINT_SHARE: usize = 30;

/// A death that was survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survived {
    /// Which.
    pub kill: Kill,
    /// Requests taken and not answered when the domain died, of all connections; only a disk domain can say, if its record was not
    /// damaged.
    pub in_flight: Option<u64>,
    /// From the death until a request was served again, in ns.
    pub blackout_ns: u64,
}

/// Smallest, median, 99th percentile and largest of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of these numbers; all 0 if there are none.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).copied().unwrap_or_default()
        };
        Spread { min: at(0), median: at(50), p99: at(99), max: at(100) }
    }

    fn by(self, divisor: f64) -> Spread {
        let Spread { min, median, p99, max } = self;
        Spread { min: min / divisor, median: median / divisor, p99: p99 / divisor, max: max / divisor }
    }
}

/// The numbers of one driver domain.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    domain: Target,
    kills: usize,
    by_point: BTreeMap<&'static str, usize>,
    in_flight: Option<Spread>,
    /// Kills with [`UNDER_LOAD`] requests in flight or more; kills before an attach and during a detach count like all others.
    under_load_percent: Option<f64>,
    blackout_ms: Spread,
    /// Where it died before the longest blackout.
    longest_at: &'static str,
    /// The same, in median requests of the load; 0 if those were not measured.
    blackout_requests: Spread,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Where the run began, to repeat it.
    pub seed: u64,
    /// How long it took, in s.
    pub seconds: f64,
    /// Deaths that were survived.
    pub kills: usize,
    /// Of them, how many at each named point, whoever died there.
    pub points: BTreeMap<&'static str, usize>,
    /// How many there have to be at each; 0 if the run is not about all of them.
    pub points_min: usize,
    /// By domain.
    pub domains: Vec<Row>,
    /// What the loads reported last, by guest.
    pub loads: Loads,
    /// What broke the promise; `None` if nothing did.
    pub failure: Option<String>,
    /// Why the run says less than it is to say, though nothing may have broken the promise.
    pub shortcoming: Option<String>,
}

/// Everything that was survived.
#[derive(Debug, Default)]
pub struct Tally(Vec<Survived>);

impl Tally {
    /// Adds a death.
    pub fn add(&mut self, survived: Survived) {
        self.0.push(survived);
    }

    /// How many there are.
    pub fn kills(&self) -> usize {
        self.0.len()
    }

    /// One line about where the run is.
    pub fn progress(&self, of: usize, time: Duration) -> String {
        let blackout = Spread::of(self.0.iter().map(|survived| survived.blackout_ns as f64)).by(1e6);
        let rate = self.kills() as f64 / time.as_secs_f64().max(0.001);
        format!("{} of {of} kills survived, {rate:.1} a second, blackout {:.1} ms", self.kills(), blackout.median)
    }

    /// How many were at each named point, and how many have to be.
    pub fn points(&self, wanted: Points, targets: &[Target]) -> (BTreeMap<&'static str, usize>, usize) {
        let at = |point| self.0.iter().filter(|survived| survived.kill.point == Some(point)).count();
        let named = plan::named(wanted, targets);
        let counts = named.iter().map(|&point| (point.name(), at(point))).collect();
        let all = matches!(wanted, Points::All | Points::Product) && !named.is_empty();
        (counts, if all { self.kills() / POINT_SHARE } else { 0 })
    }

    /// The numbers of each domain. `request_ns` is the median time of a request of the load on it.
    pub fn rows(&self, request_ns: impl Fn(Target) -> Option<f64>) -> Vec<Row> {
        let mut domains: BTreeMap<Target, Vec<&Survived>> = BTreeMap::new();
        self.0.iter().for_each(|survived| domains.entry(survived.kill.target).or_default().push(survived));
        domains.into_iter().map(|(domain, kills)| row(domain, &kills, request_ns(domain))).collect()
    }
}

fn row(domain: Target, kills: &[&Survived], request_ns: Option<f64>) -> Row {
    let mut by_point = BTreeMap::new();
    kills.iter().for_each(|survived| *by_point.entry(point_name(survived.kill.point)).or_default() += 1);
    let in_flight: Vec<u64> = kills.iter().filter_map(|survived| survived.in_flight).collect();
    let loaded = in_flight.iter().filter(|&&count| count >= UNDER_LOAD).count();
    let blackout = Spread::of(kills.iter().map(|survived| survived.blackout_ns as f64));
    let longest = kills.iter().max_by_key(|survived| survived.blackout_ns);
    Row {
        domain,
        kills: kills.len(),
        by_point,
        in_flight: (!in_flight.is_empty()).then(|| Spread::of(in_flight.iter().map(|&count| count as f64))),
        under_load_percent: (!in_flight.is_empty()).then(|| 100.0 * loaded as f64 / in_flight.len() as f64),
        blackout_ms: blackout.by(1e6),
        longest_at: longest.map_or("", |survived| point_name(survived.kill.point)),
        blackout_requests: request_ns.map_or(Spread::default(), |time| blackout.by(time)),
    }
}

/// The pause that the death of a domain makes.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// Which domain.
    pub domain: Target,
    /// In ms.
    pub ms: Spread,
    /// In median requests of the load.
    pub requests: Spread,
}

impl Summary {
    /// The pauses, by domain.
    pub fn pauses(&self) -> impl Iterator<Item = Pause> {
        self.domains.iter().map(|row| Pause {
            domain: row.domain,
            ms: row.blackout_ms,
            requests: row.blackout_requests,
        })
    }

    /// Whether the promise was kept in all that the run is to try.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.shortcoming.is_none()
    }

    /// What [`Summary::shortcoming`] is to be.
    pub fn find_shortcoming(&self) -> Option<String> {
        if let Some((name, count)) = self.points.iter().find(|&(_, &count)| count < self.points_min) {
            return Some(format!("{count} kills at {name}, {} are needed: kill more, or look at why", self.points_min));
        }
        let light = |row: &&Row| row.under_load_percent.is_some_and(|percent| percent < UNDER_LOAD_PERCENT as f64);
        let row = self.domains.iter().find(light)?;
        Some(format!(
            "{UNDER_LOAD} or more requests were in flight in {:.1}% of the kills of {}, {UNDER_LOAD_PERCENT}% are needed",
            row.under_load_percent.unwrap_or_default(),
            row.domain
        ))
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for row in &self.domains {
            let points: Vec<String> = row.by_point.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(out, "{}: {} kills ({})", row.domain.name(), row.kills, points.join(", "));
            if let (Some(flying), Some(percent)) = (row.in_flight, row.under_load_percent) {
                let _ = writeln!(
                    out,
                    "  in flight   min {:.0}  median {:.0}  max {:.0}; {UNDER_LOAD} or more in {percent:.1}% of the kills, \
                     {UNDER_LOAD_PERCENT}% are needed",
                    flying.min, flying.median, flying.max
                );
            }
            let at = format!(" (at {})", row.longest_at);
            for (name, unit, spread, at) in [
                ("blackout", " ms", row.blackout_ms, at.as_str()),
                ("   \" times a request", "", row.blackout_requests, ""),
            ] {
                if spread.max > 0.0 {
                    let Spread { min, median, p99, max } = spread;
                    let _ = writeln!(
                        out,
                        "  {name:<11} min {min:.1}{unit}  median {median:.1}{unit}  p99 {p99:.1}{unit}  max {max:.1}{unit}{at}"
                    );
                }
            }
        }
        if self.points_min > 0 {
            let points: Vec<String> = self.points.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let _ = writeln!(out, "named points: {}; {} each are needed", points.join(", "), self.points_min);
        }
        if let Some(damaged) = self.points.get(DAMAGE.name()).filter(|&&damaged| damaged > 0) {
            let _ = writeln!(
                out,
                "damaged records: {damaged}, each connection closed, named and made anew; what became of {} requests is not known",
                self.loads.sum("unknown")
            );
        }
        match &self.failure {
            None => {
                let _ = writeln!(out, "{} kills survived in {:.0} s, seed {}", self.kills, self.seconds, self.seed);
                if let Some(shortcoming) = &self.shortcoming {
                    let _ = writeln!(out, "NOT ENOUGH: {shortcoming}");
                }
            }
            Some(failure) => {
                let _ = writeln!(out, "FAILED after {} kills (seed {}): {failure}", self.kills, self.seed);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::connection::KillPoint;

    fn survived(in_flight: u64, ms: u64) -> Survived {
        let kill = Kill { target: Target::Disk, point: None, after: 1, peace: Duration::ZERO };
        Survived { kill, in_flight: Some(in_flight), blackout_ns: ms * 1_000_000 }
    }

    fn summary(tally: &Tally) -> Summary {
        let domains = tally.rows(|_| Some(2e6));
        let loads = Loads::default();
        let points = BTreeMap::new();
        Summary {
            seed: 1,
            seconds: 2.0,
            kills: tally.kills(),
            points,
            points_min: 0,
            domains,
            loads,
            failure: None,
            shortcoming: None,
        }
    }

    #[test]
    fn numbers_are_what_they_say() {
        let mut tally = Tally::default();
        (1..=100).for_each(|ms| tally.add(survived(if ms <= 10 { 7 } else { 32 }, ms)));
        let found = summary(&tally);
        let row = &found.domains[0];
        assert_eq!((row.blackout_ms.min, row.blackout_ms.median, row.blackout_ms.max), (1.0, 51.0, 100.0));
        assert_eq!(row.blackout_requests.median, 25.5);
        assert_eq!(row.under_load_percent, Some(90.0));
        assert!(found.find_shortcoming().is_none() && found.text().contains("disk: 100 kills (random 100)"));
        tally.add(survived(0, 1));
        assert!(summary(&tally).find_shortcoming().unwrap().contains("in 89.1% of the kills of disk"));
    }

    #[test]
    fn a_point_nobody_died_at_is_a_shortcoming() {
        let mut tally = Tally::default();
        for point in KillPoint::ALL.into_iter().cycle().take(160) {
            let kill = Kill { point: Some(point), ..survived(32, 1).kill };
            tally.add(Survived { kill, ..survived(32, 1) });
        }
        let found = |tally: &Tally, wanted, target| {
            let (points, points_min) = tally.points(wanted, &[target]);
            Summary { points, points_min, ..summary(tally) }
        };
        let all = found(&tally, Points::All, Target::Disk);
        assert_eq!((all.find_shortcoming(), all.points_min, all.points["mid-batch"]), (None, 5, 20));
        assert!(all.text().contains("mid-take 20; 5 each are needed"), "{}", all.text());
        assert!(all.text().contains("damaged records: 20,"), "{}", all.text());
        tally.0.retain(|survived| survived.kill.point != Some(KillPoint::MidBatch));
        let missing = found(&tally, Points::All, Target::Disk).find_shortcoming().unwrap();
        assert!(missing.contains("0 kills at mid-batch, 4 are needed"), "{missing}");
        assert!(!found(&tally, Points::Product, Target::Disk).points.contains_key("damaged-record"));
        assert_eq!(found(&tally, Points::None, Target::Disk).find_shortcoming(), None);
        assert_eq!(found(&tally, Points::All, Target::Console).find_shortcoming(), None);
    }

    #[test]
    fn nothing_is_no_number() {
        assert_eq!(Spread::of([]), Spread::default());
        assert!(summary(&Tally::default()).domains.is_empty());
    }
}
