//! Upgrades: a domain goes on in place with another image of the bundle, or with the one it had if that does not come up.
//!
//! The other image is on trial until it is ready and serves again every device that the former one served.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::Plane;
use super::device::Device;
use crate::config::Guest;
use crate::hypervisor::Hypervisor;

/// Time in which another image has to serve everything again, in ns.
const TRIAL_NS: u64 = 10_000_000_000;

/// An upgrade that is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The image before it.
    former: String,
    /// When it has failed.
    deadline: u64,
}

impl<H: Hypervisor> Plane<'_, H> {
    /// Starts a domain anew, in place, with another image. [`Plane::take_upgraded`] tells how it went.
    pub fn upgrade(&mut self, id: u16, image: &str) -> Result<(), String> {
        let deadline = self.hypervisor.clock().saturating_add(TRIAL_NS);
        let Some(domain) = self.domain(id) else {
            return Err("dom0: it cannot be upgraded, it runs this shell".to_owned());
        };
        let mut config = domain.config.clone();
        let Guest::Native { image: former } = &config.guest else {
            return Err(format!("{}: it has no image that could be another", domain.name()));
        };
        // Where a trial is under way already, what it began with stays what is gone back to.
        let former = domain.trial.as_ref().map_or_else(|| former.clone(), |trial| trial.former.clone());
        config.guest = Guest::Native { image: image.to_owned() };
        self.image(&config)?;
        if let Some(domain) = self.domain_mut(id) {
            domain.config = config;
            domain.trial = Some(Trial { former, deadline });
            domain.upgraded = None;
        }
        if let Err(text) = self.restart(id) {
            self.fail_trial(id, &text);
        }
        Ok(())
    }

    /// How the last upgrade of a domain went, once that is known.
    pub fn take_upgraded(&mut self, id: u16) -> Option<Result<(), String>> {
        self.domain_mut(id)?.upgraded.take()
    }

    /// A domain is ready, or attached a device again: perhaps all that it served is back.
    pub(super) fn attached(&mut self, id: u16) {
        let now = self.hypervisor.clock();
        let links = || self.devices.iter().filter_map(|device: &Device| device.link.as_ref());
        let of = || links().filter(|link| link.backend == id);
        let complete = of().all(|link| link.back.is_none() || link.detaching());
        let waited = of().any(|link| link.replayed > 0);
        let Some(domain) = self.domain_mut(id).filter(|domain| domain.ready && complete) else { return };
        if let Some(outage) = &mut domain.outage {
            outage.attached_ns.get_or_insert(now);
            outage.waited |= waited;
        }
        if domain.trial.take().is_some() {
            domain.upgraded = Some(Ok(()));
        }
    }

    /// If the domain is on trial, the trial has failed. Gives whether it was.
    pub(super) fn fail_trial(&mut self, id: u16, text: &str) -> bool {
        let Some(domain) = self.domain_mut(id) else { return false };
        let Some(trial) = domain.trial.take() else { return false };
        let name = domain.name().to_owned();
        let line = format!("{name}: the other image does not do: {text}; it goes on with {}", trial.former);
        domain.config.guest = Guest::Native { image: trial.former };
        domain.upgraded = Some(Err(line.clone()));
        let restarted = self.revive(id);
        self.notice(&line);
        if let Err(text) = restarted {
            self.notice(&text);
        }
        true
    }

    /// Ends the trials whose time is over.
    pub(super) fn trials_due(&mut self) {
        let now = self.hypervisor.clock();
        let over = self.domains.iter().find(|domain| domain.trial.as_ref().is_some_and(|trial| trial.deadline <= now));
        if let Some(id) = over.map(|domain| domain.id) {
            self.fail_trial(id, "it does not serve everything again in time");
        }
    }

    /// When [`Plane::trials_due`] has something to do.
    pub(super) fn next_trial(&self) -> u64 {
        let trials = self.domains.iter().filter_map(|domain| domain.trial.as_ref());
        trials.map(|trial| trial.deadline).min().unwrap_or(u64::MAX)
    }
}
