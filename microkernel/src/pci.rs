//! PCI functions: finding them at boot, and the registers of their configuration space that the core keeps to itself.
//!
//! Nothing here relies on what a function says about itself beyond its own registers: memory is only believed to be a
//! function's where no RAM is, and lists of capabilities end.

use core::iter::successors;
use core::ops::Range;

use protocol::device::{BRIDGE, DeviceInfo, MAX_DEVICES, NO_OWNER};

use crate::prelude::*;

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
/// What the owner of a device may write: status, cache line size, latency timer.
pub const WRITABLE: [u16; 4] = [STATUS, STATUS + 1, 0x0c, 0x0d];
const HEADER_TYPE: u16 = 0x0e;
const BARS: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

/// In the command register: answers at its I/O ports.
const IO: u32 = 1;
/// Answers at its memory.
const MEMORY: u32 = 1 << 1;
/// Reads and writes memory, which includes sending messages.
const MASTER: u32 = 1 << 2;
/// Raises no interrupt by wire.
const NO_WIRE: u32 = 1 << 10;

/// Ids of capabilities.
const MSI: u32 = 0x05;
const MSI_X: u32 = 0x11;

/// Class of bridges.
const CLASS_BRIDGE: u16 = 6;
/// Messages of one function that are used, so that none can take all vectors.
const MAX_MESSAGES: u16 = 32;
/// Where a message to an interrupt controller goes; bits 12 to 19 hold the controller's id (Intel SDM vol. 3, 11.11.1).
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// A function.
pub struct Device {
    /// What is told about it.
    pub info: DeviceInfo,
    /// Where its memory lies.
    pub bars: [u64; 6],
    /// Offset of the capability for messages; 0 if there is none.
    messages: u16,
    /// Where its table of messages lies (MSI-X), and how many it has; else there is one message, in the capability.
    table: Option<(Phys, u16)>,
}

/// The functions found.
pub type Devices = heapless::Vec<Device, MAX_DEVICES>;

/// The configuration space of a function.
struct Config<'m, M>(&'m M, u16);

