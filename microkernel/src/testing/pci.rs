//! PCI functions: what is found, who may do what with them, and that they do nothing any more once their domain ended.

use std::vec::Vec;

use protocol::device::{BRIDGE, DMA, DeviceInfo, NO_OWNER};
use protocol::error::{Error, Result};
use protocol::event::PENDING;
use protocol::handle::Rights;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;
use zerocopy::FromZeros;

use super::bus::{DISK, SMALL, SOUND, TABLE, addresses};
use super::world::{Child, World};
use crate::events::{MESSAGES, SOURCES, VECTORS};
use crate::frames::Kind;
use crate::platform::{Frame, Machine, Memory};
use crate::table::Slot;

const COMMAND: u16 = 4;

/// A domain with a function: what it is called there.
fn owner(world: &mut World, function: u16) -> (Child, u64) {
    let child = world.child();
    let handle = hand(world, child, function);
    (child, handle)
}

fn hand(world: &mut World, child: Child, function: u16) -> u64 {
    let handle = world.ok(Slot::DOM0, H::DeviceCreate, &[1, function.into()]);
    world.ok(Slot::DOM0, H::HandleCopy, &[child.handle, handle, Rights::all().bits().into()])
}

fn command(world: &World, function: u16) -> u32 {
    world.core.machine.config_read(function, COMMAND, 2)
}

fn list(world: &mut World) -> Vec<DeviceInfo> {
    let mut found = Vec::new();
    while world.call(Slot::DOM0, H::DeviceList, &[1, found.len() as u64, HEAP]).is_ok() {
        found.push(world.get(Slot::DOM0, HEAP));
    }
    found
}

#[test]
fn all_functions_are_found_and_reach_no_memory() {
    let mut world = World::new(600, 1);
    let found = list(&mut world);
    assert_eq!(found.iter().map(|info| info.address).collect::<Vec<_>>(), addresses());
    assert_eq!(world.call(Slot::DOM0, H::DeviceList, &[1, u64::MAX, HEAP]), Err(Error::NotFound));
    let [host, bridge, disk, small, sound] = found[..] else { panic!() };
    assert_eq!((host.flags, bridge.flags, disk.flags), (BRIDGE, BRIDGE, 0));
    assert_eq!(addresses().map_in(&world), [7, 7, 3, 3, 3], "only the bridges go on");
    assert_eq!((disk.vendor, disk.device, disk.class, disk.owner), (0x1af4, 0x1042, 0x100, NO_OWNER));
    assert_eq!((disk.interrupts, sound.interrupts, small.interrupts), (4, 1, 0));
    let sizes = |info: DeviceInfo| info.bars.map(|bar| bar.size);
    assert_eq!(sizes(disk), [0, 0x1000, 0, 0, 0x4000, 0], "I/O has no size here");
    assert_eq!((disk.bars[1].hidden, disk.bars[1].hidden_pages, disk.bars[4].hidden_pages), (0, 1, 0));
    assert_eq!(sizes(small), [0, 0x800, 0x1000, 0x800, 0, 0], "over RAM");
    assert_eq!(world.core.devices[2].bars[4], 0x12_fe00_0000);
}

trait Commands {
    fn map_in(self, world: &World) -> Vec<u32>;
}

impl Commands for Vec<u16> {
    fn map_in(self, world: &World) -> Vec<u32> {
        self.into_iter().map(|function| command(world, function)).collect()
    }
}

#[test]
fn only_one_domain_has_a_device_and_only_with_leave_to_reach_memory() {
    let mut world = World::new(900, 1);
    let (one, handle) = owner(&mut world, DISK);
    let (other, same) = owner(&mut world, DISK);
    for (call, arguments) in [
        (H::ConfigWrite, [same, 0x0c, 1, 0, 0]),
        (H::DeviceMap, [same, 4, 0, MMIO, 1]),
        (H::DeviceInterrupt, [same, 0, 0, 0, 0]),
        (H::DeviceAddresses, [same, HEAP, 1, HEAP, 0]),
    ] {
        assert_eq!(world.call(other.slot, call, &arguments), Err(Error::WrongState), "{call:?}");
    }
    let features = core::mem::take(&mut world.core.info.features);
    assert_eq!(world.call(one.slot, H::DeviceOpen, &[handle, 0]), Err(Error::NotPermitted));
    world.core.info.features = features;
    assert_eq!(world.call(one.slot, H::DeviceOpen, &[handle, 2]), Err(Error::Invalid));
    for (flags, expected) in [(0, 0x402), (DMA, 0x406), (0, 0x402), (DMA, 0x406)] {
        world.ok(one.slot, H::DeviceOpen, &[handle, flags]);
        assert_eq!(command(&world, DISK), expected);
    }
    assert_eq!(world.call(other.slot, H::DeviceOpen, &[same, DMA]), Err(Error::Busy));
    world.ok(other.slot, H::DeviceInfo, &[same, HEAP]);
    let info: DeviceInfo = world.get(other.slot, HEAP);
    assert_eq!(info.owner, one.slot.number() as u32);
    let bridge = world.ok(Slot::DOM0, H::DeviceCreate, &[1, 0x10]);
    assert_eq!(world.call(Slot::DOM0, H::DeviceOpen, &[bridge, 0]), Err(Error::NotPermitted));
    assert_eq!(world.call(Slot::DOM0, H::DeviceCreate, &[1, 0x18]), Err(Error::NotFound));
    // The end of its owner frees it, and so does a reset.
    world.destroy(one);
    assert_eq!(command(&world, DISK), 0x402);
    world.ok(other.slot, H::DeviceOpen, &[same, DMA]);
    world.ok(Slot::DOM0, H::DomainReset, &[other.handle]);
    assert_eq!((command(&world, DISK), list(&mut world)[2].owner), (0x402, NO_OWNER));
    world.check();
}

