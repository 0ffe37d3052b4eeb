//! The console domain: it carries the operator's terminal, dom0's shell included.
//!
//! Every other domain is wired to it when it is made. It keeps its ports and peers over a restart, so afterwards it is only
//! told again whom it serves.

use alloc::format;
use alloc::string::{String, ToString};

use protocol::control::ToDomain;
use protocol::event::Port;
use protocol::grant::PEER_CONSOLE;
use protocol::handle::Handle;

use super::domain::{Domain, Wire};
use super::{DOM0_ID, DOM0_NAME, Plane};
use crate::hypervisor::Hypervisor;

/// Its name, and the image that makes a domain of that name special.
pub const NAME: &str = "console";
/// Its configuration; the operator cannot change it, because without it there is no operator.
pub const CONFIG: &str = include_str!("../console.toml");

impl<H: Hypervisor> Plane<'_, H> {
    /// Whether this is the console domain.
    pub fn is_console(&self, id: u16) -> bool {
        self.console.is_some_and(|wire| wire.peer == id)
    }

    /// dom0's own port to the console domain.
    pub fn shell_port(&self) -> Option<Port> {
        self.console.map(|wire| wire.own)
    }

    /// Creates the console domain and hands it the terminal.
    pub(super) fn create_console(&mut self) -> Result<(), String> {
        let created = self.create("console.toml", CONFIG, &[], false);
        let id = created.map_err(|failure| failure.lines.join("; "))?.id;
        let handle = self.domain(id).map(|domain| domain.handle).unwrap_or(Handle::SELF);
        let failed = |error| format!("console: dom0 cannot be connected to it: {error}");
        self.hypervisor.domain_peer(Handle::SELF, PEER_CONSOLE, handle, false).map_err(failed)?;
        let (own, theirs) = self.hypervisor.event_connect(Handle::SELF, handle).map_err(failed)?;
        self.console = Some(Wire { peer: id, own, theirs });
        self.announce_all();
        self.exchange();
        Ok(())
    }

    /// Connects a new domain to the console domain, if there is one.
    pub(super) fn wire_console(&mut self, domain: &mut Domain<H::Page>) -> Result<(), String> {
        let Some((id, handle)) = self.console_handle() else { return Ok(()) };
        let failed = |error| format!("it cannot be connected to the console: {error}");
        self.hypervisor.domain_peer(domain.handle, PEER_CONSOLE, handle, false).map_err(failed)?;
        self.hypervisor.domain_peer(handle, domain.id, domain.handle, false).map_err(failed)?;
        let (own, theirs) = self.hypervisor.event_connect(domain.handle, handle).map_err(failed)?;
        domain.console = Some(Wire { peer: id, own, theirs });
        Ok(())
    }

    fn console_handle(&self) -> Option<(u16, Handle)> {
        let id = self.console?.peer;
        self.domain(id).map(|domain| (id, domain.handle))
    }

    fn tell_console(&mut self, message: ToDomain) {
        let Some(id) = self.console.map(|wire| wire.peer) else { return };
        if let Some(channel) = self.domain_mut(id).and_then(|domain| domain.channel.as_mut()) {
            channel.send(message);
            self.receive_due = true;
        }
    }

    /// Tells the console domain to serve a domain.
    pub(super) fn announce_to_console(&mut self, domain: &Domain<H::Page>) {
        if let Some(wire) = domain.console {
            self.tell_console(connect_message(domain.id, domain.name(), wire, false));
        }
    }

    /// Tells a console domain that was just started about everybody; the shell first, to be shown first.
    pub(super) fn announce_all(&mut self) {
        let Some(wire) = self.console else { return };
        self.tell_console(connect_message(DOM0_ID, DOM0_NAME, wire, true));
        for index in 0..self.domains.len() {
            let Some(domain) = self.domains.get(index) else { break };
            if let Some(wire) = domain.console {
                self.tell_console(connect_message(domain.id, domain.name(), wire, false));
            }
        }
    }

    /// Tells the console domain to forget a domain.
    pub(super) fn disconnect_console(&mut self, domain: &Domain<H::Page>) {
        if domain.console.is_some() {
            self.tell_console(ToDomain::ConsoleDisconnect { peer: domain.id });
        }
    }

    /// Gives the terminal to a domain, or back to the shell for dom0.
    pub fn focus(&mut self, id: u16) -> Result<(), String> {
        let name = self.handle(id).map(|(_, name)| name.to_string()).unwrap_or_default();
        let wired = id == DOM0_ID || self.domain(id).is_some_and(|domain| domain.console.is_some());
        if !wired || self.console.is_none() {
            return Err(format!("{name}: it has no console to show"));
        }
        self.terminal_returned = false;
        self.tell_console(ToDomain::ConsoleFocus { peer: id });
        self.exchange();
        Ok(())
    }
}

fn connect_message(peer: u16, name: &str, wire: Wire, shell: bool) -> ToDomain {
    let name = heapless::String::try_from(name).unwrap_or_default();
    ToDomain::ConsoleConnect { peer, port: wire.theirs, name, shell }
}
