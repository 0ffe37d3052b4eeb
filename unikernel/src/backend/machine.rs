//! What a backend needs of the machine; on the host a test plays it.

use protocol::error::Result;
use protocol::event::Port;
use protocol::ring::Shared;

use crate::grant::Source;

/// The machine below a backend.
pub trait Machine {
    /// A page of a frontend's, mapped until it is dropped.
    type Page: Shared;
    /// A part of retained memory.
    type Record: Shared;

    /// Maps a page of a ring, writable.
    fn map(&self, source: Source) -> Result<Self::Page>;
    /// Connections that retained memory has places for.
    fn places(&self) -> usize;
    /// `bytes` of a connection's place in retained memory, from `offset`, a multiple of 8, on. Beyond the place it panics.
    fn record(&self, connection: u16, offset: usize, bytes: usize) -> Self::Record;
    /// Writes a word of the heartbeat page.
    fn pulse(&self, at: usize, value: u64);
    /// Makes the peer's end of a channel pending.
    fn notify(&self, port: Port);
    /// Closes a port whose peer is gone.
    fn close(&self, port: Port);
    /// ns since the core started.
    fn now(&self) -> u64;
    /// Ends the domain at once, as a fault does. Returns in tests only, where from then on nothing has an effect.
    fn die(&self);
}
