//! Restart in place, and the end of those that were destroyed.
//!
//! A domain with GiBs of memory takes long to take back: all of it is scrubbed. So that goes a few slices at a time, and whoever has
//! to run again meanwhile does. A driver domain is small enough to be through with the first of them. Between turns dom0 rests: the core
//! does one thing at a time, and the CPU that was in it last is the first to be there again, so without a rest the others, a driver
//! domain that takes its connections up again among them, would hardly get in.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::error::Error;

use super::domain::{Domain, Phase};
use super::watchdog::Outage;
use super::{DOM0_NAME, Plane};
use crate::backoff::Backoff;
use crate::hypervisor::Hypervisor;
use crate::image::Image;

/// Slices at once of what the core does in slices, when it begins: 32 MiB of memory in small pages scrubbed, more than a driver domain has.
pub(super) const FIRST_SLICES: usize = 64;
/// Slices at once when it goes on, before others get their turn: several turns pass until a driver domain that was restarted has its
/// connections back.
const SLICES: usize = 4;
/// How long dom0 rests after a turn, as a part of what the turn took.
const REST: u64 = 2;

/// Repeats a call that the core cut into slices so often; `None` if it is not through then.
fn turn(slices: usize, mut call: impl FnMut() -> Result<(), Error>) -> Option<Result<(), Error>> {
    (0..slices).map(|_| call()).find(|result| *result != Err(Error::Again))
}

/// What is said of a domain that was restarted, by whoever, in so many ns.
pub fn restarted(name: &str, took: u64) -> String {
    format!("{name} is restarted, {} us", took / 1000)
}

impl<'b, H: Hypervisor> Plane<'b, H> {
    /// Takes a domain back to its first instruction, in place, because the operator wants it, whatever its past. Gives the ns it
    /// took, or nothing if it goes on in [`Plane::poll`].
    pub fn restart(&mut self, id: u16) -> Result<Option<u64>, String> {
        let now = self.hypervisor.clock();
        if let Some(domain) = self.domain_mut(id) {
            domain.backoff = Backoff::default();
            domain.outage = Some(Outage::begin(now));
            domain.last_end = Some("was restarted by the operator".to_owned());
            domain.image = None;
        }
        self.revive(id)
    }

    /// Takes a domain back to its first instruction, in place. Gives the ns it took, or nothing if it goes on in [`Plane::poll`].
    pub(super) fn revive(&mut self, id: u16) -> Result<Option<u64>, String> {
        let begin = self.hypervisor.clock();
        match self.go_on(id, begin) {
            Some(result) => result.map(Some),
            None if self.domain(id).is_none() => {
                Err(format!("{DOM0_NAME}: it cannot be restarted: `poweroff --reboot` restarts all"))
            }
            None => Ok(None),
        }
    }

    /// A turn of a restart that began at `begin`; gives how it went once it is through.
    fn go_on(&mut self, id: u16, begin: u64) -> Option<Result<u64, String>> {
        let index = self.domains.iter().position(|domain| domain.id == id)?;
        // Out of the registry while it is worked on: its messages go through the others' channels.
        let mut domain = self.domains.remove(index);
        domain.ready = false;
        let result = match self.image(&domain.config) {
            Ok(image) => self.rebuild(&mut domain, &image),
            Err(text) => Some(Err(text)),
        };
        match &result {
            None => domain.phase = Phase::Restarting(begin),
            Some(Ok(())) => {}
            Some(Err(text)) => {
                domain.phase = Phase::Quarantined;
                domain.last_end = Some(format!("could not be restarted: {text}"));
            }
        }
        let name = domain.name().to_owned();
        self.domains.insert(index, domain);
        let result = result?;
        self.backend_lost(id);
        match &result {
            Ok(()) => self.frontend_lost(id),
            Err(_) => self.backend_down(id),
        }
        if result.is_ok() && self.is_console(id) {
            self.console_restarted = true;
            self.announce_all();
        }
        self.exchange();
        Some(result.map(|()| self.hypervisor.clock().saturating_sub(begin)).map_err(|text| format!("{name}: {text}")))
    }

