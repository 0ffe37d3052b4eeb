//! The connections of a driver domain, and its turns.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use protocol::connection::{Frontend, KillPoint};
use protocol::control::{FromDomain, ToDomain};
use protocol::heartbeat;

use super::{Broken, Host, Machine, Refusal, Service};
use crate::control::failed;

/// Longest time between two beats while nothing happens, in ns: often enough that a missed one means something.
pub const BEAT_NS: u64 = 100_000_000;
/// What the heartbeat page declares as the longest time between two beats, in ns. Twenty beats, since an emulated machine with
/// few CPUs may run nothing of a domain for a second.
const PERIOD_NS: u64 = 2_000_000_000;

/// A place for a connection.
#[derive(Debug)]
struct Slot<C> {
    state: State<C>,
    frontend: Option<Frontend>,
}

#[derive(Debug)]
enum State<C> {
    /// There is no connection.
    Free,
    /// It is served.
    Serving(C),
    /// It is not served any more, but the device is not done with it.
    Closing(C),
    /// Somebody broke a rule; it waits for being detached.
    Broken,
}

/// All connections.
#[derive(Debug)]
pub struct Table<C> {
    slots: Vec<Slot<C>>,
    /// Behind the last place that was ever used: a turn looks no further.
    used: usize,
}

impl<C> Table<C> {
    fn new(places: usize) -> Table<C> {
        let mut slots = Vec::new();
        slots.resize_with(places, || Slot { state: State::Free, frontend: None });
        Table { slots, used: 0 }
    }

    /// A connection that is served, or closing.
    pub fn get_mut(&mut self, number: u16) -> Option<&mut C> {
        match &mut self.slots.get_mut(number as usize)?.state {
            State::Serving(connection) | State::Closing(connection) => Some(connection),
            State::Free | State::Broken => None,
        }
    }

    /// The connections that are served, with their numbers.
    pub fn serving(&self) -> impl Iterator<Item = (u16, &C)> {
        self.slots.iter().take(self.used).enumerate().filter_map(|(number, slot)| match &slot.state {
            State::Serving(connection) => Some((number as u16, connection)),
            _ => None,
        })
    }

    /// The connections that are served or closing, with their numbers.
    pub fn live_mut(&mut self) -> impl Iterator<Item = (u16, &mut C)> {
        self.slots.iter_mut().take(self.used).enumerate().filter_map(|(number, slot)| match &mut slot.state {
            State::Serving(connection) | State::Closing(connection) => Some((number as u16, connection)),
            State::Free | State::Broken => None,
        })
    }
}

/// A driver domain. `R` is the right to answer a request later.
pub struct Backend<S: Service, R> {
    host: Host<S::Machine>,
    service: S,
    table: Table<S::Connection>,
    /// What dom0 asked of connections that are closing, at most one request each.
    put_off: Vec<(u16, ToDomain, R)>,
    /// What is to be sent to dom0, with the right to answer where it is an answer.
    mail: VecDeque<(Option<R>, FromDomain)>,
    /// Where the next turn begins, so that none is always first.
    first: usize,
    next_tick: u64,
}

impl<S: Service, R> Backend<S, R> {
    /// A domain without connections. `timeout` is the longest time that a request may be with the device, in ns; 0 if it has none.
    pub fn new(machine: S::Machine, service: S, timeout: u64) -> Backend<S, R> {
        let places = machine.places();
        machine.pulse(heartbeat::TIMEOUT, timeout);
        machine.pulse(heartbeat::PERIOD, PERIOD_NS);
        Backend {
            host: Host::new(machine),
            service,
            table: Table::new(places),
            put_off: Vec::with_capacity(places),
            mail: VecDeque::new(),
            first: 0,
            next_tick: 0,
        }
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The machine.
    pub fn machine(&self) -> &S::Machine {
        &self.host.machine
    }

    /// The next message for dom0.
    pub fn mail(&mut self) -> Option<(Option<R>, FromDomain)> {
        self.mail.pop_front()
    }

    /// Whether there is one.
    pub fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }

