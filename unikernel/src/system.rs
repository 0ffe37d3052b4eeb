//! The machine, for the domain that holds [`Handle::SYSTEM`].

use protocol::device::DeviceInfo;
use protocol::error::{Error, Result};
use protocol::handle::Handle;
use protocol::system::{AcpiRead, LogRead, SystemInfo};

use crate::hypercall::{address_of, address_of_mut, raw};

const SYSTEM: u64 = Handle::SYSTEM.0 as u64;

/// What the core says about the machine.
pub fn info() -> Result<SystemInfo> {
    let mut info = SystemInfo::default();
    // SAFETY: the value lives until the call returns and has the type the call expects.
    unsafe { raw::system_info(SYSTEM, address_of_mut(&mut info)) }?;
    Ok(info)
}

/// Reads the core's log from `position`; gives the bytes read (0 at the end) and the position after them.
pub fn log_read(position: u64, out: &mut [u8]) -> Result<(usize, u64)> {
    let mut request = LogRead { position, address: out.as_mut_ptr() as u64, length: out.len().min(4096) as u64 };
    // SAFETY: `out` is writable for the length named, and the request lives until the call returns.
    let read = unsafe { raw::log_read(SYSTEM, address_of_mut(&mut request)) }?;
    Ok((read as usize, request.position))
}

/// Reads from a firmware table at `offset`; gives the length of the whole table.
pub fn acpi_read(signature: [u8; 4], instance: u32, offset: u64, out: &mut [u8]) -> Result<u64> {
    let request =
        AcpiRead { signature, instance, offset, address: out.as_mut_ptr() as u64, length: out.len().min(4096) as u64 };
    // SAFETY: `out` is writable for the length named, and the request lives until the call returns.
    unsafe { raw::acpi_read(SYSTEM, address_of(&request)) }
}

/// Makes a handle for `count` I/O ports from `first`.
pub fn create_ports(first: u16, count: u16) -> Result<Handle> {
    // SAFETY: no effect on memory.
    unsafe { raw::ioports_create(SYSTEM, first.into(), count.into()) }.map(|handle| Handle(handle as u32))
}

/// Makes a handle for an ISA interrupt line.
pub fn create_interrupt(line: u8) -> Result<Handle> {
    // SAFETY: no effect on memory.
    unsafe { raw::interrupt_create(SYSTEM, line.into()) }.map(|handle| Handle(handle as u32))
}

/// PCI function `index` of those the core found; none past the last.
pub fn device(index: u64) -> Result<Option<DeviceInfo>> {
    let mut info = DeviceInfo::default();
    // SAFETY: the record lives until the call returns and has the type the call expects.
    match unsafe { raw::device_list(SYSTEM, index, address_of_mut(&mut info)) } {
        Err(Error::NotFound) => Ok(None),
        result => result.map(|_| Some(info)),
    }
}

/// Makes a handle for the PCI function at an address.
pub fn create_device(address: u16) -> Result<Handle> {
    // SAFETY: no effect on memory.
    unsafe { raw::device_create(SYSTEM, address.into()) }.map(|handle| Handle(handle as u32))
}