#[test]
fn configuration_is_read_everywhere_and_written_where_it_harms_nobody() {
    let mut world = World::new(600, 1);
    let (child, disk) = owner(&mut world, DISK);
    let (small, sound) = (hand(&mut world, child, SMALL), hand(&mut world, child, SOUND));
    for handle in [disk, small, sound] {
        world.ok(child.slot, H::DeviceOpen, &[handle, 0]);
    }
    assert_eq!(world.ok(child.slot, H::ConfigRead, &[disk, 0, 4]), 0x1042_1af4);
    assert_eq!(world.ok(child.slot, H::ConfigRead, &[disk, 0xff, 1]), 0);
    for (offset, width) in [(256, 1), (255, 2), (2, 4), (1, 2), (0, 3), (0, 0), (0, 8), (1 << 16, 1), (u64::MAX, 1)] {
        assert_eq!(world.call(child.slot, H::ConfigRead, &[disk, offset, width]), Err(Error::Invalid));
        assert_eq!(world.call(child.slot, H::ConfigWrite, &[disk, offset, width, 0]), Err(Error::Invalid));
    }
    for handle in [disk, small, sound] {
        let mut allowed = |width: u64| {
            let mut at = |offset| world.call(child.slot, H::ConfigWrite, &[handle, offset, width, 0]);
            let tried = (0..256).step_by(width as usize).filter(|&offset| match at(offset) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error, Error::NotPermitted);
                    false
                }
            });
            tried.collect::<Vec<u64>>()
        };
        assert_eq!((allowed(1), allowed(2), allowed(4)), (std::vec![6, 7, 12, 13], std::vec![6, 12], Vec::new()));
    }
    assert_eq!(world.call(child.slot, H::ConfigWrite, &[sound, 0x0c, 2, 0x1_0000]), Err(Error::Invalid));
}

