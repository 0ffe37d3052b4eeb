//! What a backend needs of the machine; on the host a test plays it.

use heapless::Vec;
use protocol::error::Result;
use protocol::event::Port;
use protocol::grant::MAX_BATCH;
use protocol::ring::Shared;

use crate::event::Channel;
use crate::grant::{Access, DevicePage, Source};

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
    /// `bytes` of a connection's place in retained memory, from `offset` on, both multiples of 8. Beyond the place it panics.
    fn record(&self, connection: u16, offset: usize, bytes: usize) -> Self::Record;
    /// Writes a word of the heartbeat page.
    fn pulse(&self, at: usize, value: u64);
    /// Makes the peer's end of a channel pending.
    fn notify(&self, port: Port);
    /// Whether a channel became pending since this was asked last.
    fn fired(&self, channel: &Channel) -> bool;
    /// ns since the core started.
    fn now(&self) -> u64;
    /// Ends the domain at once, as a fault does. Returns in tests only, where from then on nothing has an effect.
    fn die(&self);
}

/// A frontend's page that a device is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub source: Source,
    /// What the device may do with it.
    pub access: Access,
}

/// A machine with devices that move data to and from pages of frontends. Nothing else in the domain sees these pages.
pub trait DevicePages: Machine {
    /// Maps up to [`MAX_BATCH`] pages by one hypercall; `found` gets a result for each.
    fn map_pages(&self, wanted: &[Wanted], found: &mut Vec<Result<DevicePage>, MAX_BATCH>);

    /// Unmaps up to [`MAX_BATCH`] pages by one hypercall: afterwards no device can reach them.
    fn unmap_pages(&self, mappings: &[u32]);

    /// Copies the first bytes of a frontend's page into memory of this domain's own.
    fn copy(&self, from: Source, buffer: &mut [u8]) -> Result<()>;
}