impl<M: Machine> Config<'_, M> {
    fn read(&self, offset: u16, width: u64) -> u32 {
        self.0.config_read(self.1, offset, width)
    }

    fn write(&self, offset: u16, width: u64, value: u32) {
        self.0.config_write(self.1, offset, width, value);
    }

    /// Replaces 16 bits, and reads them back, which waits for what the function has sent before.
    fn update(&self, offset: u16, clear: u32, set: u32) {
        self.write(offset, 2, self.read(offset, 2) & !clear | set);
        _ = self.read(offset, 2);
    }

    /// Capabilities, as id and offset. No list is longer than the space.
    fn capabilities(&self) -> impl Iterator<Item = (u32, u16)> {
        let link = |at| Some(self.read(at, 1) as u16 & !3).filter(|&at| at >= 0x40);
        let first = link(CAPABILITIES).filter(|_| self.read(STATUS, 2) & 1 << 4 != 0);
        successors(first, move |&at| link(at + 1)).take(48).map(|at| (self.read(at, 1), at))
    }

    /// A memory BAR: where it is, how large, and whether it takes two places.
    fn bar(&self, index: u16) -> (u64, u64, bool) {
        let probe = |index: u16| {
            let at = BARS + 4 * index;
            let old = self.read(at, 4);
            self.write(at, 4, !0);
            let mask = self.read(at, 4);
            self.write(at, 4, old);
            (old as u64, mask as u64)
        };
        let (low, mask) = probe(index);
        if low & 1 != 0 || mask == 0 {
            return (0, 0, false);
        }
        let wide = low & 6 == 4 && index < 5;
        let (high, high_mask) = if wide { probe(index + 1) } else { (0, u32::MAX.into()) };
        (high << 32 | low & !15, (high_mask << 32 | mask & !15).wrapping_neg(), wide)
    }

    /// Takes a function in, and switches off what it could do to memory.
    fn examine(&self, ram: &[Range<u64>], reach: &mut impl FnMut(Phys, u64) -> bool) -> Device {
        let half = |offset| self.read(offset, 2) as u16;
        let mut info = DeviceInfo { address: self.1, owner: NO_OWNER, ..DeviceInfo::default() };
        (info.vendor, info.device, info.class) = (half(0), half(2), half(0x0a));
        let mut device = Device { info, bars: [0; 6], messages: 0, table: None };
        let bridge = self.read(HEADER_TYPE, 1) & 0x7f != 0;
        if bridge || device.info.class >> 8 == CLASS_BRIDGE {
            device.info.flags = BRIDGE;
            self.update(COMMAND, 0, if bridge { MASTER } else { 0 });
            return device;
        }
        let command = self.read(COMMAND, 2) & !MASTER;
        self.update(COMMAND, IO | MEMORY | MASTER, 0);
        let mut index = 0;
        while index < 6 {
            let (base, size, wide) = self.bar(index as u16);
            let range = base..base.saturating_add(size);
            if base != 0 && size.is_power_of_two() && base % size == 0 && !ram.iter().any(|ram| overlap(ram, &range)) {
                (device.bars[index], device.info.bars[index].size) = (base, size);
            }
            index += 1 + wide as usize;
        }
        self.update(COMMAND, 0, command);
        for (id, at) in self.capabilities() {
            let control = at + 2;
            if id == MSI_X {
                self.update(control, 1 << 15, 0);
                let (count, place) = ((half(control) & 0x7ff) + 1, self.read(at + 4, 4));
                let (bar, offset, length) = (place as usize & 7, place as u64 & !7, count as u64 * 16);
                let found = device.info.bars.get_mut(bar).filter(|info| offset + length <= info.size);
                let table = Phys(device.bars.get(bar).map_or(0, |base| base + offset));
                if let Some(info) = found.filter(|_| reach(table, length)) {
                    info.hidden = (offset / PAGE_SIZE) as u32;
                    info.hidden_pages = (offset + length).div_ceil(PAGE_SIZE) as u32 - info.hidden;
                    device.info.interrupts = count.min(MAX_MESSAGES);
                    (device.messages, device.table) = (at, Some((table, count)));
                }
            } else if id == MSI {
                self.update(control, 1, 0);
                if device.table.is_none() {
                    (device.messages, device.info.interrupts) = (at, 1);
                }
            }
        }
        device
    }
}