#[test]
fn registers_are_mapped_but_for_those_the_core_keeps() {
    let mut world = World::new(600, 1);
    let (child, disk) = owner(&mut world, DISK);
    let small = hand(&mut world, child, SMALL);
    let sound = hand(&mut world, child, SOUND);
    for handle in [disk, small, sound] {
        world.ok(child.slot, H::DeviceOpen, &[handle, 0]);
    }
    let mut map = |handle, bar, page, address, pages| -> Result {
        world.call(child.slot, H::DeviceMap, &[handle, bar, page, address, pages])
    };
    for (bar, page, address, pages, error) in [
        (6, 0, MMIO, 1, Error::Invalid),
        (u64::MAX, 0, MMIO, 1, Error::Invalid),
        (0, 0, MMIO, 1, Error::NotFound),
        (5, 0, MMIO, 1, Error::NotFound),
        (1, 0, MMIO, 1, Error::NotPermitted),
        (4, 0, MMIO, 0, Error::Invalid),
        (4, 0, MMIO, 5, Error::Invalid),
        (4, 4, MMIO, 1, Error::Invalid),
        (4, u64::MAX, MMIO, 1, Error::Invalid),
        (4, 1 << 52, MMIO, 1, Error::Invalid),
        (4, 0, MMIO, 513, Error::TooBig),
        (4, 0, MMIO + 1, 1, Error::BadAddress),
        (4, 0, MMIO_END, 1, Error::BadAddress),
        (4, 0, MMIO_END - PAGE_SIZE, 2, Error::BadAddress),
        (4, 0, HEAP, 1, Error::BadAddress),
        (4, 0, !4095, 1, Error::BadAddress),
    ] {
        assert_eq!(map(disk, bar, page, address, pages), Err(error), "{bar} {page:#x} {address:#x} {pages}");
    }
    assert_eq!(map(disk, 4, 1, MMIO, 3), Ok(0));
    assert_eq!(map(disk, 4, 0, MMIO + 2 * PAGE_SIZE, 1), Err(Error::Exists));
    assert_eq!(map(disk, 4, 0, MMIO_END - PAGE_SIZE, 1), Ok(0));
    // Its neighbour's registers are in the same page.
    assert_eq!(
        (map(small, 1, 0, MMIO + (1 << 20), 1), map(sound, 0, 3, MMIO + (1 << 20), 1)),
        (Err(Error::Busy), Err(Error::Busy))
    );
    let entry = world.core.domains[child.slot].space.lookup(&world.core.machine, MMIO);
    assert_eq!(entry & !(1 << 63), 0x12_fe00_1000 | 1 << 9 | 0b11111, "uncached, writable");
    // The core does not go there for anybody.
    assert_eq!(world.call(child.slot, H::LogWrite, &[MMIO, 8]), Err(Error::BadAddress));
    assert_eq!(world.call(child.slot, H::DeviceInfo, &[disk, MMIO]), Err(Error::BadAddress));
    world.poke(child.slot, GRANT_TABLE + 64, &[1, 0, 0, 0]);
    world.put(child.slot, GRANT_TABLE + 68, &((MMIO >> PAGE_SHIFT) as u32));
    let element = protocol::grant::MapElement {
        peer: child.slot.number() as u16,
        reference: 8,
        address: GRANT_WINDOW,
        ..FromZeros::new_zeroed()
    };
    world.put(Slot::DOM0, HEAP, &element);
    assert_eq!(world.ok(Slot::DOM0, H::GrantMap, &[HEAP, 1]), 0);
    world.check();
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    assert_eq!(world.core.domains[child.slot].space.lookup(&world.core.machine, MMIO), 0);
    world.check();
    world.destroy(child);
    world.check();
}

#[test]
fn a_bar_takes_page_tables_from_its_owner_only() {
    let mut world = World::new(600, 1);
    let (child, disk) = owner(&mut world, DISK);
    world.ok(child.slot, H::DeviceOpen, &[disk, 0]);
    let free = world.core.frames.available(child.slot);
    for page in 0..free - 1 {
        _ = world.call(child.slot, H::MemoryPopulate, &[0, HEAP + (1 << 21) + page * PAGE_SIZE, 1, 1]);
    }
    assert_eq!(world.call(child.slot, H::DeviceMap, &[disk, 4, 0, MMIO, 1]), Err(Error::NoMemory));
    world.check();
}

#[test]
fn messages_become_events_until_their_port_is_closed() {
    for function in [DISK, SOUND] {
        let mut world = World::new(600, 2);
        let (child, device) = owner(&mut world, function);
        world.ok(child.slot, H::DeviceOpen, &[device, DMA]);
        assert_eq!(world.call(child.slot, H::DeviceInterrupt, &[device, 4]), Err(Error::NotFound));
        let port = world.ok(child.slot, H::DeviceInterrupt, &[device, 0]);
        assert_eq!(world.call(child.slot, H::DeviceInterrupt, &[device, 0]), Err(Error::Busy));
        let machine = &world.core.machine;
        let (address, data) = if function == DISK {
            assert_eq!(machine.config_read(DISK, 0x62, 2), 0x8003, "switched on, not masked");
            let entry = Frame(TABLE).at(0);
            (machine.load(entry) as u32, machine.load(Frame(TABLE).at(8)) as u32)
        } else {
            assert_eq!(machine.config_read(SOUND, 0x52, 2), 0x81);
            (machine.config_read(SOUND, 0x54, 4), machine.config_read(SOUND, 0x5c, 2))
        };
        assert_eq!((address, data), (0xfee0_8000, (VECTORS + MESSAGES) as u32), "to the CPU of the caller");
        let pending = |world: &World| world.get::<u64>(child.slot, EVENTS + PENDING as u64) & 1 << port;
        assert_eq!(pending(&world), 0);
        world.core.interrupt(1, MESSAGES);
        assert_ne!(pending(&world), 0);
        assert_eq!(world.core.machine.masked.get(), 0xffff, "no line was touched");
        world.ok(child.slot, H::EventUnmask, &[port]);
        assert_eq!(world.core.machine.masked.get(), 0xffff);
        world.check();
        world.ok(child.slot, H::EventClose, &[0, port]);
        let masked = if function == DISK {
            world.core.machine.load(Frame(TABLE).at(8)) >> 32 == 1
        } else {
            world.core.machine.config_read(SOUND, 0x52, 2) == 0x80
        };
        assert!(masked);
        // One that was on its way goes nowhere.
        world.core.interrupt(1, MESSAGES);
        assert_eq!(pending(&world), 0);
        assert_eq!(world.ok(child.slot, H::DeviceInterrupt, &[device, 0]), port);
        world.check();
    }
}

