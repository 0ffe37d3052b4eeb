//! Gives guests their devices and takes them away: finding a driver domain with room, connecting the two, letting go.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::connection::{Duty, Happening, State};
use protocol::error::Error;
use protocol::grant::{PEER_DISK, PEER_NETWORK};

use super::device::{Device, Kind, Link, free_number, keys, mac_for};
use super::domain::Phase;
use super::{DOM0_NAME, Plane};
use crate::config::{Config, Disk, Guest, Role, Vif};
use crate::hypervisor::Hypervisor;

impl<H: Hypervisor> Plane<'_, H> {
    /// The devices there are, those of guests that are gone but not yet let go of left out.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.orphan)
    }

    /// The device of a guest with this name.
    pub fn find_device(&self, guest: u16, name: &str) -> Option<&Device> {
        self.devices().find(|device| device.guest == guest && device.name == name)
    }

    /// The device with this key.
    pub fn device_by_key(&self, key: u32) -> Option<&Device> {
        self.device(key).filter(|device| !device.orphan)
    }

    /// The domains that serve `role`, the default one first.
    pub fn backends(&self, role: Role) -> Vec<u16> {
        let serving = self.domains.iter().filter(|domain| domain.config.backend == Some(role));
        serving.map(|domain| domain.id).collect()
    }

    /// The driver domain for a device, if it is there.
    fn backend_for(&self, role: Role, wanted: Option<&str>) -> Result<Option<u16>, String> {
        let Some(name) = wanted else { return Ok(self.backends(role).first().copied()) };
        match self.domains.iter().find(|domain| domain.name() == name) {
            Some(domain) if domain.config.backend == Some(role) => Ok(Some(domain.id)),
            Some(_) => Err(format!("{name} does not serve what it is asked for: `backend = \"{}\"`", role.name())),
            None => Ok(None),
        }
    }

    /// Fails if the driver domains that are there have no room for the devices of a new guest.
    pub(super) fn check_room(&self, config: &Config) -> Result<(), String> {
        let disks = config.disks.iter().map(|disk| (Role::Disk, disk.driver.as_deref()));
        let vifs = config.vifs.iter().map(|vif| (Role::Network, vif.driver.as_deref()));
        let mut wanted: Vec<(u16, u16)> = Vec::new();
        for (role, driver) in disks.chain(vifs) {
            let Some(id) = self.backend_for(role, driver)? else { continue };
            match wanted.iter_mut().find(|(backend, _)| *backend == id) {
                Some((_, count)) => *count += 1,
                None => wanted.push((id, 1)),
            }
        }
        for (id, count) in wanted {
            let Some(domain) = self.domain(id) else { continue };
            let (used, room) = (self.used_numbers(id).len(), domain.config.connections);
            if usize::from(count) + used > usize::from(room) {
                return Err(full(domain.name(), used, room));
            }
        }
        Ok(())
    }

    fn used_numbers(&self, backend: u16) -> Vec<u16> {
        let links = self.devices.iter().filter_map(|device| device.link.as_ref());
        links.filter(|link| link.backend == backend).map(|link| link.connection).collect()
    }

    /// Gives a new guest what its configuration says. The devices whose driver domain is not there yet wait for it.
    pub(super) fn add_devices(&mut self, id: u16) -> Result<(), String> {
        let Some(config) = self.domain(id).map(|domain| domain.config.clone()) else { return Ok(()) };
        for disk in &config.disks {
            self.add_disk(id, disk)?;
        }
        for vif in &config.vifs {
            self.add_vif(id, vif)?;
        }
        Ok(())
    }

    /// Gives a guest a disk; gives the device's key.
    pub fn add_disk(&mut self, guest: u16, disk: &Disk) -> Result<u32, String> {
        let kind = Kind::Block { target: disk.device_target()?, read_only: !disk.writable };
        self.add(guest, disk.vdev.clone(), kind, disk.driver.clone())
    }

    /// Gives a guest a network interface; gives the device's key.
    pub fn add_vif(&mut self, guest: u16, vif: &Vif) -> Result<u32, String> {
        let taken = |name: &String| self.find_device(guest, name).is_some();
        let name = (0..).map(|number: u32| format!("eth{number}")).find(|name| !taken(name)).unwrap_or_default();
        let macs: Vec<[u8; 6]> = self.devices.iter().filter_map(mac).collect();
        let owner = self.domain(guest).map(|domain| domain.name().to_owned()).unwrap_or_default();
        let mac = match vif.mac {
            Some(mac) if macs.contains(&mac) => {
                let text = crate::config::vif::text(&mac);
                return Err(format!("{owner}: {text} is the address of another interface: choose another"));
            }
            Some(mac) => mac,
            None => mac_for(&format!("{owner}/{name}"), &macs),
        };
        self.add(guest, name, Kind::Network { mac }, vif.driver.clone())
    }

    fn add(&mut self, guest: u16, name: String, kind: Kind, wanted: Option<String>) -> Result<u32, String> {
        let Some(owner) = self.domain(guest).map(|domain| domain.name().to_owned()) else {
            return Err(format!("{DOM0_NAME}: it uses no devices"));
        };
        if self.find_device(guest, &name).is_some() {
            return Err(format!("{owner}: it has a device {name}: detach that first, or choose another name"));
        }
        self.last_key = self.last_key.wrapping_add(1);
        let key = self.last_key;
        let (link, fault) = (None, None);
        let device =
            Device { key, guest, name, kind, wanted, link, fault, orphan: false, leaving: false, again: false };
        self.devices.push(device);
        let linked = self.link(key);
        if linked.is_err() {
            self.devices.retain(|device| device.key != key);
        }
        linked.map_err(|text| format!("{owner}: {text}"))?;
        self.exchange();
        Ok(key)
    }

    /// Connects a device to its driver domain, if that is there, and offers it to the guest.
    pub(super) fn link(&mut self, key: u32) -> Result<(), String> {
        let Some(device) = self.device(key) else { return Ok(()) };
        let (guest, role) = (device.guest, device.kind.role());
        let Some(id) = self.backend_for(role, device.wanted.as_deref())? else { return Ok(()) };
        let (Some(backend), Some((guest_handle, _))) = (self.domain(id), self.handle(guest)) else { return Ok(()) };
        if id == guest {
            return Err("a driver domain cannot serve itself".to_owned());
        }
        let (handle, name, room) = (backend.handle, backend.name().to_owned(), backend.config.connections);
        let used = self.used_numbers(id);
        let connection = free_number(&used, room).ok_or_else(|| full(&name, used.len(), room))?;
        let failed = |error| format!("it cannot be connected to {name}: {error}");
        // What a Linux guest grants stands in the table of its virtual machine.
        let guest_face = self.domain(guest).is_some_and(|domain| matches!(domain.config.guest, Guest::Linux { .. }));
        let peer = self.backend_index(guest, id, role).map_err(failed)?;
        match self.hypervisor.domain_peer(handle, guest, guest_handle, guest_face) {
            // No two domains have the same id, so it is the guest already.
            Ok(()) | Err(Error::Exists) => {}
            Err(error) => return Err(failed(error)),
        }
        let (guest_port, backend_port) = self.hypervisor.event_connect(guest_handle, handle).map_err(failed)?;
        let link = Link {
            backend: id,
            connection,
            peer,
            guest_port,
            backend_port,
            state: State::Offered,
            attach: None,
            told: false,
            attached: None,
            replayed: 0,
            front: None,
            back: None,
        };
        if let Some(device) = self.device_mut(key) {
            device.link = Some(link);
            device.fault = None;
        }
        self.carry_out(key, Duty::Offer);
        Ok(())
    }

    /// As [`Plane::link`]; what goes wrong is recorded with the device.
    pub(super) fn link_or_say(&mut self, key: u32) {
        let Err(text) = self.link(key) else { return };
        let Some(device) = self.device_mut(key) else { return };
        let (guest, line) = (device.guest, format!("{}: {text}", device.name));
        device.fault = Some(text);
        let guest = self.handle(guest).map(|(_, name)| name.to_owned()).unwrap_or_default();
        self.notice(&format!("{guest}: {line}"));
    }

    /// The index of a driver domain in a guest's peer table: the well-known one for the default driver domain.
    fn backend_index(&mut self, guest: u16, backend: u16, role: Role) -> Result<u16, Error> {
        let default = self.backends(role).first() == Some(&backend);
        let known = if role == Role::Disk { PEER_DISK } else { PEER_NETWORK };
        let handle = self.handle(backend).map(|(handle, _)| handle).ok_or(Error::NotFound)?;
        let domain = self.domains.iter_mut().find(|domain| domain.id == guest).ok_or(Error::NotFound)?;
        if let Some((index, _)) = domain.backends.iter().find(|(_, id)| *id == backend) {
            return Ok(*index);
        }
        let free = !domain.backends.iter().any(|(index, _)| *index == known);
        let index = if default && free { known } else { backend };
        self.hypervisor.domain_peer(domain.handle, index, handle, false)?;
        domain.backends.push((index, backend));
        Ok(index)
    }

    /// Links the devices that waited for a driver domain like this new one.
    pub(super) fn adopt(&mut self, id: u16) {
        let Some(domain) = self.domain(id) else { return };
        let Some(role) = domain.config.backend else { return };
        let waits = |device: &Device| device.link.is_none() && device.kind.role() == role && device.fault.is_none();
        for key in keys(&self.devices, waits) {
            self.link_or_say(key);
        }
    }

    /// Takes a device away from its guest, which is asked to let go of it first, unless `force` says not to wait for that.
    pub fn detach(&mut self, key: u32, force: bool) {
        let Some(device) = self.device_mut(key) else { return };
        device.leaving = true;
        device.again = false;
        let Some(link) = &device.link else {
            self.devices.retain(|device| device.key != key);
            return;
        };
        let (backend, asked) = (link.backend, link.front.is_some());
        match link.state {
            State::Closing if !asked => self.carry_out(key, Duty::AskRelease),
            State::Closed => self.carry_out(key, Duty::Detach),
            _ => self.happen(key, Happening::Detach),
        }
        if force || self.is_down(backend) {
            self.happen(key, Happening::Released);
        }
        self.exchange();
    }

    /// A guest is destroyed: nobody asks it any more.
    pub(super) fn frontend_gone(&mut self, id: u16) {
        for key in keys(&self.devices, |device| device.guest == id) {
            if let Some(device) = self.device_mut(key) {
                (device.orphan, device.leaving) = (true, true);
            }
            self.detach(key, true);
        }
    }

    /// A driver domain is destroyed: its guests let go at once, and wait for another one.
    pub(super) fn backend_gone(&mut self, id: u16) {
        for domain in &mut self.domains {
            domain.backends.retain(|(_, backend)| *backend != id);
        }
        for key in keys(&self.devices, |device| device.link.as_ref().is_some_and(|link| link.backend == id)) {
            self.closed(key);
        }
    }

    /// Whether the driver domain of a device runs.
    pub fn served_by(&self, device: &Device) -> Option<(u16, bool)> {
        let id = device.link.as_ref()?.backend;
        Some((id, self.domain(id).is_some_and(|domain| domain.phase == Phase::Running)))
    }

    /// A number that was never given before, for what is negotiated anew.
    pub(super) fn next_life(&mut self) -> u32 {
        self.lives = self.lives.wrapping_add(1);
        self.lives
    }
}

fn full(name: &str, used: usize, room: u16) -> String {
    format!("{name} serves {used} devices and has room for {room}: detach one, or raise its `connections`")
}

fn mac(device: &Device) -> Option<[u8; 6]> {
    match device.kind {
        Kind::Network { mac } => Some(mac),
        Kind::Block { .. } => None,
    }
}
