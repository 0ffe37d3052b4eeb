//! What the author of a driver domain writes, and how a connection ends that does not deserve to go on.

use core::fmt;
use core::time::Duration;

use protocol::connection::{Frontend, Guilty, Statistics};
use protocol::control::{FromDomain, ToDomain};
use protocol::error::Error;
use protocol::grant::GrantRef;
use protocol::ring::Violation;

use super::{Host, Machine, Table};

/// What was found to be wrong. Small and without text of its own, since it passes through the paths that every request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The ring's indexes.
    Ring(Violation),
    /// A page cannot be mapped.
    Page {
        /// The frontend's reference.
        reference: GrantRef,
        /// Why.
        error: Error,
    },
    /// Something else.
    Text(&'static str),
    /// Something else, with the number that shows it.
    Number(&'static str, u64),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Ring(violation) => write!(f, "{violation}"),
            Cause::Page { reference, error } => write!(f, "grant {reference} cannot be mapped: {error}"),
            Cause::Text(text) => f.write_str(text),
            Cause::Number(text, number) => write!(f, "{text}: {number}"),
        }
    }
}

/// Somebody broke a rule: the connection is closed until it is detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Who did.
    pub guilty: Guilty,
    /// What was found.
    pub cause: Cause,
}

impl Broken {
    /// By the frontend.
    pub const fn by_frontend(cause: Cause) -> Broken {
        Broken { guilty: Guilty::Frontend, cause }
    }

    /// By this domain, or what it left in its record.
    pub const fn by_backend(cause: Cause) -> Broken {
        Broken { guilty: Guilty::Backend, cause }
    }
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Broken {
        Broken::by_frontend(Cause::Ring(violation))
    }
}

/// Why a connection cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody broke a rule.
    Broken(Broken),
    /// It cannot be had here, for instance because there is no such disk. A later attach may do better.
    Impossible(Cause),
}

impl Refusal {
    /// What is wrong.
    pub const fn cause(&self) -> Cause {
        match self {
            Refusal::Broken(broken) => broken.cause,
            Refusal::Impossible(cause) => *cause,
        }
    }
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        Refusal::Broken(broken)
    }
}

/// A driver domain, without what [`super::Backend`] does for every one. Each function does bounded work and waits for nothing.
pub trait Service {
    /// What it runs on.
    type Machine: Machine;
    /// What it keeps of a connection: rings, and what is under way.
    type Connection;

    /// Bytes of retained memory for one connection.
    const RECORD: usize;

    /// Who asks, if `message` asks this kind of service to attach.
    fn frontend(message: &ToDomain) -> Option<&Frontend>;

    /// Attaches: maps the rings, recovers what the record says, and prepares the replays. Whatever was with the device before
    /// this domain was started is not any more.
    fn attach(
        &mut self,
        host: &Host<Self::Machine>,
        message: &ToDomain,
    ) -> Result<(Self::Connection, FromDomain), Refusal>;

    /// What [`Service::attach`] answered, for a dom0 that asks again; nothing was replayed for it.
    fn attached(&self, connection: &Self::Connection) -> FromDomain;

    /// Empties the record of a connection that is gone.
    fn forget(&mut self, host: &Host<Self::Machine>, connection: u16);

    /// Serves what the device has completed, for whatever connection; gives whether there is more to do at once.
    fn device(&mut self, host: &Host<Self::Machine>, table: &mut Table<Self::Connection>) -> bool;

    /// Takes requests of one connection and starts what can be started; gives whether there is more to do at once.
    fn serve(
        &mut self,
        host: &Host<Self::Machine>,
        number: u16,
        connection: &mut Self::Connection,
    ) -> Result<bool, Broken>;

    /// All connections had their turn: shows the device what was started. Gives whether there is more to do at once.
    fn flush(&mut self, host: &Host<Self::Machine>) -> bool;

    /// The domain is about to sleep: asks a frontend to notify, and gives whether it has something already.
    fn rearm(&mut self, host: &Host<Self::Machine>, connection: &mut Self::Connection) -> Result<bool, Broken>;

    /// The same for the device.
    fn rearm_device(&mut self) -> bool;

    /// The domain is going to sleep: how soon the device is to be looked at, if it cannot wake the domain.
    fn look_again(&mut self) -> Option<Duration> {
        None
    }

    /// The connection is closing: lets go of what the device has not begun, and gives whether the device is done with the rest; then
    /// nothing of it may be mapped any more.
    fn drained(&mut self, host: &Host<Self::Machine>, number: u16, connection: &mut Self::Connection) -> bool;

    /// What was counted.
    fn statistics(&self, connection: &Self::Connection) -> Statistics;

    /// Answers what is not common to all driver domains.
    fn other(&mut self, message: ToDomain, table: &Table<Self::Connection>) -> FromDomain;

    /// Comes every 100 ms or so: for timeouts, and for what the device changed by itself. `tell` is for
    /// dom0. Gives since when the oldest request is with the device, 0 if there is none.
    fn tick(
        &mut self,
        host: &Host<Self::Machine>,
        table: &mut Table<Self::Connection>,
        tell: &mut dyn FnMut(FromDomain),
    ) -> u64;
}
