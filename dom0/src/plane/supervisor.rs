//! What happens by itself: domains that end, and what their configuration says to that.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::domain::{DeathReport, Reason, State};

use super::Plane;
use super::domain::Phase;
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
                self.ended(id, &death);
            }
        }
    }

    fn ended(&mut self, id: u16, death: &DeathReport) {
        let now = self.hypervisor.clock();
        let reason = report::reason(death);
        let Some(domain) = self.domain_mut(id) else { return };
        let action = match reason {
            Reason::Shutdown => domain.config.on_poweroff,
            Reason::Reboot => domain.config.on_reboot,
            _ => domain.config.on_crash,
        };
        domain.last_end = Some(report::summary(death));
        let image = match &domain.config.guest {
            Guest::Native { image } => format!("images/{image}"),
            Guest::Linux { .. } => String::new(),
        };
        let name = domain.name().to_owned();
        // What is to run again runs again first; the report can wait.
        let outcome = match action {
            Action::Preserve => {
                domain.phase = Phase::Kept;
                format!("{name} is kept: `list -l {name}` shows it, `restart {name}` or `destroy {name}` ends that")
            }
            Action::Destroy => match self.destroy(id) {
                Ok(()) => format!("{name} is destroyed"),
                Err(text) => {
                    self.quarantine(id);
                    text
                }
            },
            Action::Restart => match domain.backoff.ended(domain.started_ns, now) {
                Verdict::RestartAt(at) if at <= now => self.restart_and_say(id, &name),
                Verdict::RestartAt(at) => {
                    domain.phase = Phase::Waiting(at);
                    format!("{name} is restarted in {} ms", (at - now).div_ceil(1_000_000))
                }
                Verdict::Quarantine => {
                    self.quarantine(id);
                    format!("{name} ended too often and is in quarantine: `restart {name}` tries once more")
                }
            },
        };
        let symbols = Symbols::parse(self.bundle.file(&image).unwrap_or_default());
        for line in report::lines(&name, death, &symbols) {
            self.notice(&line);
        }
        self.notice(&outcome);
    }

    fn quarantine(&mut self, id: u16) {
        if let Some(domain) = self.domain_mut(id) {
            domain.phase = Phase::Quarantined;
        }
    }

    fn restart_and_say(&mut self, id: u16, name: &str) -> String {
        match self.restart(id) {
            Ok(took) => format!("{name} is restarted, {} us", took / 1000),
            Err(text) => format!("{text}; {name} is in quarantine"),
        }
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
