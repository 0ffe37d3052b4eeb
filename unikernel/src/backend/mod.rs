//! The backend end of connections: what the author of a driver domain gets.
//!
//! The author implements [`Service`]: what to do with the requests of one connection, and with the device. From [`Backend`] the
//! domain has the rest: the table of connections with a fixed place in retained memory for each, attach and re-attach, detach,
//! bounded turns, the end of a connection whose peer breaks a rule, the heartbeat, statistics, and the points at which a test can
//! make it die. [`Ring`] is a ring with its journal.
//!
//! Nothing that a frontend writes allocates here: the table is as large as retained memory has places, and a connection's state
//! is made when it is attached. The machine is reached through [`Machine`], so that whole domains run, and crash, on the
//! host.

mod host;
mod machine;
mod native;
mod network;
mod ring;
mod service;
mod table;

pub use host::Host;
pub use machine::{DevicePages, Machine, Wanted};
pub use native::{Native, run};
pub use network::{Incoming, Mover, NetworkRings, Outgoing};
pub use ring::{Attached, Ring};
pub use service::{Broken, Cause, Refusal, Service};
pub use table::{Backend, Table};
