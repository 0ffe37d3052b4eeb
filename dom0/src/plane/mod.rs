//! The control plane: the domains there are, and what is done to them.
//!
//! [`Plane`] holds the registry. What the operator wants is in `lifecycle`, `restart` and `devices`, what happens by itself in
//! `supervisor` and `links`, the special domain that carries the operator's terminal in `console`. Nothing here waits: long matters
//! are looked at again in [`Plane::poll`], no later than [`Plane::next_deadline`] says.

mod boot;
mod console;
mod device;
mod devices;
mod domain;
mod lifecycle;
mod links;
pub mod pci;
mod ports;
mod requests;
pub(crate) mod restart;
mod supervisor;
mod upgrade;
mod watchdog;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::event::Port;
use protocol::handle::Handle;

pub use device::{Attached, Device, Kind, Link};
pub use domain::{Answer, Domain, Phase, Wire};
pub use lifecycle::{Created, Failure};
pub use requests::Request;

use crate::bundle::Bundle;
use crate::hypervisor::Hypervisor;

/// Lines for the operator that are kept until a shell takes them.
const NOTICES_MAX: usize = 256;
/// dom0 in lists; the core calls it by this id.
pub const DOM0_ID: u16 = 0;
/// The name of dom0.
pub const DOM0_NAME: &str = "dom0";

/// A domain that is being taken apart.
#[derive(Clone, Copy, Debug)]
struct Dying {
    handle: Handle,
    control_port: Port,
    /// Slices of it in the next turn.
    slices: usize,
}

/// The control plane over a machine.
#[derive(Debug)]
pub struct Plane<'b, H: Hypervisor> {
    /// The machine.
    pub hypervisor: H,
    /// The boot bundle.
    pub bundle: Bundle<'b>,
    domains: Vec<Domain<H::Page>>,
    dying: Vec<Dying>,
    devices: Vec<Device>,
    /// The last key of a device, and the last number of a negotiation, that were given.
    last_key: u32,
    lives: u32,
    /// When the watched domains are looked at.
    look_at: u64,
    /// When it goes on with what is taken apart.
    rest_until: u64,
    /// The console domain, and dom0's way to it.
    console: Option<Wire>,
    notices: VecDeque<String>,
    sweep_due: bool,
    receive_due: bool,
    terminal_returned: bool,
    console_restarted: bool,
}

impl<'b, H: Hypervisor> Plane<'b, H> {
    /// A control plane without any domain yet.
    pub fn new(hypervisor: H, bundle: Bundle<'b>) -> Plane<'b, H> {
        Plane {
            hypervisor,
            bundle,
            domains: Vec::new(),
            dying: Vec::new(),
            devices: Vec::new(),
            last_key: 0,
            lives: 0,
            look_at: 0,
            rest_until: 0,
            console: None,
            notices: VecDeque::new(),
            sweep_due: false,
            receive_due: false,
            terminal_returned: false,
            console_restarted: false,
        }
    }

    /// All domains but dom0, in the order of their creation.
    pub fn domains(&self) -> &[Domain<H::Page>] {
        &self.domains
    }

    /// The domain with this id.
    pub fn domain(&self, id: u16) -> Option<&Domain<H::Page>> {
        self.domains.iter().find(|domain| domain.id == id)
    }

    fn domain_mut(&mut self, id: u16) -> Option<&mut Domain<H::Page>> {
        self.domains.iter_mut().find(|domain| domain.id == id)
    }

    /// The id of the domain with this name or id; dom0 counts.
    pub fn find(&self, name: &str) -> Option<u16> {
        if name == DOM0_NAME || name == "0" {
            return Some(DOM0_ID);
        }
        let number = name.parse::<u16>().ok();
        let found = self.domains.iter().find(|domain| domain.name() == name || Some(domain.id) == number);
        found.map(|domain| domain.id)
    }

    /// Names of all domains, dom0 first.
    pub fn names(&self) -> Vec<String> {
        let others = self.domains.iter().map(|domain| domain.name().into());
        core::iter::once(DOM0_NAME.into()).chain(others).collect()
    }

    /// The handle and the name of a domain, dom0 included.
    pub fn handle(&self, id: u16) -> Option<(Handle, &str)> {
        if id == DOM0_ID {
            return Some((Handle::SELF, DOM0_NAME));
        }
        self.domain(id).map(|domain| (domain.handle, domain.name()))
    }

    /// Whether everything that was destroyed is gone.
    pub fn all_reaped(&self) -> bool {
        self.dying.is_empty()
    }

    /// Tells the operator something, at the shell and in the log.
    pub fn notice(&mut self, line: &str) {
        self.hypervisor.log_write(line);
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(line.into());
    }

    /// The next line for the operator.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notices.pop_front()
    }

    /// Whether the console domain gave the terminal back to the shell since the last call.
    pub fn take_terminal_returned(&mut self) -> bool {
        core::mem::take(&mut self.terminal_returned)
    }

    /// dom0's port to the console domain, if that domain started again since the last call.
    pub fn take_console_restarted(&mut self) -> Option<Port> {
        self.shell_port().filter(|_| core::mem::take(&mut self.console_restarted))
    }

    /// An event came: of a domain's state, or of some control channel.
    pub fn on_port(&mut self, port: Port) {
        if port == protocol::event::DOMAIN_EVENT_PORT {
            self.sweep_due = true;
        }
        self.receive_due = true;
    }

    /// Does what is due. Work per call is bounded.
    pub fn poll(&mut self) {
        if core::mem::take(&mut self.sweep_due) {
            self.sweep();
        }
        self.restart_due();
        self.take_apart();
        self.exchange();
        self.look();
        self.trials_due();
        self.repeat_late();
    }

    /// When [`Plane::poll`] has to be called at the latest, in ns since the core started.
    pub fn next_deadline(&mut self) -> u64 {
        if self.sweep_due || self.receive_due {
            return 0;
        }
        let next_turn = self.takes_apart().then_some(self.rest_until);
        let restarts = self.domains.iter().filter_map(|domain| match domain.phase {
            Phase::Waiting(at) => Some(at),
            _ => None,
        });
        let next = restarts.chain(next_turn).min().unwrap_or(u64::MAX);
        next.min(self.next_look()).min(self.next_trial()).min(self.repeat_at())
    }
}
