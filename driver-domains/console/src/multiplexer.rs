//! Who is on the screen, and who gets what is typed.
//!
//! The shell has the terminal until it gives it to a guest; [`ESCAPE`] brings it back. All rings are always drained, those in
//! the background into their backlogs, so that no guest waits for somebody to look; the ring in the foreground is drained as
//! fast as the terminal takes it, so that nothing of it is lost. One turn moves a bounded number of bytes, and the next one
//! continues with the connection after the last. What is moved in the background in a time is bounded, too: a domain that
//! prints without end would have the CPU time of this one beside its own.

use alloc::vec::Vec;

use protocol::event::Port;
use protocol::ring::{Shared, Violation};

use crate::backlog::Backlog;
use crate::connection::{Connection, Identity};
use crate::screen::Screen;

/// `Ctrl-]`, as telnet and Xen's console have it.
pub const ESCAPE: u8 = 0x1d;
/// Rings the terminal's bell.
const BELL: u8 = 0x07;
/// Connections at most: one for each domain there can be.
pub const CONNECTIONS_MAX: usize = protocol::domain::MAX_DOMAINS;
/// Bytes a turn moves, beside the last connection's share.
const TURN_BYTES: usize = 4096;

/// What a turn has to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Peers to notify.
    pub notify: Vec<Port>,
    /// There is more to move: take another turn soon.
    pub more: bool,
    /// There is more to move in the background, once it is allowed.
    pub later: bool,
    /// Peers that broke their ring, and were disconnected.
    pub broken: Vec<(Identity, Violation)>,
    /// The shell has the terminal again, and did not ask for it.
    pub returned: bool,
}

/// The connections.
#[derive(Debug)]
pub struct Multiplexer<P> {
    connections: Vec<Connection<P>>,
    /// Peer on the screen.
    focus: Option<u16>,
    /// Where the next turn starts.
    next: usize,
    screen: Screen,
    /// Bytes that can still be moved in the background.
    allowance: usize,
    returned: bool,
}

impl<P> Default for Multiplexer<P> {
    fn default() -> Self {
        Multiplexer {
            connections: Vec::new(),
            focus: None,
            next: 0,
            screen: Screen::default(),
            allowance: usize::MAX,
            returned: false,
        }
    }
}

impl<P: Shared> Multiplexer<P> {
    fn position(&self, peer: u16) -> Option<usize> {
        self.connections.iter().position(|connection| connection.identity.peer == peer)
    }

    fn shell(&self) -> Option<u16> {
        self.connections.iter().find(|connection| connection.identity.shell).map(|shell| shell.identity.peer)
    }

    fn focused(&mut self) -> Option<&mut Connection<P>> {
        let peer = self.focus?;
        self.connections.iter_mut().find(|connection| connection.identity.peer == peer)
    }

    /// The peer on the screen.
    pub fn focus(&self) -> Option<u16> {
        self.focus
    }

