//! Gives PCI devices to the domains whose configurations ask for them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::arguments::DEVICES_MAX;
use protocol::device::{BRIDGE, DeviceInfo, MAX_DEVICES};
use protocol::error::Error;
use protocol::handle::Rights;

use super::Plane;
use super::domain::Domain;
use crate::config::pci::{Pattern, address};
use crate::hypervisor::Hypervisor;

impl<H: Hypervisor> Plane<'_, H> {
    /// The PCI functions that the core found.
    pub fn pci_devices(&mut self) -> Result<Vec<DeviceInfo>, Error> {
        let mut found = Vec::new();
        for index in 0..MAX_DEVICES as u64 {
            match self.hypervisor.device_list(index)? {
                Some(info) => found.push(info),
                None => break,
            }
        }
        Ok(found)
    }

    /// The domain that a device was given to.
    pub fn pci_holder(&self, address: u16) -> Option<&str> {
        self.domains.iter().find(|domain| domain.pci.contains(&address)).map(Domain::name)
    }

    /// Gives a new domain the devices its configuration asks for. Those of a kind may be none; a single one has to be there.
    pub(super) fn give_devices(&mut self, domain: &mut Domain<H::Page>) -> Result<(), String> {
        if domain.config.pci.is_empty() {
            return Ok(());
        }
        let found = self.pci_devices().map_err(|error| format!("the devices cannot be listed: {error}"))?;
        for pattern in domain.config.pci.clone() {
            let fitting: Vec<u16> = found
                .iter()
                .filter(|info| pattern.fits(info) && info.flags & BRIDGE == 0)
                .map(|info| info.address)
                .collect();
            if fitting.is_empty() && matches!(pattern, Pattern::Address(_)) {
                return Err(format!("there is no device at {pattern}: `pci-list` shows those there are"));
            }
            for at in fitting {
                if domain.pci.contains(&at) {
                    continue;
                }
                match (self.pci_holder(at), pattern) {
                    (Some(holder), Pattern::Address(_)) => {
                        return Err(format!("device {} belongs to {holder}: destroy that first", address(at)));
                    }
                    (Some(_), Pattern::Kind { .. }) => continue,
                    (None, _) => self.give_device(domain, at)?,
                }
            }
        }
        Ok(())
    }

    fn give_device(&mut self, domain: &mut Domain<H::Page>, at: u16) -> Result<(), String> {
        let failed = |error: Error| format!("it cannot have device {}: {error}", address(at));
        let handle = self.hypervisor.device_create(at).map_err(failed)?;
        let copied = self.hypervisor.handle_copy(domain.handle, handle, Rights::USE | Rights::INSPECT);
        let _ = self.hypervisor.handle_close(handle);
        let full = |_| format!("it is given more than {DEVICES_MAX} devices: shorten `pci`");
        domain.arguments.devices.push(copied.map_err(failed)?.0).map_err(full)?;
        domain.pci.push(at);
        Ok(())
    }
}

/// What a device is, by its class (PCI code and id assignment specification), as far as anybody here would ask.
pub fn class(info: &DeviceInfo) -> String {
    match (info.class >> 8, info.class & 0xff) {
        (0x01, 0x01) => "IDE controller",
        (0x01, 0x06) => "SATA controller",
        (0x01, 0x08) => "NVMe controller",
        (0x01, _) => "storage controller",
        (0x02, 0x00) => "Ethernet controller",
        (0x02, _) => "network controller",
        (0x03, _) => "display controller",
        (0x06, 0x00) => "host bridge",
        (0x06, 0x01) => "ISA bridge",
        (0x06, _) => "bridge",
        (0x0c, 0x03) => "USB controller",
        (0x0c, 0x05) => "SMBus controller",
        _ => return format!("class {:04x}", info.class),
    }
    .to_string()
}