    /// Does what dom0 asks. `None` if the answer comes later, by [`Backend::mail`].
    pub fn obey(&mut self, message: ToDomain, reply: R) -> Option<FromDomain> {
        if let Some(&frontend) = S::frontend(&message) {
            return self.attach(frontend, message, reply);
        }
        match message {
            ToDomain::Detach { connection } => self.detach(connection, message, reply),
            ToDomain::Statistics { connection } => Some(match self.table.get_mut(connection) {
                Some(found) => FromDomain::Statistics(self.service.statistics(found)),
                None => failed(format_args!("connection {connection} is not attached")),
            }),
            ToDomain::ArmKill { point: point @ KillPoint::DamagedRecord, .. } if !cfg!(feature = "damage") => {
                Some(failed(format_args!("this image was not built to die at {}", point.name())))
            }
            ToDomain::ArmKill { point, after } => {
                self.host.arm(point, after);
                Some(FromDomain::Done)
            }
            other => Some(self.service.other(other, &self.table)),
        }
    }

    fn attach(&mut self, frontend: Frontend, message: ToDomain, reply: R) -> Option<FromDomain> {
        self.host.pass(KillPoint::BeforeAttach);
        let (number, places) = (frontend.connection, self.table.slots.len());
        let Some(slot) = self.table.slots.get_mut(number as usize) else {
            let text = format_args!("connection {number} has no place: retained memory has room for {places}");
            return Some(failed(text));
        };
        let same = slot.frontend == Some(frontend);
        match &slot.state {
            State::Serving(connection) if same => return Some(self.service.attached(connection)),
            State::Serving(_) | State::Closing(_) => {
                self.close(number);
                return self.put_off(number, message, reply);
            }
            State::Broken if same => {
                return Some(failed(format_args!("connection {number} is broken and was not detached")));
            }
            State::Broken | State::Free => {}
        }
        let answer = self.open(frontend, &message);
        if self.mail.is_empty() {
            return Some(answer);
        }
        // Behind what there is to say of the frontend: dom0 has to know whose fault it is before it hears that nothing came of it.
        self.mail.push_back((Some(reply), answer));
        None
    }

    // Connections are large, and this is rare: what lies on the stack here must not be on it while the domain runs.
    #[inline(never)]
    fn open(&mut self, frontend: Frontend, message: &ToDomain) -> FromDomain {
        let attached = self.service.attach(&self.host, message);
        let Some(slot) = self.table.slots.get_mut(frontend.connection as usize) else { return FromDomain::Done };
        self.table.used = self.table.used.max(frontend.connection as usize + 1);
        slot.frontend = Some(frontend);
        match attached {
            Ok((connection, answer)) => {
                slot.state = State::Serving(connection);
                answer
            }
            Err(refusal) => {
                slot.state = State::Free;
                let answer = failed(refusal.cause());
                if let Refusal::Broken(broken) = refusal {
                    slot.state = State::Broken;
                    self.report(frontend.connection, broken);
                }
                answer
            }
        }
    }

    fn detach(&mut self, number: u16, message: ToDomain, reply: R) -> Option<FromDomain> {
        let Some(slot) = self.table.slots.get_mut(number as usize) else { return Some(FromDomain::Done) };
        match slot.state {
            State::Serving(_) | State::Closing(_) => {
                self.close(number);
                self.host.pass(KillPoint::DuringDetach);
                self.put_off(number, message, reply)
            }
            State::Free | State::Broken => {
                self.host.pass(KillPoint::DuringDetach);
                self.gone(number);
                Some(FromDomain::Done)
            }
        }
    }

    /// Forgets a connection that nothing of is left.
    fn gone(&mut self, number: u16) {
        let Some(slot) = self.table.slots.get_mut(number as usize) else { return };
        slot.state = State::Free;
        slot.frontend = None;
        self.service.forget(&self.host, number);
    }

