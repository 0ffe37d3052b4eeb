//! Drives connections through their life: what happens to one, what dom0 then has to do, and who has to be asked for it.
//!
//! [`State::after`] decides; here its duties become messages. Every message is a request that stays on record until its answer
//! comes: it is sent again when the other side has started anew, and after a while when it says nothing. Answers that nobody
//! asked for, from either side, change nothing.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use protocol::connection::{Duty, Guilty, Happening, State};
use protocol::control::{Envelope, FromDomain, ToDomain};

use super::Plane;
use super::device::{Ask, Attached, Device, Link, Side, device_name, keys};
use super::domain::Phase;
use crate::config::shown;
use crate::hypervisor::Hypervisor;

/// What is said of whoever broke a connection.
const BROKE: &str = "broke the rules";

impl<H: Hypervisor> Plane<'_, H> {
    pub(super) fn device(&self, key: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.key == key)
    }

    pub(super) fn device_mut(&mut self, key: u32) -> Option<&mut Device> {
        self.devices.iter_mut().find(|device| device.key == key)
    }

    /// Something happens to the link of a device. What cannot happen now changes nothing.
    pub(super) fn happen(&mut self, key: u32, happening: Happening) {
        let Some(link) = self.device_mut(key).and_then(|device| device.link.as_mut()) else { return };
        if let Some((state, duty)) = link.state.after(happening) {
            link.state = state;
            self.carry_out(key, duty);
        }
    }

    pub(super) fn carry_out(&mut self, key: u32, duty: Duty) {
        let Some(device) = self.devices.iter_mut().find(|device| device.key == key) else { return };
        let Some(mut link) = device.link.take() else { return };
        let detach = ToDomain::Detach { connection: link.connection };
        match duty {
            Duty::Nothing => {}
            Duty::Offer => {
                (link.attach, link.attached) = (None, None);
                link.front = Some(Ask::new(device.offer(&link)));
                // The rings of the former life of the guest have to be forgotten before others can be attached.
                link.back = link.told.then(|| Ask::new(detach));
            }
            // Attached as soon as the former rings are forgotten.
            Duty::Attach if link.detaching() => {}
            Duty::Attach => link.back = link.attach.clone().map(Ask::new),
            Duty::AskRelease => {
                link.front = Some(Ask::new(ToDomain::DeviceRelease { device: device_name(&device.name) }))
            }
            Duty::Announce => {
                link.front = None;
                let ready = link.attached.map(|attached| device.ready(attached));
                let (guest, ready) = (device.guest, ready);
                device.link = Some(link);
                return ready.into_iter().for_each(|ready| self.tell(guest, ready));
            }
            Duty::Detach => {
                link.front = None;
                if !link.detaching() {
                    link.back = link.told.then(|| Ask::new(detach));
                }
            }
        }
        let closed = link.state == State::Closed && link.back.is_none();
        let (backend, leaving) = (link.backend, device.leaving && link.state == State::Closed);
        device.link = Some(link);
        if closed {
            return self.closed(key);
        }
        if leaving && self.is_down(backend) {
            self.let_go(key);
        }
        self.send(key, Side::Front);
        self.send(key, Side::Back);
    }

    /// Whether a driver domain will not come back by itself. It was reset then, so it holds nothing of anybody.
    pub(super) fn is_down(&self, id: u16) -> bool {
        self.domain(id).is_none_or(|domain| matches!(domain.phase, Phase::Quarantined | Phase::Kept))
    }

    /// Says something to a domain that needs no answer.
    fn tell(&mut self, id: u16, message: ToDomain) {
        if let Some(channel) = self.domain_mut(id).and_then(|domain| domain.channel.as_mut()) {
            channel.send(message);
            self.receive_due = true;
        }
    }

    /// Sends what one side has to be asked, if that was not done and it can listen.
    pub(super) fn send(&mut self, key: u32, side: Side) {
        let now = self.hypervisor.clock();
        let Some(device) = self.devices.iter_mut().find(|device| device.key == key) else { return };
        let Some(link) = &mut device.link else { return };
        let whom = if side == Side::Front { device.guest } else { link.backend };
        let Some(domain) = self.domains.iter_mut().find(|domain| domain.id == whom) else { return };
        let listens = domain.phase == Phase::Running && (side == Side::Front || domain.ready);
        let (Some(channel), true) = (&mut domain.channel, listens) else { return };
        let Some(ask) = link.ask(side).as_mut().filter(|ask| ask.id.is_none()) else { return };
        ask.sent(channel.send(ask.message.clone()), now);
        link.told |= side == Side::Back;
        self.receive_due = true;
    }

    /// Nobody uses the link any more: its ports are closed, and the guest hears of it.
    pub(super) fn closed(&mut self, key: u32) {
        let Some(device) = self.device_mut(key) else { return };
        let Some(link) = device.link.take() else { return };
        let (again, over) = (core::mem::take(&mut device.again), device.orphan || device.leaving);
        self.disconnect(link.backend, link.backend_port);
        if !again {
            self.gone(key, link.guest_port);
        } else if let Some(device) = self.device(key) {
            self.disconnect(device.guest, link.guest_port);
        }
        if over {
            self.devices.retain(|device| device.key != key);
        } else if again {
            self.link_or_say(key);
        }
    }

    /// Tells the guest that the device is gone, unless it knows or is gone itself, and closes its port.
    fn gone(&mut self, key: u32, port: protocol::event::Port) {
        let Some(device) = self.device(key).filter(|device| !device.orphan) else { return };
        let (guest, name) = (device.guest, device_name(&device.name));
        self.tell(guest, ToDomain::DeviceGone { device: name });
        self.disconnect(guest, port);
    }

    /// Frees the guest from a link whose other end does not run.
    fn let_go(&mut self, key: u32) {
        let Some(port) = self.device(key).and_then(|device| device.link.as_ref()).map(|link| link.guest_port) else {
            return;
        };
        self.gone(key, port);
        if let Some(device) = self.device_mut(key) {
            device.orphan = true;
        }
    }

    /// Closes a port of a domain, if that still exists.
    fn disconnect(&mut self, id: u16, port: protocol::event::Port) {
        if let Some((handle, _)) = self.handle(id) {
            let _ = self.hypervisor.event_disconnect(handle, port);
        }
    }

    /// A domain said something. Gives it back if it is about no link.
    pub(super) fn heard(&mut self, from: u16, envelope: Envelope<FromDomain>) -> Option<Envelope<FromDomain>> {
        match envelope.message {
            FromDomain::ConnectionBroken { connection, guilty, reason } => {
                self.connection_broken(from, connection, guilty, &reason);
                return None;
            }
            FromDomain::DeviceBroken { device, reason } => {
                self.device_broken(from, &device, &reason);
                return None;
            }
            FromDomain::DeviceClosed { device } => {
                self.device_closed(from, &device);
                return None;
            }
            FromDomain::DiskResized { connection, limits } => {
                if let Some(device) = self.linked(from, connection) {
                    let (guest, name) = (device.guest, device_name(&device.name));
                    if let Some(link) = device.link.as_mut().filter(|link| link.state == State::Serving) {
                        link.attached = Some(Attached::Disk(limits));
                        self.tell(guest, ToDomain::BlockResized { device: name, limits });
                    }
                }
                return None;
            }
            _ => {}
        }
        let asked = |ask: &Option<Ask>| ask.as_ref().is_some_and(|ask| ask.id == Some(envelope.id));
        let found = self.devices.iter().find_map(|device| {
            let link = device.link.as_ref()?;
            let front = device.guest == from && !device.orphan && asked(&link.front);
            let back = link.backend == from && asked(&link.back);
            (front || back).then_some((device.key, front))
        });
        let Some((key, front)) = found else { return Some(envelope) };
        if front {
            self.front_answered(key, envelope.message)
        } else {
            self.back_answered(key, envelope.message)
        }
        None
    }

    fn linked(&mut self, backend: u16, connection: u16) -> Option<&mut Device> {
        self.devices.iter_mut().find(|device| {
            device.link.as_ref().is_some_and(|link| (link.backend, link.connection) == (backend, connection))
        })
    }

    fn front_answered(&mut self, key: u32, message: FromDomain) {
        let life = self.next_life();
        let Some(device) = self.devices.iter_mut().find(|device| device.key == key) else { return };
        let Some(mut link) = device.link.take() else { return };
        let ask = link.front.take();
        let (mut happening, mut fault) = (None, None);
        match (ask.map(|ask| ask.message), message) {
            (Some(ToDomain::DeviceRelease { .. }), FromDomain::Done) => happening = Some(Happening::Released),
            (Some(ToDomain::DeviceRelease { .. }), FromDomain::Failed { reason }) => {
                fault = Some(format!("it does not let go: {}", shown(&reason)));
            }
            (_, FromDomain::Failed { reason }) => {
                happening = Some(Happening::Broken);
                fault = Some(format!("it does not take it: {}", shown(&reason)));
            }
            (_, rings) => match device.attach(&link, life, rings) {
                Ok(attach) => {
                    link.attach = Some(attach);
                    happening = Some(Happening::RingsKnown);
                }
                Err(text) => (happening, fault) = (Some(Happening::Broken), Some(text)),
            },
        }
        device.link = Some(link);
        let guest = device.guest;
        if let Some(text) = fault {
            self.fault(key, guest, text);
        }
        happening.into_iter().for_each(|happening| self.happen(key, happening));
    }

    fn back_answered(&mut self, key: u32, message: FromDomain) {
        let Some(link) = self.device_mut(key).and_then(|device| device.link.as_mut()) else { return };
        let (backend, detaching) = (link.backend, link.detaching());
        let Some(ask) = link.back.take() else { return };
        if detaching {
            // Whatever it answers, it does not serve the connection any more; a dishonest one harms its own table.
            link.told = false;
            return match link.state {
                State::Closed => self.closed(key),
                State::Waiting { .. } => self.carry_out(key, Duty::Attach),
                _ => {}
            };
        }
        let fault = match (&ask.message, message) {
            (ToDomain::BlockAttach(_), FromDomain::BlockAttached { limits, replayed }) => {
                (link.attached, link.replayed) = (Some(Attached::Disk(limits)), replayed);
                None
            }
            (ToDomain::NetworkAttach(_), FromDomain::NetworkAttached { offload }) => {
                link.attached = Some(Attached::Network(offload));
                None
            }
            (_, FromDomain::Failed { reason }) => Some(format!("it is not served: {}", shown(&reason))),
            _ => Some("its driver domain's answer to the attach is about something else".to_owned()),
        };
        match fault {
            None => {
                if let Some(device) = self.device_mut(key) {
                    device.fault = None;
                }
                self.happen(key, Happening::Attached);
                self.attached(backend);
            }
            Some(text) if self.fail_trial(backend, &text) => {}
            Some(text) => {
                self.fault(key, backend, text);
                self.happen(key, Happening::Broken);
            }
        }
    }

    /// Records and tells why a device is not served. `guilty` is the domain whose doing it is.
    fn fault(&mut self, key: u32, guilty: u16, text: String) {
        let guilty = self.handle(guilty).map(|(_, name)| name.to_owned()).unwrap_or_default();
        let Some(device) = self.device(key) else { return };
        let guest = self.handle(device.guest).map(|(_, name)| name).unwrap_or("a guest that is gone");
        let line = format!("{guest}: {}: {guilty}: {text}", device.name);
        if let Some(device) = self.device_mut(key) {
            device.fault = Some(format!("{guilty}: {text}"));
        }
        self.notice(&line);
    }

    fn connection_broken(&mut self, backend: u16, connection: u16, guilty: Guilty, reason: &str) {
        let Some(device) = self.linked(backend, connection) else { return };
        let (key, guest) = (device.key, device.guest);
        // A refused attach has closed it already, and said only by whom it was refused; said once more is said too often.
        let known = device.fault.as_ref().is_some_and(|fault| fault.contains(BROKE));
        let closed = device.link.as_ref().is_some_and(|link| link.state == State::Closed);
        if closed && known {
            return;
        }
        let guilty = if guilty == Guilty::Frontend { guest } else { backend };
        self.fault(key, guilty, format!("{BROKE}, the connection is closed: {}", shown(reason)));
        if !closed {
            self.happen(key, Happening::Broken);
        }
    }

    /// A guest says that a driver domain broke the rules, and has closed the connection: so it is, whoever is right.
    fn device_broken(&mut self, guest: u16, name: &str, reason: &str) {
        let Some((key, link)) = self.link_of(guest, name) else { return };
        if link.state == State::Closed {
            return;
        }
        let backend = link.backend;
        let judge = self.handle(guest).map(|(_, name)| name).unwrap_or_default();
        self.fault(key, backend, format!("{BROKE}, says {judge}, which closed the connection: {}", shown(reason)));
        self.happen(key, Happening::Broken);
    }

    /// A guest let go of a device by itself, say because its driver was unloaded: the device is there for it to take again.
    fn device_closed(&mut self, guest: u16, name: &str) {
        let Some((key, link)) = self.link_of(guest, name) else { return };
        match link.state {
            State::Closing => self.happen(key, Happening::Released),
            State::Waiting { .. } | State::Serving => self.happen(key, Happening::FrontendLost),
            State::Offered | State::Closed => {}
        }
    }

    /// A guest's device that is linked: its key, and the link.
    fn link_of(&self, guest: u16, name: &str) -> Option<(u32, &Link)> {
        let own = |device: &&Device| device.guest == guest && device.name == name && !device.orphan;
        self.devices.iter().find(own).and_then(|device| Some((device.key, device.link.as_ref()?)))
    }

    /// A domain is ready: what it has to be asked is sent.
    pub(super) fn links_ready(&mut self, id: u16) {
        for key in keys(&self.devices, |device| device.link.as_ref().is_some_and(|link| link.backend == id)) {
            self.send(key, Side::Back);
        }
    }

    /// A driver domain went down, or starts anew: nothing it was asked was heard.
    pub(super) fn backend_lost(&mut self, id: u16) {
        for key in keys(&self.devices, |device| device.link.as_ref().is_some_and(|link| link.backend == id)) {
            let link = self.device_mut(key).and_then(|device| device.link.as_mut());
            link.and_then(|link| link.back.as_mut()).into_iter().for_each(Ask::unheard);
            self.happen(key, Happening::BackendLost);
            self.send(key, Side::Back);
        }
    }

    /// A driver domain is down for good or until somebody looks: guests that want to be rid of a device are.
    pub(super) fn backend_down(&mut self, id: u16) {
        let closing = |device: &Device| {
            let link = device.link.as_ref().filter(|link| link.backend == id);
            link.is_some_and(|link| device.leaving && matches!(link.state, State::Closing | State::Closed))
        };
        for key in keys(&self.devices, closing) {
            self.happen(key, Happening::Released);
            self.let_go(key);
        }
    }

    /// A guest started anew: it knows of no device yet.
    pub(super) fn frontend_lost(&mut self, id: u16) {
        for key in keys(&self.devices, |device| device.guest == id && !device.orphan) {
            let Some(device) = self.device_mut(key) else { continue };
            let state = device.link.as_ref().map(|link| link.state);
            let open = !matches!(state, Some(State::Closing | State::Closed));
            device.fault = None;
            device.orphan |= device.leaving;
            device.again = !open && !device.leaving;
            if let Some(link) = &mut device.link {
                link.front.iter_mut().for_each(Ask::unheard);
            }
            match state {
                Some(_) => self.happen(key, Happening::FrontendLost),
                None => self.link_or_say(key),
            }
        }
    }

    /// Repeats requests whose answer is late.
    pub(super) fn repeat_late(&mut self) {
        let now = self.hypervisor.clock();
        let late = |ask: &Option<Ask>| ask.as_ref().is_some_and(|ask| ask.due <= now);
        for key in keys(&self.devices, |device| device.link.iter().any(|link| late(&link.front) || late(&link.back))) {
            for side in [Side::Front, Side::Back] {
                self.repeat(key, side, now);
            }
        }
    }

    fn repeat(&mut self, key: u32, side: Side, now: u64) {
        let Some(device) = self.devices.iter_mut().find(|device| device.key == key) else { return };
        let Some(link) = &mut device.link else { return };
        let whom = if side == Side::Front { device.guest } else { link.backend };
        let Some(ask) = link.ask(side).as_mut().filter(|ask| ask.due <= now) else { return };
        let Some(domain) = self.domains.iter_mut().find(|domain| domain.id == whom) else { return };
        device.fault = Some(format!("{} does not answer", domain.name()));
        match &mut domain.channel {
            // Only one who reads is told again: what waits in the ring is still to be heard.
            Some(channel) if channel.is_empty() => {
                let id = channel.send(ask.message.clone());
                ask.sent(id, now);
            }
            _ => ask.sent(ask.id.unwrap_or_default(), now),
        }
        self.receive_due = true;
    }

    /// When [`Plane::repeat_late`] has something to do.
    pub(super) fn repeat_at(&self) -> u64 {
        let links = self.devices.iter().filter_map(|device| device.link.as_ref());
        links.flat_map(|link| [&link.front, &link.back]).flatten().map(|ask| ask.due).min().unwrap_or(u64::MAX)
    }
}
