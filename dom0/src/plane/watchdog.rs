//! Signs of life of the driver domains, and how long their services were away.
//!
//! A domain that declared how often it beats is looked at several times a second. If it is silent, or its device owes it an
//! answer for too long, it counts as dead and is restarted, with that as the reason. A paused domain is not judged.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use protocol::grant::REF_HEARTBEAT;
use protocol::heartbeat::{self, Heartbeat, Watch};
use protocol::ring::Shared;

use super::Plane;
use super::domain::{Domain, Phase};
use super::supervisor::killed;
use crate::hypervisor::Hypervisor;

/// Time between two looks, in ns: a fraction of any period that a driver declares, and nothing that is noticed.
const LOOK_NS: u64 = 100_000_000;
/// Longest time from the start of a driver domain until it is ready, its devices found and reset, in ns.
const START_NS: u64 = 10_000_000_000;
/// A first request served later than this after all connections are back was no request that waited, in ns.
const IDLE_NS: u64 = 1_000_000_000;

/// A driver domain that died and came back, or does so now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it died, in ns since the core started.
    pub died_ns: u64,
    /// When all its connections were attached again.
    pub attached_ns: Option<u64>,
    /// When it had served its first request.
    pub served_ns: Option<u64>,
    /// Some of its connections had requests under way.
    pub waited: bool,
}

impl Outage {
    /// It died at this time.
    pub const fn begin(died_ns: u64) -> Outage {
        Outage { died_ns, attached_ns: None, served_ns: None, waited: false }
    }

    /// How long its service was away, in ns, once that is known: until the first request was served; or, if none waited, until
    /// one could have been.
    pub fn blackout_ns(&self, now: u64) -> Option<u64> {
        let late = |attached: &u64| self.served_ns.unwrap_or(now).saturating_sub(*attached) > IDLE_NS;
        let idle = self.attached_ns.filter(|attached| !self.waited && late(attached));
        Some(idle.or(self.served_ns)?.saturating_sub(self.died_ns))
    }
}

/// What is watched of a domain.
#[derive(Debug)]
pub struct Heart<P> {
    page: P,
    watch: Watch,
    /// What it said last.
    pub last: Heartbeat,
}

impl<P: Shared> Heart<P> {
    /// Whether the domain served anybody since it was started.
    pub fn served(&self) -> bool {
        heartbeat::load(&self.page, heartbeat::FIRST_SERVED) != 0
    }

    /// Gives the page back, to be unmapped.
    pub fn into_page(self) -> P {
        self.page
    }
}

impl<H: Hypervisor> Plane<'_, H> {
    /// Begins to watch a domain that is about to start. One without a page is not watched.
    pub(super) fn watch(&mut self, domain: &mut Domain<H::Page>) {
        let now = self.hypervisor.clock();
        domain.ready_by_ns = now.saturating_add(START_NS);
        let page = self.hypervisor.map(domain.id, REF_HEARTBEAT, false).ok();
        domain.heart = page.map(|page| Heart { page, watch: Watch::new(now), last: Heartbeat::default() });
    }

    /// Looks at every domain that is watched, when it is time.
    pub(super) fn look(&mut self) {
        let now = self.hypervisor.clock();
        if now < self.look_at {
            return;
        }
        self.look_at = now.saturating_add(LOOK_NS);
        let mut silent = Vec::new();
        for domain in self.domains.iter_mut().filter(|domain| domain.phase == Phase::Running) {
            if domain.config.backend.is_some() && !domain.ready && now >= domain.ready_by_ns {
                silent.push((domain.id, format!("was not ready {} s after its start", START_NS / 1_000_000_000)));
                continue;
            }
            let Some(heart) = &mut domain.heart else { continue };
            heart.last = heartbeat::read(&heart.page);
            if let Some(outage) = &mut domain.outage {
                outage.served_ns = outage.served_ns.or(Some(heart.last.first_served).filter(|&at| at != 0));
            }
            if let Some(silence) = heart.watch.judge(&heart.last, now) {
                silent.push((domain.id, silence.to_string()));
            }
        }
        for (id, text) in silent {
            let Some(domain) = self.domains.iter_mut().find(|domain| domain.id == id) else { continue };
            if self.hypervisor.domain_info(domain.handle).is_ok_and(|info| info.pauses > 0) {
                domain.ready_by_ns = now.saturating_add(START_NS);
                domain.heart.iter_mut().for_each(|heart| heart.watch = Watch::new(now));
            } else {
                self.ended(id, &killed(), Some(text));
            }
        }
    }

    /// When [`Plane::look`] has to be called.
    pub(super) fn next_look(&self) -> u64 {
        let watched = self.domains.iter().any(|domain| {
            let declared = domain.heart.as_ref().is_some_and(|heart| heart.last.period != 0);
            domain.phase == Phase::Running && (declared || (domain.config.backend.is_some() && !domain.ready))
        });
        if watched { self.look_at } else { u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blackout_ends_with_the_first_request_that_waited() {
        let outage = Outage::begin(100);
        assert_eq!(outage.blackout_ns(u64::MAX), None);
        let attached = Outage { attached_ns: Some(150), ..outage };
        assert_eq!(attached.blackout_ns(200), None, "a request may still come");
        assert_eq!(attached.blackout_ns(151 + IDLE_NS), Some(50), "nobody asked");
        assert_eq!(Outage { served_ns: Some(160), ..attached }.blackout_ns(161), Some(60));
        let late = Outage { served_ns: Some(200 + IDLE_NS), ..attached };
        assert_eq!(late.blackout_ns(u64::MAX), Some(50));
        assert_eq!(Outage { waited: true, ..late }.blackout_ns(u64::MAX), Some(100 + IDLE_NS), "somebody did");
    }
}