    /// Stops serving a connection.
    fn close(&mut self, number: u16) {
        let Some(slot) = self.table.slots.get_mut(number as usize) else { return };
        slot.state = match core::mem::replace(&mut slot.state, State::Free) {
            State::Serving(connection) => State::Closing(connection),
            other => other,
        };
    }

    /// Keeps a request until the connection is closed; only the last one counts.
    fn put_off(&mut self, number: u16, message: ToDomain, reply: R) -> Option<FromDomain> {
        if let Some(at) = self.put_off.iter().position(|(other, ..)| *other == number) {
            let (_, _, reply) = self.put_off.swap_remove(at);
            self.mail
                .push_back((Some(reply), failed("another request for this connection came before this one was done")));
        }
        self.put_off.push((number, message, reply));
        None
    }

    /// The device is done with a connection that is closing.
    fn closed(&mut self, number: u16) {
        let Some(slot) = self.table.slots.get_mut(number as usize) else { return };
        slot.state = State::Broken;
        let Some(at) = self.put_off.iter().position(|(other, ..)| *other == number) else { return };
        let (_, message, reply) = self.put_off.swap_remove(at);
        let answer = match S::frontend(&message) {
            Some(&frontend) => self.open(frontend, &message),
            None => {
                self.gone(number);
                FromDomain::Done
            }
        };
        self.mail.push_back((Some(reply), answer));
    }

    fn report(&mut self, connection: u16, Broken { guilty, cause }: Broken) {
        log::error!("connection {connection} closed; guilty is the {guilty:?}: {cause}");
        let reason = crate::text::short(cause);
        self.mail.push_back((None, FromDomain::ConnectionBroken { connection, guilty, reason }));
    }

    fn broken(&mut self, number: u16, broken: Broken) {
        self.close(number);
        self.report(number, broken);
    }

    /// One turn: what the device completed, then every connection; bounded. Gives whether there is more to do at once; if not,
    /// everybody has been asked to notify.
    pub fn turn(&mut self) -> bool {
        self.host.beat();
        self.tick();
        let mut more = self.service.device(&self.host, &mut self.table);
        let places = self.table.used;
        self.first = if self.first + 1 < places { self.first + 1 } else { 0 };
        for step in 0..places {
            let at = self.first + step;
            let number = if at < places { at } else { at - places } as u16;
            match &mut self.table.slots[number as usize].state {
                State::Serving(connection) => match self.service.serve(&self.host, number, connection) {
                    Ok(busy) => more |= busy,
                    Err(broken) => {
                        self.broken(number, broken);
                        more = true;
                    }
                },
                State::Closing(connection) => {
                    if self.service.drained(&self.host, number, connection) {
                        self.closed(number);
                        more = true;
                    }
                }
                State::Free | State::Broken => {}
            }
        }
        more |= self.service.flush(&self.host);
        more || self.rearm()
    }

    /// After the last turn before sleep: how soon the next one has to come, whatever happens.
    pub(super) fn look_again(&mut self) -> Option<Duration> {
        self.service.look_again()
    }

    /// Before sleep: gives whether somebody has something to do after all.
    fn rearm(&mut self) -> bool {
        let mut more = false;
        for number in 0..self.table.used {
            let State::Serving(connection) = &mut self.table.slots[number].state else { continue };
            match self.service.rearm(&self.host, connection) {
                Ok(busy) => more |= busy,
                Err(broken) => {
                    self.broken(number as u16, broken);
                    more = true;
                }
            }
        }
        more | self.service.rearm_device()
    }

    fn tick(&mut self) {
        let now = self.host.machine.now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + BEAT_NS;
        let mail = &mut self.mail;
        let oldest = self.service.tick(&self.host, &mut self.table, &mut |message| mail.push_back((None, message)));
        self.host.owed_since(oldest);
    }
}
