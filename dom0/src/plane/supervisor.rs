//! What happens by itself: domains that end, and what their configuration says to that.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::domain::{DeathReport, Reason, State};

use super::Plane;
use super::domain::Phase;
use super::watchdog::Outage;
use crate::backoff::Verdict;
use crate::config::{Action, Guest};
use crate::hypervisor::Hypervisor;
use crate::report;
use crate::symbols::Symbols;

impl<H: Hypervisor> Plane<'_, H> {
    /// Looks at every domain that should run, and deals with those that ended.
    pub(super) fn sweep(&mut self) {
        let ids: Vec<u16> =
            self.domains.iter().filter(|domain| domain.phase == Phase::Running).map(|domain| domain.id).collect();
        for id in ids {
            let Some((handle, _)) = self.handle(id) else { continue };
            let dead = |state| State::from_number(state) == Some(State::Dead);
            if self.hypervisor.domain_info(handle).is_ok_and(|info| dead(info.state)) {
                let death = self.hypervisor.domain_death(handle).unwrap_or_default();
                self.ended(id, &death, None);
            }
        }
    }

    /// Ends a domain as if it had died.
    pub fn kill(&mut self, id: u16) -> Result<(), String> {
        match self.domain(id) {
            Some(domain) if domain.phase == Phase::Running => {}
            Some(domain) => return Err(format!("{0}: it does not run: `restart {0}` starts it", domain.name())),
            None => return Err("dom0: it cannot be killed, it runs this shell".to_owned()),
        }
        self.ended(id, &killed(), Some("was killed by the operator".to_owned()));
        Ok(())
    }

    /// A domain ended, or has to. `why` says more than the report, where dom0 itself ended it.
    pub(super) fn ended(&mut self, id: u16, death: &DeathReport, why: Option<String>) {
        let now = self.hypervisor.clock();
        let reason = report::reason(death);
        let Some(domain) = self.domain_mut(id) else { return };
        let action = match reason {
            Reason::Shutdown => domain.config.on_poweroff,
            Reason::Reboot => domain.config.on_reboot,
            _ => domain.config.on_crash,
        };
        domain.outage = Some(Outage::begin(if death.time_ns == 0 { now } else { death.time_ns }));
        let served = domain.heart.as_ref().is_some_and(|heart| heart.served());
        let image = match &domain.config.guest {
            Guest::Native { image } => format!("images/{image}"),
            Guest::Linux { .. } => String::new(),
        };
        let name = domain.name().to_owned();
        let by_dom0 = why.is_some();
        let summary = || why.clone().unwrap_or_else(|| report::summary(death));
        // What is to run again runs again first; the report can wait.
        let outcome = match action {
            _ if domain.trial.is_some() => {
                self.fail_trial(id, &format!("it {}", summary()));
                format!("{name} is restarted with its former image")
            }
            Action::Preserve => {
                if by_dom0 {
                    self.halt(id);
                }
                self.put(id, Phase::Kept);
                format!("{name} is kept: `list -l {name}` shows it, `restart {name}` or `destroy {name}` ends that")
            }
            Action::Destroy => match self.destroy(id) {
                Ok(()) => format!("{name} is destroyed"),
                Err(text) => {
                    self.quarantine(id);
                    text
                }
            },
            Action::Restart => match domain.backoff.ended(domain.started_ns, now, served) {
                Verdict::RestartAt(at) if at <= now => self.restart_and_say(id, &name),
                Verdict::RestartAt(at) => {
                    if by_dom0 {
                        self.halt(id);
                    }
                    self.put(id, Phase::Waiting(at));
                    format!("{name} is restarted in {} ms", (at - now).div_ceil(1_000_000))
                }
                Verdict::Quarantine => {
                    self.quarantine(id);
                    format!("{name} ended too often and is in quarantine: `restart {name}` tries once more")
                }
            },
        };
        let summary = summary();
        let lines = match by_dom0 {
            true => alloc::vec![format!("{name} {summary}")],
            false => {
                let symbols = Symbols::parse(self.bundle.file(&image).unwrap_or_default());
                report::lines(&name, death, &symbols)
            }
        };
        if let Some(domain) = self.domain_mut(id) {
            domain.last_end = Some(summary);
        }
        for line in lines {
            self.notice(&line);
        }
        self.notice(&outcome);
    }

    /// A domain does not run for now: those it serves wait.
    pub(super) fn put(&mut self, id: u16, phase: Phase) {
        if let Some(domain) = self.domain_mut(id) {
            domain.phase = phase;
            domain.ready = false;
        }
        self.backend_lost(id);
        if self.is_down(id) {
            self.backend_down(id);
        }
    }

    fn quarantine(&mut self, id: u16) {
        // What it has mapped of others must not stay with it for as long as it is not looked at.
        self.halt(id);
        self.put(id, Phase::Quarantined);
    }

    /// Starts the domains whose time has come.
    pub(super) fn restart_due(&mut self) {
        let now = self.hypervisor.clock();
        let due = |phase| matches!(phase, Phase::Waiting(at) if at <= now);
        let ids: Vec<u16> = self.domains.iter().filter(|domain| due(domain.phase)).map(|domain| domain.id).collect();
        for id in ids {
            let Some((_, name)) = self.handle(id) else { continue };
            let name = name.to_owned();
            let line = self.restart_and_say(id, &name);
            self.notice(&line);
        }
    }
}

/// The report of a domain that dom0 ends.
pub(super) fn killed() -> DeathReport {
    DeathReport { reason: Reason::Killed as u32, ..DeathReport::default() }
}
