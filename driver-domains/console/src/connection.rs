//! One domain's console ring, as its backend sees it.

use heapless::{Deque, String};
use protocol::event::Port;
use protocol::ring::byte::{Consumer, Producer};
use protocol::ring::console::{INPUT, OUTPUT};
use protocol::ring::{Shared, Violation};

use crate::backlog::Backlog;
use crate::screen::Screen;

/// Typed bytes that can wait for room in the ring, beside the 1024 in the ring itself.
const TYPED_MAX: usize = 1024;
/// Bytes taken from a ring at once.
const CHUNK: usize = 512;
/// Bytes that the longest note takes on the screen.
const NOTE_ROOM: usize = 64;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Index in the console domain's peer table.
    pub peer: u16,
    /// The console domain's port to it.
    pub port: Port,
    /// Its name.
    pub name: String<32>,
    /// Whether it is dom0's shell.
    pub shell: bool,
}

/// A connection. `P` is the page with the ring.
#[derive(Debug)]
pub struct Connection<P> {
    /// Who it is.
    pub identity: Identity,
    page: P,
    output: Consumer,
    input: Producer,
    typed: Deque<u8, TYPED_MAX>,
    backlog: Backlog,
    /// Bytes of output that are on the screen and still in the ring. They are taken out of it just before they go to the
    /// terminal: a console domain that dies shows nothing twice, and a shell whose ring is empty may switch the machine off.
    lent: usize,
    /// The peer has to be told that something was taken or given.
    owes_event: bool,
    /// The domain is gone; what it printed last is still to be shown.
    pub closing: bool,
}

impl<P: Shared> Connection<P> {
    /// Serves the ring in `page`. `backlog` is that of a former incarnation, or a fresh one.
    pub fn new(identity: Identity, page: P, backlog: Backlog) -> Connection<P> {
        let (output, input) = (Consumer::attach(OUTPUT, &page), Producer::attach(INPUT, &page));
        Connection {
            identity,
            page,
            output,
            input,
            typed: Deque::new(),
            backlog,
            lent: 0,
            owes_event: false,
            closing: false,
        }
    }

    /// Ends it, but for the output nobody has seen.
    pub fn into_backlog(self) -> Backlog {
        self.backlog
    }

    /// Whether the peer has to be told something; asking settles it.
    pub fn take_event(&mut self) -> bool {
        core::mem::take(&mut self.owes_event)
    }

    /// Takes bytes that go to the terminal out of the ring.
    pub fn sent(&mut self, count: usize) {
        let count = count.min(self.lent);
        if count > 0 {
            self.output.consume(&self.page, count);
            self.lent -= count;
            self.owes_event = true;
        }
    }

    /// Moves output to the screen, the backlog first; gives the bytes moved. The next part of the ring follows when the
    /// terminal has got the one before.
    pub fn show(&mut self, screen: &mut Screen) -> Result<usize, Violation> {
        if !self.backlog.is_empty() {
            return Ok(self.show_backlog(screen));
        }
        if self.lent > 0 {
            return Ok(0);
        }
        let mut buffer = [0; CHUNK];
        let room = screen.room().min(CHUNK);
        self.lent = self.output.peek(&self.page, &mut buffer[..room])?;
        screen.lend(&buffer[..self.lent]);
        Ok(self.lent)
    }

    fn show_backlog(&mut self, screen: &mut Screen) -> usize {
        if self.backlog.dropped() > 0 && screen.room() >= NOTE_ROOM {
            screen.note(format_args!("[{} bytes of older output lost]", self.backlog.take_dropped()));
        }
        let mut buffer = [0; CHUNK];
        let room = screen.room().min(CHUNK);
        let moved = self.backlog.pop(&mut buffer[..room]);
        screen.show(&buffer[..moved]);
        moved
    }

    /// Moves all output to the screen that it has room for, before another domain gets it.
    pub fn leave(&mut self, screen: &mut Screen) -> Result<(), Violation> {
        self.sent(self.lent);
        screen.keep_lent();
        while self.show_backlog(screen) > 0 {}
        let mut buffer = [0; OUTPUT.size as usize];
        let room = if self.backlog.is_empty() { screen.room().min(buffer.len()) } else { 0 };
        let count = self.output.read(&self.page, &mut buffer[..room])?;
        self.owes_event |= count > 0;
        screen.show(&buffer[..count]);
        Ok(())
    }

    /// Moves output to the backlog, at most this many bytes; gives the bytes moved.
    pub fn keep(&mut self, most: usize) -> Result<usize, Violation> {
        let mut buffer = [0; CHUNK];
        let moved = self.output.read(&self.page, &mut buffer[..most.min(CHUNK)])?;
        self.backlog.push(&buffer[..moved]);
        self.owes_event |= moved > 0;
        Ok(moved)
    }

    /// Whether there is output to move.
    pub fn has_output(&self) -> bool {
        !self.backlog.is_empty() || self.output.available(&self.page).is_ok_and(|bytes| bytes > 0)
    }

    /// Takes a typed byte; `false` if there is no room for it.
    pub fn type_byte(&mut self, byte: u8) -> bool {
        self.typed.push_back(byte).is_ok()
    }

    /// Whether another typed byte fits.
    pub fn takes_input(&self) -> bool {
        !self.typed.is_full()
    }

    /// Moves what was typed into the ring, as far as it has room.
    pub fn give_input(&mut self) -> Result<(), Violation> {
        while !self.typed.is_empty() {
            let (bytes, _) = self.typed.as_slices();
            let written = self.input.write(&self.page, bytes)?;
            if written == 0 {
                break;
            }
            self.owes_event = true;
            for _ in 0..written {
                self.typed.pop_front();
            }
        }
        Ok(())
    }
}
