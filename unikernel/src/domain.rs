//! Other domains, by handle: what the control plane does with them.
//!
//! Nothing here can touch the memory of the calling domain, so all of it is safe; whether a call is allowed, the core decides
//! by the handle's rights. Each function is one hypercall: long ones answer [`Error::Again`], and the caller repeats them when
//! it likes, so that none holds the event loop up.

use protocol::domain::{DeathReport, DomainCreated, DomainInfo, DomainSpec, SchedParams, VcpuInfo};
use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::handle::{Handle, Rights};

use crate::hypercall::{address_of, address_of_mut, raw};

/// A handle that names a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainHandle(pub Handle);

/// Makes a domain, in state building; long.
pub fn create(spec: &DomainSpec) -> Result<(DomainHandle, DomainCreated)> {
    let mut created = DomainCreated::default();
    let (spec, out) = (address_of(spec), address_of_mut(&mut created));
    // SAFETY: both values live until the call returns and have the types the call expects.
    unsafe { raw::domain_create(Handle::SYSTEM.0.into(), spec, out) }?;
    Ok((DomainHandle(Handle(created.handle)), created))
}

/// Connects two domains by a new event channel; gives the port of each.
pub fn connect(first: &DomainHandle, second: &DomainHandle) -> Result<(Port, Port)> {
    // SAFETY: no effect on memory.
    let ports = unsafe { raw::event_connect(first.number(), second.number()) }?;
    Ok((Port((ports >> 32) as u32), Port(ports as u32)))
}

/// Closes a port of a domain that the caller may connect; its peer's port stays, unconnected.
pub fn disconnect(domain: &DomainHandle, port: Port) -> Result<()> {
    // SAFETY: no effect on memory.
    unsafe { raw::event_close(domain.number(), port.0.into()) }.map(|_| ())
}

impl DomainHandle {
    /// The calling domain.
    pub const SELF: DomainHandle = DomainHandle(Handle::SELF);

    fn number(&self) -> u64 {
        self.0.0.into()
    }

    /// Refuses the calling domain, whose memory belongs to its own allocator.
    fn other(&self) -> Result<u64> {
        if self.0 == Handle::SELF { Err(Error::Invalid) } else { Ok(self.number()) }
    }

    /// Puts zeroed pages at `address` of a domain in building, at most 512. `access` is one of
    /// [`protocol::hypercall::protection`].
    pub fn populate(&self, address: u64, pages: u64, access: u64) -> Result<()> {
        // SAFETY: it is another domain's memory.
        unsafe { raw::memory_populate(self.other()?, address, pages, access) }.map(|_| ())
    }

    /// Copies bytes, at most 65536, to `address` of a domain in building, whatever the protection of its pages.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let (from, length) = crate::hypercall::bytes(bytes);
        // SAFETY: the bytes are readable for their length; the target is another domain's memory.
        unsafe { raw::domain_write(self.other()?, address, from, length) }.map(|_| ())
    }

    /// Starts vCPU 0 at `entry`, with stack pointer `stack` (0: the layout's).
    pub fn start(&self, entry: u64, stack: u64) -> Result<()> {
        // SAFETY: it is another domain that starts.
        unsafe { raw::domain_start(self.other()?, entry, stack) }.map(|_| ())
    }

    /// Stops all its vCPUs; counts. `Again` while one still runs.
    pub fn pause(&self) -> Result<()> {
        // SAFETY: no effect on memory.
        unsafe { raw::domain_pause(self.number()) }.map(|_| ())
    }

    /// Takes one pause back.
    pub fn unpause(&self) -> Result<()> {
        // SAFETY: no effect on memory.
        unsafe { raw::domain_unpause(self.number()) }.map(|_| ())
    }

    /// Takes it back to building in place, and may keep the pages of its image that it cannot write; long.
    pub fn reset(&self, keep: bool) -> Result<()> {
        // SAFETY: it is another domain's memory.
        unsafe { raw::domain_reset(self.other()?, keep.into()) }.map(|_| ())
    }

    /// Ends it and gives everything back; the handle is closed. Long.
    pub fn destroy(&self) -> Result<()> {
        // SAFETY: it is another domain's memory.
        unsafe { raw::domain_destroy(self.other()?) }.map(|_| ())
    }

    /// What the core knows about it.
    pub fn info(&self) -> Result<DomainInfo> {
        let mut info = DomainInfo::default();
        // SAFETY: the value lives until the call returns and has the type the call expects.
        unsafe { raw::domain_info(self.number(), address_of_mut(&mut info)) }?;
        Ok(info)
    }

    /// How it died last.
    pub fn death(&self) -> Result<DeathReport> {
        let mut report = DeathReport::default();
        // SAFETY: as in `info`.
        unsafe { raw::domain_death(self.number(), address_of_mut(&mut report)) }?;
        Ok(report)
    }

    /// What one of its vCPUs does.
    pub fn vcpu_info(&self, vcpu: u32) -> Result<VcpuInfo> {
        let mut info = VcpuInfo::default();
        // SAFETY: as in `info`.
        unsafe { raw::vcpu_info(self.number(), vcpu.into(), address_of_mut(&mut info)) }?;
        Ok(info)
    }

    /// Sets frames aside for it, and bounds later calls.
    pub fn set_memory(&self, pages: u64, max: u64) -> Result<()> {
        // SAFETY: no effect on memory that is in use.
        unsafe { raw::domain_set_memory(self.number(), pages, max) }.map(|_| ())
    }

    /// Sets how it is scheduled.
    pub fn schedule(&self, params: &SchedParams) -> Result<()> {
        // SAFETY: the value lives until the call returns and has the type the call expects.
        unsafe { raw::domain_schedule(self.number(), address_of(params)) }.map(|_| ())
    }

    /// Makes `peer` entry `index` of its peer table; with `guest_face`, to take grants from the table of its virtual machine.
    pub fn set_peer(&self, index: u16, peer: &DomainHandle, guest_face: bool) -> Result<()> {
        // SAFETY: no effect on memory.
        unsafe { raw::domain_peer(self.number(), index.into(), peer.number(), guest_face.into()) }.map(|_| ())
    }

    /// Gives it a copy of one of the caller's handles, with no more than `rights`; gives the handle by its name.
    pub fn give(&self, handle: Handle, rights: Rights) -> Result<Handle> {
        // SAFETY: no effect on memory.
        let given = unsafe { raw::handle_copy(self.number(), handle.0.into(), rights.bits().into()) }?;
        Ok(Handle(given as u32))
    }
}

/// Closes a handle of the caller's; the object stays as it is.
pub fn close(handle: Handle) -> Result<()> {
    // SAFETY: no effect on memory.
    unsafe { raw::handle_close(handle.0.into()) }.map(|_| ())
}
