//! The control channels: what dom0 asks of domains, and what they say.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::control::{Envelope, FromDomain, ToDomain};

use super::domain::{Answer, Domain, Wire};
use super::{DOM0_NAME, Plane};
use crate::hypervisor::Hypervisor;

/// A request that was sent; its answer is looked for with [`Plane::answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The domain asked.
    pub domain: u16,
    id: u32,
}

/// The message that tells a domain about a channel to `name`.
pub(super) fn connected(name: &str, wire: Wire) -> ToDomain {
    let name = heapless::String::try_from(name).unwrap_or_default();
    ToDomain::Connected { name, port: wire.own, peer: wire.peer }
}

impl<H: Hypervisor> Plane<'_, H> {
    /// Asks a domain for something.
    pub fn request(&mut self, id: u16, message: ToDomain) -> Result<Request, String> {
        let Some(domain) = self.domain_mut(id) else {
            return Err(format!("{DOM0_NAME}: it takes no requests, it runs this shell"));
        };
        let name = domain.name().to_owned();
        let Some(channel) = &mut domain.channel else {
            return Err(format!("{name}: it does not run: `restart {name}` starts it"));
        };
        if let Some(fault) = channel.fault() {
            return Err(format!("{name}: it {fault}: `restart {name}` or `destroy {name}`"));
        }
        let request = Request { domain: id, id: channel.send(message) };
        domain.expect(request.id);
        self.receive_due = true;
        self.exchange();
        Ok(request)
    }

    /// The answer to a request, once it is there.
    pub fn answer(&mut self, request: Request) -> Option<Answer> {
        self.domain_mut(request.domain)?.take_answer(request.id)
    }

    /// Notes that a domain uses so many of its vCPUs.
    pub fn vcpus_used(&mut self, id: u16, vcpus: u32) {
        if let Some(domain) = self.domain_mut(id) {
            domain.vcpus_used = vcpus;
        }
    }

    /// Tells a domain about the channels that others asked for.
    pub(super) fn announce_wires(&mut self, domain: &mut Domain<H::Page>) {
        for wire in &domain.wires {
            let peer = self.domains.iter().find(|other| other.id == wire.peer);
            if let (Some(peer), Some(channel)) = (peer, &mut domain.channel) {
                channel.send(connected(peer.name(), *wire));
            }
        }
    }

    /// Sends and receives on every channel, as much as goes without waiting.
    pub(super) fn exchange(&mut self) {
        self.receive_due = false;
        let console = self.console.map(|wire| wire.peer);
        let mut said: Vec<(String, String)> = Vec::new();
        let mut ready: Vec<(u16, u32)> = Vec::new();
        let mut heard: Vec<(u16, Envelope<FromDomain>)> = Vec::new();
        for domain in &mut self.domains {
            let Some(mut channel) = domain.channel.take() else { continue };
            let healthy = channel.fault().is_none();
            let received = channel.receive(|envelope| match envelope.message {
                FromDomain::Ready { abi_version } => {
                    if !core::mem::replace(&mut domain.ready, true) {
                        domain.image = Some(domain.config.image().to_owned());
                        ready.push((domain.id, abi_version));
                    }
                }
                FromDomain::ConsoleReturned if console == Some(domain.id) => self.terminal_returned = true,
                FromDomain::ConsoleReturned => {}
                _ => heard.push((domain.id, envelope)),
            });
            let flushed = channel.flush();
            if received.notify || flushed.notify {
                // A domain that is gone in this moment cannot be told, and need not be.
                let _ = self.hypervisor.event_send(domain.control_port);
            }
            self.receive_due |= received.again;
            if let Some(fault) = channel.fault().filter(|_| healthy) {
                said.push((domain.name().to_owned(), format!("control channel closed: it {fault}")));
            }
            domain.channel = Some(channel);
        }
        for (id, abi_version) in ready {
            self.became_ready(id, abi_version);
        }
        for (id, envelope) in heard {
            if let Some(envelope) = self.heard(id, envelope)
                && let Some(domain) = self.domain_mut(id)
            {
                domain.answer(envelope.id, envelope.message);
            }
        }
        for (name, text) in said {
            self.notice(&format!("{name}: {text}"));
        }
    }

    fn became_ready(&mut self, id: u16, abi_version: u32) {
        if abi_version != protocol::ABI_VERSION {
            let text = format!("was built for version {abi_version} of the interface: build it anew");
            if self.fail_trial(id, &text) {
                return;
            }
            let name = self.handle(id).map(|(_, name)| name.to_owned()).unwrap_or_default();
            self.notice(&format!("{name}: {text}"));
        }
        // It has declared by now how often it beats.
        self.look_at = 0;
        self.links_ready(id);
        self.attached(id);
    }
}
