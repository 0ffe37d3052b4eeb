//! Hypercalls on PCI functions.

use protocol::device::{BRIDGE, CONFIG_SIZE, DMA, NO_OWNER};
use protocol::layout::{MMIO, MMIO_END};
use protocol::system::Features;

use super::at_most;
use super::devices::DEVICE;
use super::memory::{MAX_PAGES, each};
use crate::events::{MESSAGES, SOURCES, VECTORS};
use crate::frames::Kind;
use crate::handles::Entry;
use crate::pci::WRITABLE;
use crate::ports::{self, Use};
use crate::prelude::*;
use crate::space::registers;

impl<M: Machine> Core<M> {
    pub(super) fn device_list(&mut self, caller: Caller, _: u64, index: u64, out: u64) -> Result {
        let device = self.devices.get(index as usize).ok_or(Error::NotFound)?;
        self.deliver(caller, out, &device.info)
    }

    pub(super) fn device_create(&mut self, caller: Caller, _: u64, address: u64) -> Result {
        let found = self.devices.iter().position(|device| device.info.address as u64 == address);
        let index = found.ok_or(Error::NotFound)?;
        self.add_handle(caller.slot, Entry::new(ObjectKind::Device, DEVICE, index as u64))
    }

    pub(super) fn device_info(&mut self, caller: Caller, device: u64, out: u64) -> Result {
        self.deliver(caller, out, &self.devices[device as usize].info)
    }

    pub(super) fn device_open(&mut self, caller: Caller, index: u64, flags: u64) -> Result {
        let (index, device) = (index as usize, &self.devices[index as usize]);
        refuse_if(flags & !DMA != 0, Error::Invalid)?;
        let confined = (Features::IOMMU | Features::IOMMU_OFF_INSECURE).bits();
        refuse_if(device.info.flags & BRIDGE != 0 || self.info.features & confined == 0, Error::NotPermitted)?;
        match device.info.owner {
            NO_OWNER => self.claim(index, caller.slot),
            owner if owner != caller.slot.number() as u32 => return Err(Error::Busy),
            _ => {}
        }
        self.enable(&self.devices[index], flags & DMA != 0);
        Ok(0)
    }

    pub(super) fn config_read(&mut self, _: Caller, device: u64, offset: u64, width: u64) -> Result {
        let offset = place(offset, width)?;
        Ok(self.machine.config_read(self.devices[device as usize].info.address, offset, width).into())
    }

    pub(super) fn config_write(&mut self, _: Caller, device: usize, at: u64, width: u64, value: u64) -> Result {
        let offset = place(at, width)?;
        let value = u32::try_from(value).ok().filter(|&value| width == 4 || value >> (8 * width) == 0);
        let value = value.ok_or(Error::Invalid)?;
        refuse_if(!(offset..offset + width as u16).all(|at| WRITABLE.contains(&at)), Error::NotPermitted)?;
        self.machine.config_write(self.devices[device].info.address, offset, width, value);
        Ok(0)
    }

    pub(super) fn device_map(&mut self, by: Caller, device: usize, bar: u64, page: u64, at: u64, pages: u64) -> Result {
        at_most(pages, MAX_PAGES)?;
        let from = self.registers(&self.devices[device], bar, page, pages)?;
        let inside = (MMIO..MMIO_END - pages * PAGE_SIZE + 1).contains(&at);
        refuse_if(!inside || !at.is_multiple_of(PAGE_SIZE), Error::BadAddress)?;
        self.check_unmapped(by.slot, at, pages, 0)?;
        let space = self.domains[by.slot].space;
        for (address, register) in each(at, pages).zip(each(from, pages)) {
            space.map(&self.machine, &mut self.frames, by.slot, address, registers(register))?;
        }
        Ok(0)
    }

    pub(super) fn device_interrupt(&mut self, caller: Caller, index: usize, message: u64) -> Result {
        let device = &self.devices[index];
        refuse_if(message >= device.info.interrupts as u64, Error::NotFound)?;
        let message = message as u16;
        let about = (index as u32) << 16 | message as u32;
        if self.interrupts[MESSAGES..].iter().flatten().any(|&(slot, port)| self.port(slot, port).incarnation == about)
        {
            return Err(Error::Busy);
        }
        let free = |&source: &usize| self.interrupts[source].is_none();
        let source = (MESSAGES..SOURCES).find(free).ok_or(Error::TableFull)?;
        let entry = ports::Entry { incarnation: about, ..ports::Entry::new(Use::INTERRUPT, source as u16) };
        let port = self.open_port(caller.slot, None, entry)?;
        self.interrupts[source] = Some((caller.slot, port));
        self.arm_message(&self.devices[index], message, self.here, (VECTORS + source) as u8);
        Ok(port.0.into())
    }

    pub(super) fn device_addresses(&mut self, by: Caller, _: usize, at: u64, pages: u64, out: u64) -> Result {
        self.check_area(by.slot, at, pages)?;
        let out = self.memory(by, out, pages as usize * 8, true)?;
        let space = self.domains[by.slot].space;
        for address in each(at, pages) {
            let frame = space.translate(&self.machine, address, true).ok_or(Error::BadAddress)?;
            refuse_if(self.frames.info(&self.machine, frame).count > 0, Error::Busy)?;
        }
        let found = each(at, pages).filter_map(|address| space.translate(&self.machine, address, true));
        for (index, frame) in found.enumerate() {
            self.frames.change(&self.machine, frame, Kind::DEVICE);
            out.put(&self.machine, index, &frame.at(0).0);
        }
        Ok(0)
    }
}

/// An offset in the configuration space of a function.
fn place(offset: u64, width: u64) -> Result<u16> {
    let valid = matches!(width, 1 | 2 | 4) && offset.is_multiple_of(width) && offset < CONFIG_SIZE;
    if valid { Ok(offset as u16) } else { Err(Error::Invalid) }
}
