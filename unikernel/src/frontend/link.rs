//! What connections of every kind have in common: where one is in its life, and the task that serves its rings.
//!
//! The task asks for a notification only when nothing is left to do for any task of the domain that was ready before it; as
//! long as there is, the backend's answers are found without one. What other tasks ask for in one turn of the event loop
//! becomes visible to the backend together.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use protocol::control::FromDomain;
use protocol::event::Port;

use super::Fault;
use crate::control;
use crate::event::Channel;
use crate::executor::{Signal, race, spawn, yield_now};
use crate::text::short;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// dom0 has not offered the device, or has taken it away.
    #[default]
    Absent,
    /// The backend does not serve the rings yet.
    Offered,
    /// The device can be used.
    Ready,
    /// The device is to be let go; what is under way is finished.
    Closing,
    /// The backend broke a rule.
    Broken,
}

/// Notifications on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent to the backend, each a hypercall.
    pub sent: u64,
    /// Times the backend's notification woke the task that serves the rings.
    pub wakeups: u64,
}

/// What a turn of the rings came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Something was taken from the rings.
    pub progress: bool,
    /// The backend has to be notified.
    pub notify: bool,
}

/// The rings of a device's connection.
pub trait Rings: 'static {
    /// The connection.
    fn link(&self) -> &Link;
    /// Whether the backend has nothing that it owes an answer for.
    fn is_idle(&self) -> bool;
    /// Takes what the backend left, and publishes what the domain wants; bounded.
    fn turn(&self) -> Result<Turn, Fault>;
    /// Asks to be notified, and looks once more: `true` if something came meanwhile.
    fn rearm(&self) -> Result<bool, Fault>;
    /// The connection is closed for good: everything under way fails.
    fn fail(&self);
}

/// Nobody serves the device any more.
pub fn gone(rings: &dyn Rings) {
    rings.link().gone();
    rings.fail();
}

/// Lets nothing new be asked for; ends when everything is answered.
pub async fn release(rings: Box<dyn Rings>) {
    let link = rings.link();
    if matches!(link.phase(), Phase::Offered | Phase::Ready) {
        link.enter(Phase::Closing);
    }
    link.until(|| rings.is_idle()).await;
}

#[derive(Default)]
struct State {
    name: Box<str>,
    phase: Cell<Phase>,
    /// The backend in the peer table, and the port to it.
    backend: Cell<Option<(u16, Port)>>,
    /// Counts connections: what belongs to a former one is told apart by it.
    epoch: Cell<u32>,
    work: Signal,
    watching: RefCell<Vec<Waker>>,
    traffic: Cell<Traffic>,
}

/// A device's connection, whichever it is at the moment.
#[derive(Clone)]
pub struct Link(Rc<State>);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} #{}", self.0.name, self.0.phase.get(), self.0.epoch.get())
    }
}

impl Link {
    /// No connection yet, for the device of this name.
    pub fn new(name: &str) -> Link {
        Link(Rc::new(State { name: name.into(), ..State::default() }))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where the connection is in its life.
    pub fn phase(&self) -> Phase {
        self.0.phase.get()
    }

    /// Which connection it is.
    pub fn epoch(&self) -> u32 {
        self.0.epoch.get()
    }

    /// Notifications so far.
    pub fn traffic(&self) -> Traffic {
        self.0.traffic.get()
    }

    /// There is something to publish.
    pub fn work(&self) {
        self.0.work.raise();
    }

    fn enter(&self, phase: Phase) {
        self.0.phase.set(phase);
        self.tell();
    }

    /// Wakes whoever waits for something of the connection.
    fn tell(&self) {
        self.0.watching.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Waits until `condition` holds; it is looked at after each change of phase and each turn that brought something.
    pub async fn until(&self, condition: impl Fn() -> bool) {
        poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            self.0.watching.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether this offer was answered before and nothing came of it yet: dom0 may have missed the answer.
    pub fn is_repeated(&self, peer: u16, port: Port) -> bool {
        self.phase() == Phase::Offered && self.0.backend.get() == Some((peer, port))
    }

    /// There is a backend; serves the rings from now on.
    pub fn offered(&self, peer: u16, port: Port, rings: impl Rings) {
        self.0.backend.set(Some((peer, port)));
        self.enter(Phase::Offered);
        spawn(self.clone().serve(Channel::new(port), rings));
    }

    /// The backend serves the rings.
    pub fn announced(&self) {
        if self.phase() == Phase::Offered {
            self.enter(Phase::Ready);
        }
    }

    fn gone(&self) {
        self.0.epoch.set(self.epoch().wrapping_add(1));
        self.enter(Phase::Absent);
        self.work();
    }

    /// Serves the rings until the connection is gone or the backend breaks a rule.
    async fn serve(self, channel: Channel, rings: impl Rings) {
        let epoch = self.epoch();
        while self.epoch() == epoch {
            match self.turn(&channel, &rings) {
                Ok(true) => yield_now().await,
                Ok(false) => {
                    race(self.wake_up(&channel), self.0.work.wait()).await;
                }
                Err(fault) => {
                    log::error!("{} closed: the backend broke a rule: {fault}", self.0.name);
                    self.enter(Phase::Broken);
                    rings.fail();
                    let device = short(self.name());
                    // Without the channel nobody would be told.
                    let _ = control::report(FromDomain::DeviceBroken { device, reason: short(fault) }).await;
                    return;
                }
            }
        }
    }

    /// `true` if there may be more to do.
    fn turn(&self, channel: &Channel, rings: &impl Rings) -> Result<bool, Fault> {
        let turn = rings.turn()?;
        if turn.notify {
            self.count(|traffic| traffic.sent += 1);
            // A backend that is gone for the moment looks at the rings when it is back.
            let _ = channel.send();
        }
        if turn.progress {
            self.tell();
            return Ok(true);
        }
        rings.rearm()
    }

    async fn wake_up(&self, channel: &Channel) {
        channel.wait().await;
        self.count(|traffic| traffic.wakeups += 1);
    }

    fn count(&self, change: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.0.traffic.get();
        change(&mut traffic);
        self.0.traffic.set(traffic);
    }
}