#[test]
fn vectors_can_run_out() {
    let mut world = World::new(600, 1);
    let (child, device) = owner(&mut world, DISK);
    world.ok(child.slot, H::DeviceOpen, &[device, 0]);
    world.core.interrupts[MESSAGES..SOURCES].fill(Some((Slot::DOM0, protocol::event::Port(9))));
    assert_eq!(world.call(child.slot, H::DeviceInterrupt, &[device, 0]), Err(Error::TableFull));
    world.core.interrupts.fill(None);
    for message in 0..4 {
        world.ok(child.slot, H::DeviceInterrupt, &[device, message]);
    }
    world.check();
    world.destroy(child);
    assert_eq!(world.core.interrupts, [None; SOURCES]);
    world.check();
}

#[test]
fn memory_that_a_device_knows_stays_until_the_device_is_stopped() {
    let mut world = World::new(900, 1);
    let (child, device) = owner(&mut world, DISK);
    let friend = world.child();
    world.befriend(child, friend);
    world.ok(child.slot, H::DeviceOpen, &[device, DMA]);
    let out = HEAP + 8 * PAGE_SIZE;
    for (address, pages, error) in [
        (HEAP, 0, Error::Invalid),
        (HEAP, 513, Error::TooBig),
        (HEAP + 1, 1, Error::BadAddress),
        (HEAP + 15 * PAGE_SIZE, 2, Error::BadAddress),
        (RETAINED, 1, Error::BadAddress),
        (CONTROL_IN, 1, Error::BadAddress),
        (EVENTS, 1, Error::BadAddress),
    ] {
        assert_eq!(world.call(child.slot, H::DeviceAddresses, &[device, address, pages, out]), Err(error));
    }
    world.ok(child.slot, H::DeviceAddresses, &[device, HEAP, 3, out]);
    let addresses: [u64; 3] = world.get(child.slot, out);
    let space = world.core.domains[child.slot].space;
    for (page, address) in addresses.into_iter().enumerate() {
        let frame = space.translate(&world.core.machine, HEAP + page as u64 * PAGE_SIZE, true).unwrap();
        assert_eq!(address, frame.at(0).0);
        assert_eq!(world.core.frames.info(&world.core.machine, frame).kind, Kind::DEVICE);
        world.core.machine.dma.borrow_mut().insert(frame.0, DISK);
    }
    assert_eq!(world.call(child.slot, H::MemoryRelease, &[HEAP + 2 * PAGE_SIZE, 2]), Err(Error::Busy));
    world.ok(child.slot, H::MemoryRelease, &[HEAP + 3 * PAGE_SIZE, 2]);
    world.check();
    // The simulated machine refuses to scrub them while the device could write.
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    assert!(world.core.machine.dma.borrow().is_empty());
    world.check();
}

#[test]
fn a_dead_driver_disturbs_nobody() {
    let mut world = World::new(900, 2);
    let (child, device) = owner(&mut world, DISK);
    world.ok(child.slot, H::DeviceOpen, &[device, DMA]);
    world.ok(child.slot, H::DeviceInterrupt, &[device, 0]);
    world.ok(child.slot, H::DeviceMap, &[device, 4, 0, MMIO, 4]);
    world.enter(0, child.slot, 0);
    world.core.fault(0, 14, 6, 0);
    world.leave(0);
    assert_eq!((command(&world, DISK), world.core.machine.config_read(DISK, 0x62, 2)), (0x402, 3));
    // Until the dead is cleared away, its device is not another's.
    let second = hand(&mut world, child, DISK);
    _ = second;
    let (other, same) = owner(&mut world, DISK);
    assert_eq!(world.call(other.slot, H::DeviceOpen, &[same, 0]), Err(Error::Busy));
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    world.check();
    // The next image finds its handle, and a device without any of the past.
    world.start(child);
    world.ok(child.slot, H::DeviceOpen, &[device, 0]);
    assert_eq!(world.core.machine.load(Frame(TABLE).at(8)) >> 32, 1);
    world.ok(child.slot, H::DeviceOpen, &[device, DMA]);
    world.ok(child.slot, H::DeviceInterrupt, &[device, 0]);
    world.ok(child.slot, H::DeviceMap, &[device, 4, 0, MMIO, 4]);
    world.check();
}
