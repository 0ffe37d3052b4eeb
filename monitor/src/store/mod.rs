//! The guest's store: what Xen calls xenstore, for one guest.
//!
//! A tree of small values by which a guest and the world around it agree on devices and give each other orders. The guest talks
//! to it over a page that both share; the monitor itself, which is the world here, calls it. Every guest has a store of its own,
//! so nothing in it is secret from anybody but the guest, and all that a guest can fill up is its own.
//!
//! Whoever changes something, or is told that the guest rang, calls [`Store::turn`] afterwards.

mod message;
mod path;
mod permissions;
pub mod quota;
mod requests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transactions;
mod tree;
mod watches;
mod wire;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::ring::Shared;

pub use message::{HEADER, Header, PAYLOAD_MAX, Refusal, kind};
pub use permissions::{Permissions, Right};
pub use wire::{REQUESTS, RESPONSES};

use path::Path;
use transactions::Transaction;
use tree::{Change, Side, Tree};
use watches::Watches;
use wire::{Fault, Wire};

/// The number under which a guest knows itself. It is none that could be a peer's.
pub const GUEST: u16 = protocol::grant::PEERS as u16;
/// Whom things belong to that are not the guest's.
pub const HOST: u16 = protocol::grant::PEER_DOM0;

/// Requests that are answered before others get their turn.
const REQUESTS_PER_TURN: usize = 16;

/// What a turn came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The guest has to be notified.
    pub notify: bool,
    /// There is more to do at once: to be called again when others had their turn.
    pub more: bool,
}

/// The store of a guest.
#[derive(Debug)]
pub struct Store {
    guest: u16,
    home: Path,
    tree: Tree,
    /// Number of the last change.
    stamp: u64,
    watches: Watches,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    /// What the monitor watches, and whether the guest changed something there.
    own: Vec<(Path, bool)>,
    /// `None` before it is connected, and after the guest broke the rules.
    wire: Option<Wire>,
}

/// A domain's own directory.
fn home_of(domain: u16) -> String {
    format!("/local/domain/{domain}")
}

impl Default for Store {
    fn default() -> Store {
        Store::new(GUEST)
    }
}

impl Store {
    /// An empty store.
    pub fn new(guest: u16) -> Store {
        Store {
            guest,
            home: Path::plain(&home_of(guest)),
            tree: Tree::new(guest, Permissions::new(HOST, Right::None)),
            stamp: 0,
            watches: Watches::default(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            own: Vec::new(),
            wire: None,
        }
    }

    /// The number under which the guest knows itself.
    pub fn guest(&self) -> u16 {
        self.guest
    }

    /// The guest's own directory.
    pub fn home(&self) -> &str {
        self.home.as_str()
    }

    /// The guest has a page, or has it anew: both rings are empty, and it has neither watches nor transactions.
    pub fn connect(&mut self, page: &impl Shared) {
        self.forget();
        self.wire = Some(Wire::new(page));
    }

    /// Answers the guest and tells it what it wants to hear, as far as there is room in the page.
    pub fn turn(&mut self, page: &impl Shared) -> Turn {
        let Some(mut wire) = self.wire.take() else { return Turn::default() };
        match self.serve(&mut wire, page) {
            Ok(more) => {
                let notify = wire.take_moved();
                self.wire = Some(wire);
                Turn { notify, more }
            }
            Err(fault) => {
                log::error!("store: the guest broke the rules and is not served any more: {fault}");
                Wire::close(page, fault);
                self.forget();
                Turn { notify: true, more: false }
            }
        }
    }

    fn serve(&mut self, wire: &mut Wire, page: &impl Shared) -> Result<bool, Fault> {
        for _ in 0..REQUESTS_PER_TURN {
            if !self.speak(wire, page)? {
                return Ok(false);
            }
            let Some((header, payload)) = wire.next_request(page)? else { return Ok(false) };
            let (header, answer) = self.answer(header, &payload);
            wire.say(header, &answer);
        }
        self.speak(wire, page)
    }

    /// Says what is to be said; `true` if it is all in the ring.
    fn speak(&mut self, wire: &mut Wire, page: &impl Shared) -> Result<bool, Fault> {
        while wire.flush(page)? {
            let Some((path, token)) = self.watches.next_event(&self.home) else { return Ok(true) };
            let header = Header { kind: kind::WATCH_EVENT, ..Header::default() };
            wire.say(header, format!("{path}\0{token}\0").as_bytes());
        }
        Ok(false)
    }

    /// The guest has no watches and no transactions any more.
    fn forget(&mut self) {
        self.watches = Watches::default();
        self.transactions.clear();
    }

    /// Bytes that are the guest's beside those of its nodes.
    fn beside(&self) -> usize {
        self.watches.bytes()
            + self.transactions.values().map(|transaction| transaction.bytes(&self.tree)).sum::<usize>()
    }

    /// Tells everybody who wants to know that something changed.
    fn fire(&mut self, path: &Path, removed: bool, by: Side) {
        self.watches.fire(path, removed);
        if by == Side::Guest {
            for (watched, fired) in &mut self.own {
                *fired |= path.is_within(watched) || (removed && watched.is_within(path));
            }
        }
    }
}

/// What the monitor itself does. It is asked for no permission, and paths are absolute.
impl Store {
    /// The value of a node.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        self.tree.find(&Path::plain(path)).map(|node| &*node.value)
    }

    /// The same, where it is text.
    pub fn text(&self, path: &str) -> Option<&str> {
        core::str::from_utf8(self.read(path)?).ok()
    }

    /// Gives a node a value. What is made for it has the permissions of the directory it is in.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) {
        self.edit(path, Change::Write(value.as_ref().into()));
    }

    /// Makes a node that others may use as it is said here.
    pub fn make(&mut self, path: &str, permissions: Permissions) {
        self.edit(path, Change::Make);
        self.edit(path, Change::Permit(permissions));
    }

    /// Removes a node and all that is below it.
    pub fn remove(&mut self, path: &str) {
        self.edit(path, Change::Remove);
    }

    /// Whether the guest changes something at a path or below is to be found out by [`Store::take_fired`] with the number that
    /// this gives.
    pub fn watch(&mut self, path: &str) -> usize {
        self.own.push((Path::plain(path), false));
        self.own.len() - 1
    }

    /// Whether the guest wants to hear of changes of just this node.
    pub fn is_watched(&self, path: &str) -> bool {
        self.watches.names(&Path::plain(path))
    }

    /// Whether the guest changed something since this was asked last.
    pub fn take_fired(&mut self, watch: usize) -> bool {
        self.own.get_mut(watch).is_some_and(|(_, fired)| core::mem::take(fired))
    }

    fn edit(&mut self, path: &str, change: Change) {
        let path = Path::plain(path);
        let removed = matches!(change, Change::Remove);
        if removed && self.tree.find(&path).is_none() {
            return;
        }
        self.stamp += 1;
        self.tree.change(&path, change, Side::Host, self.stamp);
        self.fire(&path, removed, Side::Host);
    }
}
