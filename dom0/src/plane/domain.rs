//! What dom0 remembers of a domain; what the core can tell is asked of the core.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::domain::DomainCreated;
use protocol::event::Port;
use protocol::handle::Handle;
use protocol::start::BootArguments;

use crate::backoff::Backoff;
use crate::channel::Channel;
use crate::config::Config;

/// Answers that are remembered until somebody asks for them.
const ANSWERS_MAX: usize = 16;

/// What the supervisor does with a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It runs, or is paused.
    Running,
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
    /// It said that it runs.
    pub ready: bool,
    /// Its answers to requests.
    pub answers: VecDeque<(u32, Result<(), String>)>,
}

impl<P> Domain<P> {
    /// A domain that was just made.
    pub fn new(config: Config, created: &DomainCreated, created_ns: u64) -> Domain<P> {
        Domain {
            config,
            id: created.id,
            handle: Handle(created.handle),
            control_port: Port(created.control_port),
            channel: None,
            console: None,
            wires: Vec::new(),
            arguments: BootArguments::default(),
            phase: Phase::Running,
            restarts: 0,
            last_end: None,
            created_ns,
            started_ns: created_ns,
            backoff: Backoff::default(),
            ready: false,
            answers: VecDeque::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Remembers an answer.
    pub fn answer(&mut self, request: u32, answer: Result<(), String>) {
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((request, answer));
    }

    /// Takes the answer to a request, if it came.
    pub fn take_answer(&mut self, request: u32) -> Option<Result<(), String>> {
        let index = self.answers.iter().position(|(id, _)| *id == request)?;
        self.answers.remove(index).map(|(_, answer)| answer)
    }
}
