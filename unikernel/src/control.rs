//! The domain's end of its control channel to dom0.
//!
//! What every domain must be able to do is done here: showing that it lives, ending, giving memory back. Other messages go to
//! the domain's own handler.

use protocol::control::{ControlError, Envelope, FRAME_MAX, FromDomain, ToDomain, VERSION, decode, receive, send};
use protocol::event::CONTROL_PORT;
use protocol::layout::{CONTROL_IN, CONTROL_OUT};
use protocol::ring::byte::{CONTROL, Consumer, Producer};

use crate::area::Area;
use crate::event::Channel;
use crate::executor::yield_now;
use crate::vcpu::Mutex;

/// Messages taken before other tasks get their turn.
const MESSAGES_PER_TURN: usize = 8;

struct Outgoing {
    page: Area,
    ring: Producer,
}

static OUTGOING: Mutex<Option<Outgoing>> = Mutex::new(None);

static CHANNEL: Channel = Channel::new(CONTROL_PORT);

/// Tells dom0 something it did not ask for. Waits while the ring is full.
pub async fn report(message: FromDomain) -> Result<(), ControlError> {
    say(0, message).await
}

async fn say(id: u32, message: FromDomain) -> Result<(), ControlError> {
    let envelope = Envelope { version: VERSION, id, message };
    let room = Channel::new(CONTROL_PORT);
    loop {
        let sent = {
            let mut guard = OUTGOING.lock();
            let Outgoing { page, ring } = guard.get_or_insert_with(|| {
                // SAFETY: the core maps the page in every child for its whole life, and no object is in it.
                let page = unsafe { Area::page(CONTROL_OUT) };
                Outgoing { ring: Producer::attach(CONTROL, &page), page }
            });
            send(ring, page, &envelope)?
        };
        if sent {
            // dom0 sees the message when it looks, even if it cannot be told now.
            let _ = CHANNEL.send();
            return Ok(());
        }
        room.wait().await;
    }
}

/// The right to answer a request that was put off.
#[derive(Debug)]
#[must_use = "dom0 waits for the answer"]
pub struct Reply(u32);

impl Reply {
    /// Answers. Waits while the ring is full.
    pub async fn give(self, message: FromDomain) -> Result<(), ControlError> {
        say(self.0, message).await
    }
}

/// Says that the domain is ready, then answers dom0 for as long as the channel holds. `handler` gets what is not common to
/// all domains and gives the answer; [`refuse`] is the one for domains that understand nothing else.
pub async fn serve(mut handler: impl FnMut(ToDomain) -> FromDomain) -> ControlError {
    serve_later(|message, _| Some(handler(message))).await
}

/// The same for a handler that can put an answer off: it then gives `None`, and keeps the right to answer.
pub async fn serve_later(handler: impl FnMut(ToDomain, Reply) -> Option<FromDomain>) -> ControlError {
    serve_with(true, handler).await
}

/// The same for a domain whose end and memory are not its program's own matter: all but `Ping` goes to the handler.
pub async fn serve_all(handler: impl FnMut(ToDomain, Reply) -> Option<FromDomain>) -> ControlError {
    serve_with(false, handler).await
}

async fn serve_with(common: bool, mut handler: impl FnMut(ToDomain, Reply) -> Option<FromDomain>) -> ControlError {
    // SAFETY: as for the other page.
    let page = unsafe { Area::page(CONTROL_IN) };
    let mut ring = Consumer::attach(CONTROL, &page);
    let mut buffer = [0; FRAME_MAX];
    if let Err(error) = report(FromDomain::Ready { abi_version: protocol::ABI_VERSION }).await {
        return closed(error);
    }
    loop {
        let mut idle = false;
        for _ in 0..MESSAGES_PER_TURN {
            let envelope = match receive(&mut ring, &page, &mut buffer) {
                Ok(None) => {
                    idle = true;
                    break;
                }
                Ok(Some(frame)) => decode::<ToDomain>(frame),
                Err(error) => return closed(error),
            };
            match envelope {
                Err(_) => log::warn!("control: a message that is none of version {VERSION} was skipped"),
                Ok(Envelope { id, message, .. }) => {
                    let common = common || message == ToDomain::Ping;
                    let then = if common { Then::after(&message) } else { Then::GoOn };
                    let mut handle = |message| handler(message, Reply(id));
                    let answer = if common { answer(message, handle) } else { handle(message) };
                    if let Some(answer) = answer
                        && let Err(error) = say(id, answer).await
                    {
                        return closed(error);
                    }
                    then.go();
                }
            }
        }
        match idle {
            true => CHANNEL.wait().await,
            false => yield_now().await,
        }
    }
}

fn closed(error: ControlError) -> ControlError {
    log::error!("control channel closed: {error:?}");
    error
}

fn answer(message: ToDomain, handler: impl FnOnce(ToDomain) -> Option<FromDomain>) -> Option<FromDomain> {
    match message {
        ToDomain::Ping | ToDomain::Shutdown | ToDomain::Reboot => Some(FromDomain::Done),
        ToDomain::MemoryTarget { pages } => Some(match crate::memory::shrink_to(pages) {
            Ok(()) => FromDomain::Done,
            Err(error) => failed(error),
        }),
        other => handler(other),
    }
}

/// The answer that gives `reason`, cut to what fits.
pub fn failed(reason: impl core::fmt::Display) -> FromDomain {
    FromDomain::Failed { reason: crate::text::short(reason) }
}

/// A handler for domains that understand nothing but what is common to all.
pub fn refuse(_: ToDomain) -> FromDomain {
    failed("this domain does not understand the request")
}

/// What happens once the answer is on its way.
enum Then {
    GoOn,
    Shutdown,
    Reboot,
}

impl Then {
    fn after(message: &ToDomain) -> Then {
        match message {
            ToDomain::Shutdown => Then::Shutdown,
            ToDomain::Reboot => Then::Reboot,
            _ => Then::GoOn,
        }
    }

    fn go(self) {
        match self {
            Then::GoOn => {}
            Then::Shutdown => crate::exit::shutdown(0),
            Then::Reboot => crate::exit::reboot(),
        }
    }
}
