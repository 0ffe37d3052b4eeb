//! One machine under load, and the deaths of its driver domains.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::connection::KillPoint;
use serde::Deserialize;

use super::guests::{self, Guest};
use super::plan::{DAMAGE, Kill, Target, point_name};
use super::reports::{DAMAGED, Reports};
use super::tally::Survived;
use crate::emulator::{Machine, Options};

/// How long a driver domain may take to die and to serve again before that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked whether it does.
const POLL: Duration = Duration::from_millis(10);
/// How long the loads may take to begin.
const WARM_UP: Duration = Duration::from_secs(60);
/// How long the closure of a connection may take to show. Where a damaged request was executed instead, the loads find it in less.
const CLOSURE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a domain under load may take to pass an armed point. It does so many times a second, but a host may be busy.
const POINT_PATIENCE: Duration = Duration::from_secs(20);

/// A machine that is being soaked.
pub struct Session {
    machine: Machine,
    guests: &'static [Guest],
    reports: Reports,
    /// How often each guest's disk was taken away, for a damaged record.
    taken_away: BTreeMap<String, u64>,
}

/// What `list --json` says of a domain.
#[derive(Clone, Debug, Deserialize)]
struct Domain {
    name: String,
    status: String,
    restarts: u32,
    last_end: Option<String>,
    blackout_ns: Option<u64>,
}

/// What `block-list --json` and `network-list --json` say of a device.
#[derive(Clone, Debug, Deserialize)]
struct Device {
    domain: String,
    device: String,
    state: String,
    fault: Option<String>,
}

/// What `disks --json` says.
#[derive(Clone, Debug, Deserialize)]
struct Disks {
    connections: Vec<Connection>,
}

#[derive(Clone, Debug, Deserialize)]
struct Connection {
    statistics: Option<Statistics>,
}

#[derive(Clone, Debug, Deserialize)]
struct Statistics {
    replayed: u64,
}

impl Session {
    /// Boots, and starts the guests. A failure is one of the machine or the shell, and says nothing about driver domains.
    pub fn begin(options: Options, guests: &'static [Guest]) -> Result<Session> {
        let log = options.logs.join("debug.log");
        let machine = Machine::boot(options)?;
        let names: Vec<&str> = guests.iter().map(|guest| guest.name).collect();
        let mut session = Session { machine, guests, reports: Reports::new(log, &names), taken_away: BTreeMap::new() };
        for guest in guests {
            session.machine.succeed(&format!("create {}", guest.name))?;
        }
        Ok(session)
    }