/// Whether two ranges, not empty, have something in common.
pub fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl<M: Machine> Core<M> {
    /// Finds all functions, before the first domain exists. From then on none of them reaches memory, except for bridges,
    /// which pass on what those behind them do. `ram` is no function's; `reach` makes registers accessible to the core.
    pub fn find_devices(&mut self, ram: &[Range<u64>], mut reach: impl FnMut(Phys, u64) -> bool) {
        let is_there = |config: &Config<'_, M>| config.read(0, 2) != 0xffff;
        for first in (0..=u16::MAX).step_by(8) {
            let config = Config(&self.machine, first);
            let several = is_there(&config) && config.read(HEADER_TYPE, 1) & 1 << 7 != 0;
            for address in first..=first + if several { 7 } else { 0 } {
                let config = Config(&self.machine, address);
                if is_there(&config) {
                    // What does not fit is left alone, unable to reach memory.
                    _ = self.devices.push(config.examine(ram, &mut reach));
                }
            }
        }
    }

    fn config(&self, device: &Device) -> Config<'_, M> {
        Config(&self.machine, device.info.address)
    }

    /// Lets an owned device decode its memory, and reach memory only with `dma`.
    pub(crate) fn enable(&self, device: &Device, dma: bool) {
        let (clear, set) = if dma { (IO, MASTER) } else { (IO | MASTER, 0) };
        self.config(device).update(COMMAND, clear, set | MEMORY | NO_WIRE);
    }

    /// Gives a device to a new owner: all of its messages are masked.
    pub(crate) fn claim(&mut self, index: usize, owner: Slot) {
        self.devices[index].info.owner = owner.number() as u32;
        let device = &self.devices[index];
        self.enable(device, false);
        let messages = device.table.map_or(0, |(_, count)| count);
        (0..messages).for_each(|message| self.mask_message(device, message));
    }

    /// Stops what the devices of a domain do to memory, messages included. When this returns nothing is under way any more.
    pub(crate) fn quiesce(&self, owner: Slot) {
        for device in self.devices.iter().filter(|device| device.info.owner == owner.number() as u32) {
            let config = self.config(device);
            config.update(COMMAND, MASTER, 0);
            if device.messages != 0 {
                config.update(device.messages + 2, if device.table.is_some() { 1 << 15 } else { 1 }, 0);
            }
        }
    }

    /// Takes a domain's devices away from it.
    pub(crate) fn disown(&mut self, owner: Slot) {
        let owned = self.devices.iter_mut().filter(|device| device.info.owner == owner.number() as u32);
        owned.for_each(|device| device.info.owner = NO_OWNER);
    }

    /// Sends a message as `vector` to a CPU from now on.
    pub(crate) fn arm_message(&self, device: &Device, message: u16, cpu: usize, vector: u8) {
        let (config, at) = (self.config(device), device.messages);
        let address = MESSAGE_ADDRESS | self.machine.apic_id(cpu) << 12;
        if let Some((table, _)) = device.table {
            let (target, data) = entry(table, message);
            self.machine.store(target, address.into());
            self.machine.store(data, vector.into());
            config.update(at + 2, 1 << 14, 1 << 15);
        } else {
            // A 64-bit address moves the data.
            let wide = config.read(at + 2, 2) & 1 << 7 != 0;
            config.write(at + 4, 4, address);
            config.write(at + 8, 4, 0);
            config.write(if wide { at + 12 } else { at + 8 }, 2, vector.into());
            config.update(at + 2, 7 << 4, 1);
        }
    }

    /// Masks a message at its source; when this returns it is not sent any more.
    pub(crate) fn mask_message(&self, device: &Device, message: u16) {
        if let Some((table, _)) = device.table {
            let (_, data) = entry(table, message);
            self.machine.store(data, 1 << 32);
            _ = self.machine.load(data);
        } else if device.messages != 0 {
            self.config(device).update(device.messages + 2, 1, 0);
        }
    }

    /// Frames of registers from page `page` of a BAR on, if a domain can have them: gives the address of the first.
    pub(crate) fn registers(&self, device: &Device, bar: u64, page: u64, pages: u64) -> Result<u64> {
        let (info, &base) = device.info.bars.iter().zip(&device.bars).nth(bar as usize).ok_or(Error::Invalid)?;
        let whole = info.size.div_ceil(PAGE_SIZE);
        refuse_if(whole == 0, Error::NotFound)?;
        refuse_if(pages == 0 || page >= whole || pages > whole - page, Error::Invalid)?;
        let hidden = info.hidden as u64..info.hidden as u64 + info.hidden_pages as u64;
        refuse_if(overlap(&(page..page + pages), &hidden), Error::NotPermitted)?;
        let own = base..base + whole * PAGE_SIZE;
        let places = self.devices.iter().flat_map(|device| device.bars.iter().zip(&device.info.bars));
        let sharing = places.filter(|(start, info)| overlap(&own, &(**start..**start + info.size))).count();
        refuse_if(sharing > 1 || base % PAGE_SIZE != 0, Error::Busy)?;
        Ok(base + page * PAGE_SIZE)
    }
}

/// Places of the address and of the data of a message in a table.
const fn entry(table: Phys, message: u16) -> (Phys, Phys) {
    let at = table.0 + 16 * message as u64;
    (Phys(at), Phys(at + 8))
}
