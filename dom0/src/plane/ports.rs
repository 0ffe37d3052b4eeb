//! Gives I/O ports and ISA interrupts to the domains whose configurations ask for them.
//!
//! Unlike PCI devices they cannot be listed, so a domain asks for those that its devices have where there are such devices. What
//! somebody else has, it does not get, and starts all the same: its driver finds nothing then.

use alloc::format;
use alloc::string::String;

use protocol::arguments::{GivenInterrupt, GivenPorts};
use protocol::error::Error;
use protocol::handle::{Handle, Rights};

use super::Plane;
use super::domain::Domain;
use crate::config::ports::Range;
use crate::hypervisor::Hypervisor;

impl<H: Hypervisor> Plane<'_, H> {
    /// Gives a new domain the I/O ports its configuration asks for.
    pub(super) fn give_ports(&mut self, domain: &mut Domain<H::Page>) {
        for range in domain.config.ioports.clone() {
            let Range { first, count } = range;
            let meets = |given: &GivenPorts| range.meets(Range { first: given.first, count: given.count });
            let holder = self.domains.iter().find(|other| other.arguments.ports.iter().any(meets));
            let holder = holder.map(|holder| holder.config.name.clone());
            let create = |hypervisor: &mut H| hypervisor.ioports_create(first, count);
            if let Some(handle) = self.give(domain, format!("I/O ports {range}"), holder, create) {
                // There is room: a configuration asks for no more.
                let _ = domain.arguments.ports.push(GivenPorts { first, count, handle: handle.0 });
            }
        }
    }

    /// Gives it the interrupts.
    pub(super) fn give_interrupts(&mut self, domain: &mut Domain<H::Page>) {
        for line in domain.config.irqs.clone() {
            let has = |given: &GivenInterrupt| given.line == line;
            let holder = self.domains.iter().find(|other| other.arguments.interrupts.iter().any(has));
            let holder = holder.map(|holder| holder.config.name.clone());
            let create = |hypervisor: &mut H| hypervisor.interrupt_create(line);
            if let Some(handle) = self.give(domain, format!("interrupt {line}"), holder, create) {
                // There is room: a configuration asks for no more.
                let _ = domain.arguments.interrupts.push(GivenInterrupt { line, handle: handle.0 });
            }
        }
    }

    /// Gives it `what`, unless somebody has it.
    fn give(
        &mut self,
        domain: &Domain<H::Page>,
        what: String,
        holder: Option<String>,
        create: impl Fn(&mut H) -> Result<Handle, Error>,
    ) -> Option<Handle> {
        if let Some(holder) = holder {
            self.notice(&format!("{}: it does not get {what}: {holder} has it", domain.name()));
            return None;
        }
        let copied = create(&mut self.hypervisor).and_then(|handle| {
            let copied = self.hypervisor.handle_copy(domain.handle, handle, Rights::USE);
            let _ = self.hypervisor.handle_close(handle);
            copied
        });
        if let Err(error) = copied {
            self.notice(&format!("{}: it does not get {what}: {error}", domain.name()));
        }
        copied.ok()
    }
}
