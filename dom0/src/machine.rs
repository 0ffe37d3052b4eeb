//! The real machine under the control plane: hypercalls by the wrappers of `unikernel`.

use alloc::vec::Vec;

use dom0::hypervisor::{Hypervisor, Width};
use protocol::device::DeviceInfo;
use protocol::domain::{DeathReport, DomainCreated, DomainInfo, DomainSpec, SchedParams, VcpuInfo};
use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::grant::GrantRef;
use protocol::handle::{Handle, Rights};
use protocol::system::SystemInfo;
use unikernel::device::IoPorts;
use unikernel::domain::{self, DomainHandle};
use unikernel::grant::{Access, Mapped, Source};
use unikernel::{event, log, system, time};

/// Longest line of the core's log, in bytes.
const LOG_LINE_MAX: usize = 256;

/// The machine, and the I/O ports that dom0 itself uses.
#[derive(Debug, Default)]
pub struct Machine {
    ports: Vec<(u16, IoPorts)>,
}

impl Machine {
    /// Ports that begin with `port` and hold at least an access of `width`.
    fn ports(&mut self, port: u16, width: Width) -> Result<&IoPorts> {
        let bytes = match width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Long => 4,
        };
        let known = self.ports.iter().position(|(first, ports)| *first == port && ports.count() >= bytes);
        let index = match known {
            Some(index) => index,
            None => {
                let handle = system::create_ports(port, bytes)?;
                let enabled = IoPorts::enable(handle);
                if enabled.is_err() {
                    // It names nothing that is in use.
                    let _ = domain::close(handle);
                }
                self.ports.push((port, enabled?));
                self.ports.len() - 1
            }
        };
        self.ports.get(index).map(|(_, ports)| ports).ok_or(Error::NotFound)
    }
}

impl Hypervisor for Machine {
    type Page = Mapped;

    fn clock(&mut self) -> u64 {
        time::now()
    }

    fn system_info(&mut self) -> Result<SystemInfo> {
        system::info()
    }

    fn log_write(&mut self, line: &str) {
        let end = line.floor_char_boundary(LOG_LINE_MAX);
        log::write_line(line.get(..end).unwrap_or_default().as_bytes());
    }

    fn log_read(&mut self, position: u64, out: &mut [u8]) -> Result<(u64, usize)> {
        system::log_read(position, out).map(|(count, after)| (after, count))
    }

    fn acpi_read(&mut self, signature: [u8; 4], offset: u64, out: &mut [u8]) -> Result<u64> {
        system::acpi_read(signature, 0, offset, out)
    }

    fn port_read(&mut self, port: u16, width: Width) -> Result<u32> {
        let ports = self.ports(port, width)?;
        Ok(match width {
            Width::Byte => ports.read8(0).into(),
            Width::Word => ports.read16(0).into(),
            Width::Long => ports.read32(0),
        })
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<()> {
        let ports = self.ports(port, width)?;
        match width {
            Width::Byte => ports.write8(0, value as u8),
            Width::Word => ports.write16(0, value as u16),
            Width::Long => ports.write32(0, value),
        }
        Ok(())
    }

    fn ioports_create(&mut self, first: u16, count: u16) -> Result<Handle> {
        system::create_ports(first, count)
    }

    fn interrupt_create(&mut self, line: u8) -> Result<Handle> {
        system::create_interrupt(line)
    }

    fn device_list(&mut self, index: u64) -> Result<Option<DeviceInfo>> {
        system::device(index)
    }

    fn device_create(&mut self, address: u16) -> Result<Handle> {
        system::create_device(address)
    }

    fn handle_copy(&mut self, domain: Handle, handle: Handle, rights: Rights) -> Result<Handle> {
        DomainHandle(domain).give(handle, rights)
    }

    fn handle_close(&mut self, handle: Handle) -> Result<()> {
        domain::close(handle)
    }

    fn event_send(&mut self, port: Port) -> Result<()> {
        event::send(port)
    }

    fn event_close(&mut self, port: Port) -> Result<()> {
        event::close(port)
    }

    fn event_connect(&mut self, first: Handle, second: Handle) -> Result<(Port, Port)> {
        domain::connect(&DomainHandle(first), &DomainHandle(second))
    }

    fn event_disconnect(&mut self, domain: Handle, port: Port) -> Result<()> {
        domain::disconnect(&DomainHandle(domain), port)
    }

    fn map(&mut self, peer: u16, reference: GrantRef, writable: bool) -> Result<Mapped> {
        let access = if writable { Access::Write } else { Access::Read };
        unikernel::grant::map(Source { peer, reference }, access)
    }

    fn unmap(&mut self, page: Mapped) {
        drop(page);
    }

    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainCreated> {
        domain::create(spec).map(|(_, created)| created)
    }

    fn memory_populate(&mut self, domain: Handle, address: u64, pages: u64, protection: u64) -> Result<()> {
        DomainHandle(domain).populate(address, pages, protection)
    }

    fn domain_write(&mut self, domain: Handle, address: u64, bytes: &[u8]) -> Result<()> {
        DomainHandle(domain).write(address, bytes)
    }

    fn domain_start(&mut self, domain: Handle, entry: u64, stack: u64) -> Result<()> {
        DomainHandle(domain).start(entry, stack)
    }

    fn domain_pause(&mut self, domain: Handle) -> Result<()> {
        DomainHandle(domain).pause()
    }

    fn domain_unpause(&mut self, domain: Handle) -> Result<()> {
        DomainHandle(domain).unpause()
    }

    fn domain_reset(&mut self, domain: Handle, keep: bool) -> Result<()> {
        DomainHandle(domain).reset(keep)
    }

    fn domain_destroy(&mut self, domain: Handle) -> Result<()> {
        DomainHandle(domain).destroy()
    }

    fn domain_info(&mut self, domain: Handle) -> Result<DomainInfo> {
        DomainHandle(domain).info()
    }

    fn domain_death(&mut self, domain: Handle) -> Result<DeathReport> {
        DomainHandle(domain).death()
    }

    fn domain_set_memory(&mut self, domain: Handle, pages: u64, max: u64) -> Result<()> {
        DomainHandle(domain).set_memory(pages, max)
    }

    fn domain_schedule(&mut self, domain: Handle, params: &SchedParams) -> Result<()> {
        DomainHandle(domain).schedule(params)
    }

    fn domain_peer(&mut self, domain: Handle, index: u16, peer: Handle, guest_face: bool) -> Result<()> {
        DomainHandle(domain).set_peer(index, &DomainHandle(peer), guest_face)
    }

    fn vcpu_info(&mut self, domain: Handle, vcpu: u32) -> Result<VcpuInfo> {
        DomainHandle(domain).vcpu_info(vcpu)
    }
}
