//! dom0's end of the control channel of one domain.
//!
//! The pages belong to the domain, so nothing in them is believed: a broken ring closes the channel for good, and messages
//! that make no sense are counted. Messages that find no room wait here, up to a bound; dom0 never waits for a domain.

use alloc::collections::VecDeque;

use protocol::control::{self, ControlError, Envelope, FRAME_MAX, FromDomain, ToDomain, VERSION};
use protocol::ring::{Shared, Violation, byte};

/// Messages that can wait for room: enough to tell a restarted console domain about every domain there can be.
const OUTBOX_MAX: usize = 2 * protocol::domain::MAX_DOMAINS;
/// Messages that are taken from a domain in one go, so that one cannot keep dom0 busy.
const BATCH_MAX: usize = 16;
/// Malformed messages after which a channel is closed.
const MALFORMED_MAX: u32 = 16;

/// What has to be done after an operation on the channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// Send the domain an event.
    pub notify: bool,
    /// There may be more messages: receive again.
    pub again: bool,
}

/// The channel.
#[derive(Debug)]
pub struct Channel<P> {
    inward: P,
    outward: P,
    to: byte::Producer,
    from: byte::Consumer,
    outbox: VecDeque<Envelope<ToDomain>>,
    last_id: u32,
    malformed: u32,
    broken: Option<Fault>,
}

/// Why a channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The domain broke the ring.
    Ring(Violation),
    /// It sent too much that is no message.
    Malformed,
    /// It takes no messages any more.
    Stuck,
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::Ring(violation) => write!(f, "{violation}"),
            Fault::Malformed => f.write_str("sends what is no message of this version"),
            Fault::Stuck => f.write_str("takes no messages any more"),
        }
    }
}

impl<P: Shared> Channel<P> {
    /// A channel over the pages [`protocol::layout::CONTROL_IN`] and [`protocol::layout::CONTROL_OUT`] of the domain.
    pub fn new(inward: P, outward: P) -> Channel<P> {
        let to = byte::Producer::attach(byte::CONTROL, &inward);
        let from = byte::Consumer::attach(byte::CONTROL, &outward);
        Channel { inward, outward, to, from, outbox: VecDeque::new(), last_id: 0, malformed: 0, broken: None }
    }

    /// Gives the pages back, to be unmapped.
    pub fn into_pages(self) -> [P; 2] {
        [self.inward, self.outward]
    }

    /// Why it is closed, if it is.
    pub fn fault(&self) -> Option<Fault> {
        self.broken
    }

    /// Whether everything that was sent is in the ring.
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Queues a message; gives its id. [`Channel::flush`] puts it into the ring.
    pub fn send(&mut self, message: ToDomain) -> u32 {
        // 0 is the id of what wants no answer.
        self.last_id = self.last_id.wrapping_add(1).max(1);
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(Envelope { version: VERSION, id: self.last_id, message });
        } else {
            self.broken.get_or_insert(Fault::Stuck);
        }
        self.last_id
    }

    /// Moves what waits into the ring, as far as there is room.
    pub fn flush(&mut self) -> Todo {
        let mut todo = Todo::default();
        while let (Some(envelope), None) = (self.outbox.front(), self.broken) {
            match control::send(&mut self.to, &self.inward, envelope) {
                Ok(true) => todo.notify = true,
                Ok(false) => break,
                Err(ControlError::Ring(violation)) => self.broken = Some(Fault::Ring(violation)),
                // Too large to be sent at all; the types forbid it, and dropping it harms nobody else.
                Err(ControlError::Malformed) => {}
            }
            self.outbox.pop_front();
        }
        todo
    }

    /// Takes what the domain sent, and hands each message to `each`.
    pub fn receive(&mut self, mut each: impl FnMut(Envelope<FromDomain>)) -> Todo {
        let mut todo = Todo::default();
        for _ in 0..BATCH_MAX {
            if self.broken.is_some() {
                return Todo::default();
            }
            // A sender that found the ring full waits to be told that there is room again.
            let full = self.from.available(&self.outward).is_ok_and(|used| used as usize + FRAME_MAX >= RING_SIZE);
            let mut buffer = [0; FRAME_MAX];
            match control::receive(&mut self.from, &self.outward, &mut buffer) {
                Ok(None) => return todo,
                Ok(Some(bytes)) => match control::decode::<FromDomain>(bytes) {
                    Ok(envelope) => each(envelope),
                    Err(_) => self.malformed += 1,
                },
                Err(ControlError::Ring(violation)) => self.broken = Some(Fault::Ring(violation)),
                Err(ControlError::Malformed) => self.malformed += 1,
            }
            if self.malformed > MALFORMED_MAX {
                self.broken = Some(Fault::Malformed);
            }
            todo.notify |= full;
        }
        todo.again = true;
        todo
    }
}

/// Bytes of a control ring.
const RING_SIZE: usize = byte::CONTROL.size as usize;
