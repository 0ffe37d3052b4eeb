//! What dom0 remembers of a domain; what the core can tell is asked of the core.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::arguments::BootArguments;
use protocol::control::FromDomain;
use protocol::domain::DomainCreated;
use protocol::event::Port;
use protocol::handle::Handle;

use super::upgrade::Trial;
use super::watchdog::{Heart, Outage};
use crate::backoff::Backoff;
use crate::channel::Channel;
use crate::config::Config;

/// Requests whose answers are kept until somebody asks for them.
const REQUESTS_MAX: usize = 64;

/// What became of a request: what the domain answered, or why it refused.
pub type Answer = Result<FromDomain, String>;

/// What the supervisor does with a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It runs, or is paused.
    Running,
    /// It is taken back to its first instruction since this time, in ns since the core started.
    Restarting(u64),
    /// It ended and is kept, to be looked at.
    Kept,
    /// It ended and is started again at this time, in ns since the core started.
    Waiting(u64),
    /// It ended too often and is left alone.
    Quarantined,
}

/// A channel to another domain, because of that one's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Id of the other domain, and its index in the peer table.
    pub peer: u16,
    /// The port of the domain that has this wire.
    pub own: Port,
    /// The port of the other one.
    pub theirs: Port,
}

/// A domain.
#[derive(Debug)]
pub struct Domain<P> {
    /// Its configuration.
    pub config: Config,
    /// Its id.
    pub id: u16,
    /// dom0's handle of it.
    pub handle: Handle,
    /// dom0's port of the control channel.
    pub control_port: Port,
    /// The control channel, while it is built.
    pub channel: Option<Channel<P>>,
    /// Its way to the console domain.
    pub console: Option<Wire>,
    /// Domains whose configuration asked to be connected to this one.
    pub wires: Vec<Wire>,
    /// Its boot arguments, the same after every restart.
    pub arguments: BootArguments,
    /// What the supervisor does with it.
    pub phase: Phase,
    /// The image with which it became ready, whose code can stay where it is when it is restarted.
    pub image: Option<String>,
    /// The core was asked to keep that code.
    pub kept: bool,
    /// The core is not through with taking it back to where it is built.
    pub resetting: bool,
    /// Times it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_end: Option<String>,
    /// When it was created, in ns since the core started.
    pub created_ns: u64,
    /// When it was started last.
    pub started_ns: u64,
    /// Its recent deaths.
    pub backoff: Backoff,
    /// When a driver domain has to be ready.
    pub ready_by_ns: u64,
    /// It said that it runs.
    pub ready: bool,
    /// vCPUs that it uses: all of them, unless a Linux guest was told otherwise.
    pub vcpus_used: u32,
    /// Requests of somebody who will look for the answer, and those answers that came.
    pub requests: VecDeque<(u32, Option<Answer>)>,
    /// Indexes and ids of the driver domains in its peer table.
    pub backends: Vec<(u16, u16)>,
    /// Addresses of the PCI devices that it was given.
    pub pci: Vec<u16>,
    /// Its signs of life, if it is watched.
    pub heart: Option<Heart<P>>,
    /// Its last death, if it came back from it or will.
    pub outage: Option<Outage>,
    /// An upgrade that is not settled yet.
    pub trial: Option<Trial>,
    /// How the last upgrade went, until somebody asks.
    pub upgraded: Option<Result<(), String>>,
}

impl<P> Domain<P> {
    /// A domain that was just made.
    pub fn new(config: Config, created: &DomainCreated, created_ns: u64) -> Domain<P> {
        Domain {
            vcpus_used: config.vcpus,
            config,
            id: created.id,
            handle: Handle(created.handle),
            control_port: Port(created.control_port),
            channel: None,
            console: None,
            wires: Vec::new(),
            arguments: BootArguments::default(),
            phase: Phase::Running,
            image: None,
            kept: false,
            resetting: false,
            restarts: 0,
            last_end: None,
            created_ns,
            started_ns: created_ns,
            backoff: Backoff::default(),
            ready_by_ns: u64::MAX,
            ready: false,
            requests: VecDeque::new(),
            backends: Vec::new(),
            pci: Vec::new(),
            heart: None,
            outage: None,
            trial: None,
            upgraded: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Remembers that somebody will look for the answer to a request.
    pub fn expect(&mut self, request: u32) {
        if self.requests.len() == REQUESTS_MAX {
            self.requests.pop_front();
        }
        self.requests.push_back((request, None));
    }

    /// Keeps an answer, if it is to something that was asked.
    pub fn answer(&mut self, request: u32, message: FromDomain) {
        if let Some((_, answer)) = self.requests.iter_mut().find(|(id, _)| *id == request) {
            *answer = Some(match message {
                FromDomain::Failed { reason } => Err(crate::config::shown(&reason)),
                message => Ok(message),
            });
        }
    }

    /// Takes the answer to a request, if it came.
    pub fn take_answer(&mut self, request: u32) -> Option<Answer> {
        let index = self.requests.iter().position(|(id, answer)| *id == request && answer.is_some())?;
        self.requests.remove(index).and_then(|(_, answer)| answer)
    }
}