    /// A turn of taking a domain back and, at the end, starting it again.
    fn rebuild(&mut self, domain: &mut Domain<H::Page>, image: &Image<'b>) -> Option<Result<(), String>> {
        domain.image.take_if(|image| image != domain.config.image());
        if let Err(error) = self.take_back(domain)? {
            return Some(Err(format!("the core refuses to reset it: {error}")));
        }
        // What an earlier turn kept is in the way of all that is not the same image.
        let in_the_way = domain.kept && domain.image.is_none();
        let result = if in_the_way { None } else { Some(self.run(domain, image, false)) };
        if core::mem::take(&mut domain.kept) && !matches!(result, Some(Ok(()))) {
            // What was kept is not what it was, or not wanted: all of it goes.
            domain.resetting = true;
            return None;
        }
        domain.restarts += 1;
        result
    }

    /// A turn of taking a domain back to where it is built: it runs no more and, at the end, holds nothing of others.
    fn take_back(&mut self, domain: &mut Domain<H::Page>) -> Option<Result<(), Error>> {
        self.close_channel(domain);
        let slices = if domain.resetting { SLICES } else { FIRST_SLICES };
        let keep = domain.image.is_some();
        domain.kept |= keep;
        let reset = turn(slices, || self.hypervisor.domain_reset(domain.handle, keep));
        domain.resetting = reset.is_none();
        reset
    }

    /// Takes a domain back to where it is built, and leaves it there.
    pub(super) fn halt(&mut self, id: u16) {
        let Some(index) = self.domains.iter().position(|domain| domain.id == id) else { return };
        let mut domain = self.domains.remove(index);
        domain.image = None;
        // A domain that is not there any more does not run either.
        let _ = self.take_back(&mut domain);
        self.domains.insert(index, domain);
    }

    /// Restarts a domain, and says so.
    pub(super) fn restart_and_say(&mut self, id: u16, name: &str) -> String {
        match self.revive(id) {
            Ok(Some(took)) => restarted(name, took),
            Ok(None) => format!("{name} is restarted as soon as its memory is scrubbed"),
            Err(text) => format!("{text}; {name} is in quarantine"),
        }
    }

    /// Whether something is being taken apart that is not through yet.
    pub(super) fn takes_apart(&self) -> bool {
        !self.dying.is_empty() || self.domains.iter().any(|domain| domain.resetting)
    }

    /// A turn of what is being taken apart, unless it is time to rest.
    pub(super) fn take_apart(&mut self) {
        let begin = self.hypervisor.clock();
        if self.takes_apart() && begin >= self.rest_until {
            self.go_on_with_restarts();
            self.reap();
            let end = self.hypervisor.clock();
            self.rest_until = end.saturating_add(end.saturating_sub(begin) / REST);
        }
    }

    /// Goes on with the domains that are taken back.
    fn go_on_with_restarts(&mut self) {
        let under_way = |domain: &Domain<H::Page>| domain.resetting.then_some((domain.id, domain.phase));
        let all: Vec<_> = self.domains.iter().filter_map(under_way).collect();
        for (id, phase) in all {
            let Phase::Restarting(begin) = phase else {
                self.halt(id);
                continue;
            };
            let name = self.handle(id).map(|(_, name)| name.to_string()).unwrap_or_default();
            match self.go_on(id, begin) {
                None => {}
                Some(Ok(took)) => self.notice(&restarted(&name, took)),
                Some(Err(text)) if self.fail_trial(id, &text) => {}
                Some(Err(text)) => self.notice(&format!("{text}; {name} is in quarantine")),
            }
        }
    }

    /// Goes on with what is being destroyed.
    pub(super) fn reap(&mut self) {
        let hypervisor = &mut self.hypervisor;
        self.dying.retain_mut(|dying| {
            let slices = core::mem::replace(&mut dying.slices, SLICES);
            let gone = turn(slices, || hypervisor.domain_destroy(dying.handle)).is_some();
            if gone {
                // The core closes dom0's end of the control channel with the domain; a port that is closed is no harm.
                let _ = hypervisor.event_close(dying.control_port);
            }
            !gone
        });
    }
}
