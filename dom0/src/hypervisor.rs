//! What the control plane asks of the machine under it: the hypercalls it makes, and nothing else.
//!
//! The binary implements this with the wrappers of `unikernel`; tests implement it with a simulated machine. No call blocks.
//! Calls that the core cuts into slices answer [`Error::Again`] here too, so that a long one cannot hold up the others.
//!
//! [`Error::Again`]: protocol::error::Error::Again

use protocol::device::DeviceInfo;
use protocol::domain::{DeathReport, DomainCreated, DomainInfo, DomainSpec, SchedParams, VcpuInfo};
use protocol::error::Result;
use protocol::event::Port;
use protocol::grant::GrantRef;
use protocol::handle::{Handle, Rights};
use protocol::ring::Shared;
use protocol::system::SystemInfo;

/// Width of an access to an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
}

/// The machine as dom0 sees it. The methods are the hypercalls of the same name unless they say more.
#[allow(clippy::missing_errors_doc)]
pub trait Hypervisor {
    /// A page of another domain, mapped here.
    type Page: Shared;

    /// ns since the core started.
    fn clock(&mut self) -> u64;
    /// What the core says about the machine.
    fn system_info(&mut self) -> Result<SystemInfo>;
    /// Appends a line to the core's log; what is longer than the core takes is cut.
    fn log_write(&mut self, line: &str);
    /// Reads the core's log from `position`; gives the position after the last byte read and the number of bytes.
    fn log_read(&mut self, position: u64, out: &mut [u8]) -> Result<(u64, usize)>;
    /// Reads from a firmware table; gives the length of the whole table.
    fn acpi_read(&mut self, signature: [u8; 4], offset: u64, out: &mut [u8]) -> Result<u64>;
    /// Reads an I/O port, after getting hold of it if need be.
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32>;
    /// Writes an I/O port, after getting hold of it if need be.
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<()>;

    /// A handle for I/O ports.
    fn ioports_create(&mut self, first: u16, count: u16) -> Result<Handle>;
    /// A handle for an ISA interrupt.
    fn interrupt_create(&mut self, line: u8) -> Result<Handle>;
    /// What the core knows of a PCI function, by its index; `None` past the last.
    fn device_list(&mut self, index: u64) -> Result<Option<DeviceInfo>>;
    /// A handle for the PCI function at an address.
    fn device_create(&mut self, address: u16) -> Result<Handle>;
    /// Copies a handle into the table of `domain`.
    fn handle_copy(&mut self, domain: Handle, handle: Handle, rights: Rights) -> Result<Handle>;
    /// Closes a handle of dom0.
    fn handle_close(&mut self, handle: Handle) -> Result<()>;

    /// Sends an event.
    fn event_send(&mut self, port: Port) -> Result<()>;
    /// Closes a port of dom0.
    fn event_close(&mut self, port: Port) -> Result<()>;
    /// Connects two domains; gives the port of each.
    fn event_connect(&mut self, first: Handle, second: Handle) -> Result<(Port, Port)>;
    /// Closes a port of another domain.
    fn event_disconnect(&mut self, domain: Handle, port: Port) -> Result<()>;
    /// Maps a granted page, to be read only or to be written, too.
    fn map(&mut self, peer: u16, reference: GrantRef, writable: bool) -> Result<Self::Page>;
    /// Unmaps it.
    fn unmap(&mut self, page: Self::Page);

    /// Makes a domain.
    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainCreated>;
    /// Puts zeroed memory into a domain in building, at most 512 pages.
    fn memory_populate(&mut self, domain: Handle, address: u64, pages: u64, protection: u64) -> Result<()>;
    /// Writes into a domain in building, at most 65536 bytes.
    fn domain_write(&mut self, domain: Handle, address: u64, bytes: &[u8]) -> Result<()>;
    /// Starts its first vCPU.
    fn domain_start(&mut self, domain: Handle, entry: u64, stack: u64) -> Result<()>;
    /// Pauses it.
    fn domain_pause(&mut self, domain: Handle) -> Result<()>;
    /// Takes one pause back.
    fn domain_unpause(&mut self, domain: Handle) -> Result<()>;
    /// Takes it back to building. It may keep the pages of its image that it cannot write.
    fn domain_reset(&mut self, domain: Handle, keep: bool) -> Result<()>;
    /// Ends it for good.
    fn domain_destroy(&mut self, domain: Handle) -> Result<()>;
    /// State and accounting.
    fn domain_info(&mut self, domain: Handle) -> Result<DomainInfo>;
    /// How it died last.
    fn domain_death(&mut self, domain: Handle) -> Result<DeathReport>;
    /// Frames set aside, and their bound.
    fn domain_set_memory(&mut self, domain: Handle, pages: u64, max: u64) -> Result<()>;
    /// How it is scheduled.
    fn domain_schedule(&mut self, domain: Handle, params: &SchedParams) -> Result<()>;
    /// Makes an entry of its peer table; with `guest_face`, for the grants of the peer's virtual machine.
    fn domain_peer(&mut self, domain: Handle, index: u16, peer: Handle, guest_face: bool) -> Result<()>;
    /// State of a vCPU.
    fn vcpu_info(&mut self, domain: Handle, vcpu: u32) -> Result<VcpuInfo>;
}
