//! Which driver domain dies next, and where: random, from a seed, so that a run can be repeated.

use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use protocol::connection::KillPoint;

/// Of ten kills, how many are at a random instant; the others are spread over the named points.
const RANDOM_OF_TEN: u64 = 4;
/// Longest time that a domain is left alone before it is killed, in ms: several kills a second.
const PEACE_MAX_MS: u64 = 250;
/// Shortest: less than this after it served somebody, dom0 takes a death for one of a row, and waits.
const PEACE_MIN_MS: u64 = 110;
/// Passages of a named point before the death, at most.
const PASSAGES_MAX: u64 = 60;

/// The point at which the record is damaged, which only a disk domain that is built for it has.
pub const DAMAGE: KillPoint = KillPoint::DamagedRecord;

/// Driver domains that can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The disk domain
    Disk,
    /// The network domain
    Network,
    /// The console domain, which has no named points
    Console,
}

impl Target {
    /// The domain's name.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Disk => "disk",
            Target::Network => "network",
            Target::Console => "console",
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which kill points are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Points {
    /// Random instants, and all named points.
    All,
    /// Random instants, and all named points that the product has.
    Product,
    /// Random instants only.
    None,
    /// One named point only.
    One(KillPoint),
}

impl FromStr for Points {
    type Err = String;

    fn from_str(text: &str) -> Result<Points, String> {
        match text {
            "all" => Ok(Points::All),
            "product" => Ok(Points::Product),
            "none" => Ok(Points::None),
            name => KillPoint::ALL.into_iter().find(|point| point.name() == name).map(Points::One).ok_or_else(|| {
                let names: Vec<_> = KillPoint::ALL.iter().map(|point| point.name()).collect();
                format!("there is no such point; choose among all, product, none, {}", names.join(", "))
            }),
        }
    }
}

/// The named points at which these domains can be killed.
pub fn named(points: Points, targets: &[Target]) -> Vec<KillPoint> {
    let has = |point: &KillPoint| match points {
        _ if *point == DAMAGE && !targets.contains(&Target::Disk) => false,
        Points::All => targets.iter().any(|&target| target != Target::Console),
        Points::Product => *point != DAMAGE && targets.iter().any(|&target| target != Target::Console),
        Points::None => false,
        Points::One(one) => *point == one,
    };
    KillPoint::ALL.into_iter().filter(has).collect()
}

/// One death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Who.
    pub target: Target,
    /// Where; `None` at a random instant.
    pub point: Option<KillPoint>,
    /// At which passage of the point, 1 being the next.
    pub after: u64,
    /// How long everybody is left alone before.
    pub peace: Duration,
}

/// Numbers that look random.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    /// From 0 to below `sides` (splitmix64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// All deaths of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    dice: Dice,
    targets: Vec<Target>,
    points: Points,
    named: Vec<KillPoint>,
    turn: usize,
}

impl Plan {
    /// The deaths that follow from `seed`. There is at least one target.
    pub fn new(seed: u64, targets: Vec<Target>, points: Points) -> Plan {
        let named = named(points, &targets);
        Plan { dice: Dice(seed), targets, points, named, turn: 0 }
    }

    /// The next death.
    pub fn next(&mut self) -> Kill {
        let target = self.targets[self.dice.roll(self.targets.len() as u64) as usize];
        let random = match self.points {
            _ if target == Target::Console || self.named.is_empty() => true,
            Points::One(_) => false,
            _ => self.dice.roll(10) < RANDOM_OF_TEN,
        };
        let point = (!random).then(|| {
            self.turn += 1;
            self.named[self.turn % self.named.len()]
        });
        let target = if point == Some(DAMAGE) { Target::Disk } else { target };
        let after = match point {
            // These come once for each connection.
            Some(KillPoint::BeforeAttach | KillPoint::DuringDetach) => 1,
            _ => 1 + self.dice.roll(PASSAGES_MAX),
        };
        let peace = Duration::from_millis(PEACE_MIN_MS + self.dice.roll(PEACE_MAX_MS - PEACE_MIN_MS));
        Kill { target, point, after, peace }
    }
}

/// What a kill point is called; `None` is a random instant.
pub fn point_name(point: Option<KillPoint>) -> &'static str {
    point.map_or("random", KillPoint::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_share_and_a_seed_repeats_a_run() {
        let plan = || Plan::new(7, vec![Target::Disk, Target::Network], Points::All);
        let (mut one, mut two) = (plan(), plan());
        let kills: Vec<Kill> = (0..3000).map(|_| one.next()).collect();
        assert!(kills.iter().all(|&kill| kill == two.next()));
        for point in KillPoint::ALL.map(Some).into_iter().chain([None]) {
            let count = kills.iter().filter(|kill| kill.point == point).count();
            assert!(count >= 200, "{}: {count}", point_name(point));
        }
        assert!(kills.iter().all(|kill| kill.point != Some(DAMAGE) || kill.target == Target::Disk));
        assert!(kills.iter().all(|kill| kill.after >= 1 && kill.peace < Duration::from_millis(PEACE_MAX_MS)));
    }

    #[test]
    fn a_record_is_damaged_only_by_who_can() {
        for (points, targets) in [(Points::Product, vec![Target::Disk]), (Points::All, vec![Target::Network])] {
            let named = named(points, &targets);
            assert_eq!(named.len(), KillPoint::ALL.len() - 1);
            assert!(!named.contains(&DAMAGE));
        }
        assert_eq!(named(Points::One(DAMAGE), &[Target::Disk]), [DAMAGE]);
        assert!(named(Points::All, &[Target::Console]).is_empty() && named(Points::None, &[Target::Disk]).is_empty());
    }

    #[test]
    fn points_are_called_as_on_the_shell() {
        assert_eq!("mid-batch".parse(), Ok(Points::One(KillPoint::MidBatch)));
        assert_eq!("all".parse(), Ok(Points::All));
        assert!("never".parse::<Points>().unwrap_err().contains("during-detach"));
    }
}