    /// Serves a ring; one for the same peer before is replaced, its unseen output kept.
    pub fn connect(&mut self, identity: Identity, page: P) -> Result<(), &'static str> {
        let (peer, shell) = (identity.peer, identity.shell);
        let former = self.position(peer).map(|at| self.connections.remove(at));
        if former.is_none() && self.connections.len() >= CONNECTIONS_MAX {
            return Err("the console serves as many domains as it can");
        }
        let backlog = match former {
            Some(former) if former.identity.name == identity.name => former.into_backlog(),
            _ => Backlog::new().ok_or("the console has no memory for another backlog")?,
        };
        self.connections.try_reserve(1).map_err(|_| "the console has no memory for another connection")?;
        if self.focus == Some(peer) {
            // What is on the screen is of a ring that is gone.
            self.screen.keep_lent();
        }
        self.connections.push(Connection::new(identity, page, backlog));
        if shell && self.focus.is_none() {
            self.focus = Some(peer);
        }
        Ok(())
    }

    /// Stops serving a peer, and gives the port that led to it. If it is on the screen, what it printed is shown first.
    pub fn disconnect(&mut self, peer: u16) -> Option<Port> {
        let at = self.position(peer)?;
        let port = self.connections[at].identity.port;
        if self.focus == Some(peer) {
            self.connections[at].closing = true;
        } else {
            self.connections.remove(at);
        }
        Some(port)
    }

    /// Gives the terminal to a peer.
    pub fn set_focus(&mut self, peer: u16) -> Result<(), &'static str> {
        if self.position(peer).is_none() {
            return Err("that domain has no connection to the console");
        }
        if self.focus != Some(peer) {
            self.leave();
            self.focus = Some(peer);
        }
        Ok(())
    }

    /// Shows what the focused domain printed so far, which belongs before what another one prints.
    fn leave(&mut self) {
        let mut screen = core::mem::take(&mut self.screen);
        if let Some(former) = self.focused() {
            // A violation is found again, and handled, by the next turn.
            let _ = former.leave(&mut screen);
        }
        self.screen = screen;
    }

    /// Gives the terminal back to the shell, which has to be told.
    fn return_to_shell(&mut self) {
        self.leave();
        self.focus = self.shell();
        self.returned = true;
    }

    /// Whether the terminal should go on reading. The shell lets it wait, so that nothing typed ahead is lost; a guest that
    /// does not read must not keep the escape key from being seen.
    pub fn takes_input(&mut self) -> bool {
        self.focused().is_none_or(|connection| !connection.identity.shell || connection.takes_input())
    }

    /// Takes a typed byte.
    pub fn type_byte(&mut self, byte: u8) {
        let shell = self.shell();
        if byte == ESCAPE && shell.is_some() && self.focus != shell {
            self.return_to_shell();
            return;
        }
        if self.focused().is_some_and(|connection| !connection.type_byte(byte)) {
            self.screen.show(&[BELL]);
        }
    }

    /// Takes the next bytes for the terminal, which has to get them now; gives their number.
    pub fn take_output(&mut self, out: &mut [u8]) -> usize {
        let (count, lent) = self.screen.take(out);
        if lent > 0
            && let Some(connection) = self.focused()
        {
            connection.sent(lent);
        }
        count
    }

    /// Whether the terminal has something to print.
    pub fn has_output(&self) -> bool {
        !self.screen.is_empty()
    }

    /// Lets so many bytes more be moved in the background, `most` at once.
    pub fn allow(&mut self, bytes: usize, most: usize) {
        self.allowance = self.allowance.saturating_add(bytes).min(most);
    }

    /// Moves bytes between the rings, the backlogs and the screen: for the peer on the screen first, then for the others in
    /// turn.
    pub fn turn(&mut self) -> Turn {
        let mut turn = Turn { returned: core::mem::take(&mut self.returned), ..Turn::default() };
        let front = self.focus.and_then(|peer| self.position(peer));
        let mut moved = front.map_or(0, |at| self.step(at, true, &mut turn));
        let (count, mut visited) = (self.connections.len(), 0);
        while visited < count && moved < TURN_BYTES {
            let at = (self.next + visited) % count;
            visited += 1;
            if front != Some(at) {
                moved += self.step(at, false, &mut turn);
            }
        }
        turn.more |= visited < count;
        self.next = if count == 0 { 0 } else { (self.next + visited) % count };
        self.clean_up(&turn.broken);
        turn.returned |= core::mem::take(&mut self.returned);
        turn
    }

    /// Serves one connection; gives the bytes of output moved.
    fn step(&mut self, at: usize, focused: bool, turn: &mut Turn) -> usize {
        let Some(connection) = self.connections.get_mut(at) else { return 0 };
        let step = connection.give_input().and_then(|()| match focused {
            true => connection.show(&mut self.screen),
            false => connection.keep(self.allowance),
        });
        if connection.take_event() {
            turn.notify.push(connection.identity.port);
        }
        match step {
            Ok(bytes) if focused => {
                // On the screen, output without room waits for the terminal and needs no turn.
                turn.more |= bytes > 0 && self.screen.room() > 0;
                bytes
            }
            Ok(bytes) => {
                self.allowance -= bytes;
                turn.more |= bytes > 0 && self.allowance > 0;
                turn.later |= self.allowance == 0 && connection.has_output();
                bytes
            }
            Err(violation) => {
                turn.broken.push((connection.identity.clone(), violation));
                0
            }
        }
    }

    /// Drops connections that are broken, or closing and shown to the end.
    fn clean_up(&mut self, broken: &[(Identity, Violation)]) {
        self.connections.retain(|connection| {
            let over = connection.closing && !connection.has_output();
            !over && !broken.iter().any(|(identity, _)| identity.peer == connection.identity.peer)
        });
        if let Some(peer) = self.focus
            && self.position(peer).is_none()
        {
            self.screen.note(format_args!("[the domain on this console is gone]"));
            self.return_to_shell();
        }
    }
}

#[cfg(test)]
mod tests;
