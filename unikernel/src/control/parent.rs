//! The end of dom0: the rings of a child, mapped by grant.
//!
//! The child is hostile: what it says is checked once and copied, and every wait for it has a deadline.

use heapless::Deque;
use protocol::control::{ControlError, Envelope, FRAME_MAX, FromDomain, ToDomain, VERSION, decode, receive, send};
use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::grant::{REF_CONTROL_IN, REF_CONTROL_OUT};
use protocol::ring::byte::{CONTROL, Consumer, Producer};

use crate::event::Channel;
use crate::grant::{Access, Mapped, Source, map};

/// What a child said unasked and nobody has taken yet; more is dropped, oldest first.
const UNASKED_MAX: usize = 8;

/// A request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The deadline passed first.
    TimedOut,
    /// The child broke the channel.
    Broken(ControlError),
}

/// The channel to one child.
#[derive(Debug)]
pub struct Link {
    to: Mapped,
    from: Mapped,
    producer: Producer,
    consumer: Consumer,
    channel: Channel,
    last_id: u32,
    unasked: Deque<FromDomain, UNASKED_MAX>,
}

impl Link {
    /// Opens the channel to the child with this id, and `port` of [`protocol::domain::DomainCreated`]. Only while the child is
    /// in building, after create or reset: a child that ran could have prepared the rings.
    pub fn open(id: u16, port: Port) -> Result<Link> {
        let to = map(Source { peer: id, reference: REF_CONTROL_IN }, Access::Write)?;
        let from = map(Source { peer: id, reference: REF_CONTROL_OUT }, Access::Write)?;
        let (producer, consumer) = (Producer::attach(CONTROL, &to), Consumer::attach(CONTROL, &from));
        Ok(Link { to, from, producer, consumer, channel: Channel::new(port), last_id: 0, unasked: Deque::new() })
    }

    /// Starts afresh after a reset of the child, before it is started again.
    pub fn reattach(&mut self) {
        self.producer = Producer::attach(CONTROL, &self.to);
        self.consumer = Consumer::attach(CONTROL, &self.from);
        self.unasked.clear();
    }

    /// The event channel: it fires when the child said something or made room.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a request; gives its id, or `None` if there is no room now.
    pub fn post(&mut self, message: ToDomain) -> core::result::Result<Option<u32>, ControlError> {
        let id = self.last_id.wrapping_add(1).max(1);
        if !send(&mut self.producer, &self.to, &Envelope { version: VERSION, id, message })? {
            return Ok(None);
        }
        self.last_id = id;
        // A child that cannot be told now finds the request when it looks.
        let _ = self.channel.send();
        Ok(Some(id))
    }

    /// Takes the next message: what was said unasked first, then the ring. Malformed ones are an error each.
    pub fn poll(&mut self) -> core::result::Result<Option<Envelope<FromDomain>>, ControlError> {
        match self.unasked.pop_front() {
            Some(message) => Ok(Some(Envelope { version: VERSION, id: 0, message })),
            None => self.poll_ring(),
        }
    }

    fn poll_ring(&mut self) -> core::result::Result<Option<Envelope<FromDomain>>, ControlError> {
        let mut buffer = [0; FRAME_MAX];
        let Some(frame) = receive(&mut self.consumer, &self.from, &mut buffer)? else { return Ok(None) };
        let message = decode(frame);
        // The child may wait for room.
        let _ = self.channel.send();
        message.map(Some)
    }

    /// Sends a request and waits for its answer until `deadline`. What the child says unasked meanwhile is kept for
    /// [`Link::poll`]; answers to older requests are dropped.
    pub async fn request(
        &mut self,
        message: ToDomain,
        deadline: u64,
    ) -> core::result::Result<FromDomain, RequestError> {
        let answer = async {
            let id = loop {
                match self.post(message.clone()).map_err(RequestError::Broken)? {
                    Some(id) => break id,
                    None => self.channel.wait().await,
                }
            };
            loop {
                match self.poll_ring().map_err(RequestError::Broken)? {
                    None => self.channel.wait().await,
                    Some(envelope) if envelope.id == id => return Ok(envelope.message),
                    Some(envelope) if envelope.id == 0 => {
                        if self.unasked.is_full() {
                            self.unasked.pop_front();
                        }
                        // There is room.
                        let _ = self.unasked.push_back(envelope.message);
                    }
                    Some(_) => {}
                }
            }
        };
        crate::time::before(deadline, answer).await.unwrap_or(Err(RequestError::TimedOut))
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Error {
        match error {
            RequestError::TimedOut => Error::TimedOut,
            RequestError::Broken(_) => Error::NoPeer,
        }
    }
}