    /// Waits until all guests have done something.
    pub fn warm_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + WARM_UP;
        while !self.reports.all_move() {
            self.reports.check()?;
            if Instant::now() >= deadline {
                bail!("the loads have not begun within {WARM_UP:?}: {:?}", self.reports.latest());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What the guests say.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Lets a domain die, and waits until it serves again.
    pub fn kill(&mut self, kill: Kill) -> Result<Survived> {
        std::thread::sleep(kill.peace);
        let before = self.domain(kill.target)?.restarts;
        let died = self.die(kill, before);
        died.with_context(|| format!("killing {} at {}", kill.target.name(), point_name(kill.point)))?;
        let deadline = Instant::now() + PATIENCE;
        let blackout_ns = loop {
            let domain = self.domain(kill.target)?;
            if domain.status == "quarantined" {
                bail!("{} is in quarantine: {}", domain.name, domain.last_end.unwrap_or_default());
            }
            match domain.blackout_ns {
                Some(blackout) if domain.restarts > before && domain.status != "dying" => break blackout,
                _ => {}
            }
            self.reports.check()?;
            if Instant::now() >= deadline {
                let Domain { status, restarts, last_end, .. } = domain;
                let name = kill.target.name();
                bail!(
                    "{name} does not serve {PATIENCE:?} after it died at {}: it is {status} after {restarts} restarts, \
                     the last because it {}",
                    point_name(kill.point),
                    last_end.unwrap_or_else(|| "did not die".into())
                );
            }
            std::thread::sleep(POLL);
        };
        let in_flight = match kill.target {
            _ if kill.point == Some(DAMAGE) => {
                self.connect_again()?;
                None
            }
            Target::Disk => Some(self.replayed()?),
            _ => None,
        };
        self.check()?;
        Ok(Survived { kill, in_flight, blackout_ns })
    }

    fn die(&mut self, kill: Kill, before: u32) -> Result<()> {
        let name = kill.target.name();
        match kill.point {
            None if kill.target == Target::Console => self.kill_console(),
            None => self.machine.succeed(&format!("kill {name}")).map(drop),
            Some(point @ KillPoint::BeforeAttach) => {
                self.spare(kill.target, false)?;
                self.arm(name, point, 1)?;
                self.machine.succeed(&format!("{} --no-wait", guests::attach(kill.target))).map(drop)
            }
            Some(point @ KillPoint::DuringDetach) => {
                self.spare(kill.target, true)?;
                self.arm(name, point, 1)?;
                let device = self.spare_device(kill.target)?.context("there is nothing to detach")?.device;
                self.machine.succeed(&format!("{} {device} --no-wait", guests::detach(kill.target))).map(drop)
            }
            Some(point) => {
                if point == DAMAGE {
                    self.reports.expect_damage();
                }
                self.arm(name, point, kill.after)?;
                let deadline = Instant::now() + POINT_PATIENCE;
                while self.domain(kill.target)?.restarts == before {
                    if Instant::now() >= deadline {
                        bail!("it does not get there within {POINT_PATIENCE:?}: does anybody ask it for anything?");
                    }
                    self.reports.check()?;
                    std::thread::sleep(POLL);
                }
                Ok(())
            }
        }
    }

    /// A record was damaged: its connection has to be closed, no other, and why has to be told. Its guest gets another one, and has
    /// to go on.
    fn connect_again(&mut self) -> Result<()> {
        let deadline = Instant::now() + CLOSURE_PATIENCE;
        let Device { domain, device, fault, .. } = loop {
            // What a load finds of a request that was executed damaged says more than that there was no closure.
            self.reports.check()?;
            let broken: Vec<Device> =
                self.devices(Target::Disk)?.into_iter().filter(|device| device.fault.is_some()).collect();
            match <[Device; 1]>::try_from(broken) {
                Ok([device]) if self.reports.damage_is_named() => break device,
                Err(broken) if broken.len() > 1 => bail!("one record was damaged, closed are {broken:?}"),
                _ if Instant::now() >= deadline => {
                    bail!("a record was damaged, and within {CLOSURE_PATIENCE:?} no connection was closed for it")
                }
                _ => std::thread::sleep(POLL),
            }
        };
        let fault = fault.unwrap_or_default();
        if !(fault.starts_with("disk: ") && fault.contains(DAMAGED)) {
            bail!("a record was damaged, and what is told of it is: {fault}");
        }
        let disk = self.guests.iter().find(|guest| guest.name == domain).and_then(|guest| guest.disk);
        let disk = disk.with_context(|| format!("{domain}: {device} is no load's disk: {fault}"))?;
        self.machine.succeed(&format!("block-detach {domain} {device}"))?;
        self.machine.succeed(&format!("block-attach {domain} {disk}"))?;
        let times = self.taken_away.entry(domain.clone()).or_default();
        *times += 1;
        let times = *times;
        let answered = self.reports.number(&domain, "answered");
        let deadline = Instant::now() + PATIENCE;
        while self.reports.number(&domain, "gone") != Some(times)
            || self.reports.number(&domain, "answered") <= answered
        {
            if Instant::now() >= deadline {
                bail!("{domain} does not go on with its new connection: {:?}", self.reports.latest());
            }
            std::thread::sleep(POLL);
            self.reports.check()?;
        }
        Ok(())
    }

    /// A domain may die before it has answered this; whether it died is looked at later.
    fn arm(&mut self, name: &str, point: KillPoint, after: u64) -> Result<()> {
        self.machine.command(&format!("arm {name} {} --after={after}", point.name())).map(drop)
    }

    /// What this shell says while its console is dead is lost: it is asked until it answers.
    fn kill_console(&mut self) -> Result<()> {
        self.machine.type_line("kill console")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            self.machine.send(b"\r")?;
            match self.machine.wait_prompt(Duration::from_secs(1)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Makes sure that the spare device of the load is there, or is not.
    fn spare(&mut self, target: Target, wanted: bool) -> Result<()> {
        match (self.spare_device(target)?, wanted) {
            (None, true) => self.machine.succeed(guests::attach(target)).map(drop),
            (Some(device), false) => {
                self.machine.succeed(&format!("{} {}", guests::detach(target), device.device)).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn spare_device(&mut self, target: Target) -> Result<Option<Device>> {
        let (guest, own) = guests::of(target);
        Ok(self.devices(target)?.into_iter().find(|device| device.domain == guest && device.device != own))
    }

    fn devices(&mut self, target: Target) -> Result<Vec<Device>> {
        self.machine.query(match target {
            Target::Network => "network-list --json",
            _ => "block-list --json",
        })
    }

    /// Requests that were executed again since the domain was started, which are those in flight when it died.
    fn replayed(&mut self) -> Result<u64> {
        let disks: Disks = self.machine.query("disks --json")?;
        Ok(disks.connections.iter().filter_map(|connection| connection.statistics.as_ref()).map(|s| s.replayed).sum())
    }

    fn domain(&mut self, target: Target) -> Result<Domain> {
        let name = target.name();
        let list: Vec<Domain> = self.machine.query(&format!("list {name} --json"))?;
        list.into_iter().next().with_context(|| format!("there is no domain {name}"))
    }

    /// Everybody is as they were, but for the deaths that were ordered.
    pub fn check(&mut self) -> Result<()> {
        if let Some(panic) = self.machine.panicked() {
            return Err(panic);
        }
        self.reports.check()?;
        let names: Vec<&str> = self.guests.iter().map(|guest| guest.name).collect();
        let list: Vec<Domain> = self.machine.query(&format!("list {} --json", names.join(" ")))?;
        if let Some(dead) = list.iter().find(|domain| domain.last_end.is_some() || domain.restarts > 0) {
            bail!("{} {}", dead.name, dead.last_end.as_deref().unwrap_or("was restarted"));
        }
        for target in [Target::Disk, Target::Network] {
            if let Some(broken) = self.devices(target)?.into_iter().find(|device| device.fault.is_some()) {
                let Device { domain, device, state, fault } = broken;
                bail!("{domain}: {device} is {state}: {}", fault.unwrap_or_default());
            }
        }
        Ok(())
    }
}
