//! Reading what a guest wrote into a device's directory.

use alloc::format;

use protocol::ring::block::Layout;

use super::names::decimal;
use crate::store::Store;

/// Where a device's end is in its life: Xen's `XenbusState`.
#[allow(missing_docs)]
pub mod state {
    pub const UNKNOWN: u32 = 0;
    pub const INITIALISING: u32 = 1;
    pub const INIT_WAIT: u32 = 2;
    pub const INITIALISED: u32 = 3;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
}

/// A key of the guest's is missing or is nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey(pub &'static str);

impl core::fmt::Display for BadKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the guest's driver wrote no usable {}", self.0)
    }
}

/// A directory to read keys from.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'s> {
    /// The store.
    pub store: &'s Store,
    /// The directory's path.
    pub directory: &'s str,
}

impl<'s> Keys<'s> {
    /// A key's value, where it is text.
    pub fn text(&self, key: &str) -> Option<&'s str> {
        self.store.text(&format!("{}/{key}", self.directory))
    }

    /// A number that must be there.
    pub fn number(&self, key: &'static str) -> Result<u32, BadKey> {
        self.text(key).and_then(decimal).ok_or(BadKey(key))
    }

    /// A number, or `default` if the key is missing.
    pub fn number_or(&self, key: &'static str, default: u32) -> Result<u32, BadKey> {
        self.text(key).map_or(Ok(default), |text| decimal(text).ok_or(BadKey(key)))
    }

    /// Whether a feature is there, that is, whether its key is there and not 0.
    pub fn feature(&self, key: &'static str) -> bool {
        self.number_or(key, 0).is_ok_and(|value| value != 0)
    }

    /// The state of the end that this directory is of; unknown if it is not there.
    pub fn state(&self) -> u32 {
        self.number("state").unwrap_or(state::UNKNOWN)
    }

    /// Checks that the guest uses one queue, and gives the layout of its rings: `own` if it says nothing.
    pub fn check_common(&self, own: Layout) -> Result<Layout, BadKey> {
        if self.number_or("multi-queue-num-queues", 1)? != 1 {
            return Err(BadKey("multi-queue-num-queues"));
        }
        match self.text("protocol") {
            None => Ok(own),
            Some("x86_64-abi") => Ok(Layout::X86_64),
            Some("x86_32-abi") => Ok(Layout::X86_32),
            Some(_) => Err(BadKey("protocol")),
        }
    }
}
