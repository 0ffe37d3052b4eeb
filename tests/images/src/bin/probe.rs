//! Drives PCI devices as the first domain: reads a disk by interrupt, and watches a card change hands.
//!
//! The card's driver is a domain that is reset under it. What the core then has to have done is read back by another one.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use core::time::Duration;

use protocol::answer::decode;
use protocol::device::{BRIDGE, DMA, DeviceInfo, NO_OWNER};
use protocol::error::Error;
use protocol::handle::{Handle, Rights};
use protocol::hypercall::Hypercall as H;
use protocol::layout::{CONSOLE, MMIO, PAGE_SIZE};
use protocol::ring::Shared;
use test_images::child::{spec, to_the_end};
use test_images::puppet::Puppet;
use test_images::verdict::conclude;
use test_images::{Context, Outcome};
use unikernel::device::{DmaBuffer, pci};
use unikernel::{Domain, domain, system, time};
use virtio::hardware::{Opened, open};
use virtio::queue::{Buffer, Queue, places};
use virtio::transport::QueueAddresses;

unikernel::main!(start);

async fn start(domain: Domain) {
    let outcome = probe().await;
    conclude(&domain, "probe", outcome);
}

async fn probe() -> Outcome {
    let mut found = alloc::vec::Vec::new();
    while let Some(info) = system::device(found.len() as u64).context("device_list")? {
        let DeviceInfo { address, vendor, device, class, interrupts, .. } = info;
        log::info!("probe: {address:04x} is {vendor:04x}:{device:04x}, class {class:04x}, {interrupts} interrupts");
        found.push(info);
    }
    let model = |device: u16| {
        let named = found.iter().find(|info| (info.vendor, info.device) == (0x1af4, device));
        named.map(|info| info.address).ok_or_else(|| format!("there is no device 1af4:{device:04x}"))
    };
    if !found.iter().any(|info| info.flags == BRIDGE) {
        return Err("there is no bridge".into());
    }
    read_disk(model(0x1042)?).await?;
    change_hands(model(0x1041)?)
}

/// Where things lie in the memory of the disk's queue, in pages.
const HEADER: usize = PAGE_SIZE as usize;
const OUTCOME: usize = HEADER + 16;
const DATA: usize = 2 * PAGE_SIZE as usize;
/// How long a request may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Descriptors of the queue.
const SIZE: u16 = 16;

/// Reads two sectors, the first and the one behind it.
async fn read_disk(address: u16) -> Outcome {
    let handle = system::create_device(address).context("device_create")?;
    let opened = open(handle, 3).await.map_err(|problem| format!("the disk: {problem}"))?;
    let Opened { device, memory, interrupt } = opened;
    device.negotiate(0, 0).context("the disk's features")?;
    let place = places(SIZE);
    let addresses = QueueAddresses {
        descriptors: memory.device_address(place.descriptors),
        available: memory.device_address(place.available),
        used: memory.device_address(place.used),
    };
    let notify = device.set_queue(0, SIZE, Some(0), addresses).context("the disk's queue")?;
    device.start();
    let mut queue = Queue::<u32>::new(SIZE).ok_or("a queue has another size")?;
    for (tag, sector) in [(1, 0_u64), (2, 1)] {
        let mut header = [0; 16];
        header[8..].copy_from_slice(&sector.to_le_bytes());
        memory.write(HEADER, &header);
        memory.write(OUTCOME, &[0xff]);
        let buffer = |offset, length, device_writes| Buffer {
            address: DmaBuffer::device_address(&memory, offset),
            length,
            device_writes,
        };
        queue.add(&memory, &[buffer(HEADER, 16, false), buffer(DATA, 512, true), buffer(OUTCOME, 1, true)], tag);
        if queue.publish(&memory) {
            device.notify(notify, 0);
        }
        let done = time::before(time::after(PATIENCE), interrupt.wait()).await;
        done.ok_or_else(|| format!("no interrupt for sector {sector}"))?;
        let taken = queue.take(&memory).context("the disk's answer")?;
        let mut outcome = [0xff];
        memory.read(OUTCOME, &mut outcome);
        if taken != Some((tag, 513)) || outcome != [0] {
            return Err(format!("sector {sector}: {taken:?}, outcome {outcome:?}"));
        }
        let mut data = [0; 512];
        memory.read(DATA, &mut data);
        let sum = data.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        log::info!("probe: sector {sector} has sum {sum:08x}");
    }
    Ok(())
}

/// A domain that makes calls on a device, and what it calls it.
struct Hand {
    puppet: Puppet,
    device: u64,
}

impl Hand {
    fn new(name: &str, device: Handle) -> Outcome<Hand> {
        let puppet = Puppet::start(&spec(name, 256))?;
        let device = puppet.child.handle.give(device, Rights::USE).context("handle_copy")?;
        Ok(Hand { puppet, device: device.0.into() })
    }

    /// Makes a call whose first argument is the device.
    fn call(&mut self, call: H, arguments: [u64; 4]) -> Outcome<Result<u64, Error>> {
        let [a, b, c, d] = arguments;
        self.puppet.order(call as u64, [self.device, a, b, c, d]);
        let answer = self.puppet.answer(PATIENCE).ok_or_else(|| format!("{call:?} does not return"))?;
        Ok(decode(answer.result))
    }

    fn expect(&mut self, call: H, arguments: [u64; 4], expected: Result<u64, Error>) -> Outcome {
        let result = self.call(call, arguments)?;
        (result == expected)
            .then_some(())
            .ok_or_else(|| format!("{call:?} {arguments:x?} gave {result:?}, not {expected:?}"))
    }
}

/// In the command register: memory is decoded, and reached.
const MEMORY: u64 = 2;
const MASTER: u64 = 4;

fn change_hands(address: u16) -> Outcome {
    let device = system::create_device(address).context("device_create")?;
    let info = || pci::info(device).context("device_info");
    let (mut driver, mut watcher) = (Hand::new("driver", device)?, Hand::new("watcher", device)?);
    let command = |hand: &mut Hand| -> Outcome<u64> {
        let word = hand.call(H::ConfigRead, [4, 2, 0, 0])?.context("config_read")?;
        Ok(word & (MEMORY | MASTER))
    };
    if command(&mut watcher)? & MASTER != 0 {
        return Err("the card could reach memory before anybody opened it".into());
    }
    driver.expect(H::DeviceMap, [4, 0, MMIO, 1], Err(Error::WrongState))?;
    driver.expect(H::DeviceOpen, [DMA, 0, 0, 0], Ok(0))?;
    watcher.expect(H::DeviceOpen, [DMA, 0, 0, 0], Err(Error::Busy))?;
    let bars = info()?.bars;
    for (bar, pages) in bars
        .iter()
        .zip(0_u64..)
        .filter(|(about, _)| about.hidden_pages != 0)
        .map(|(about, bar)| (bar, about.hidden.into()))
    {
        driver.expect(H::DeviceMap, [bar, pages, MMIO, 1], Err(Error::NotPermitted))?;
    }
    for offset in (0x10..0x28).step_by(4) {
        driver.expect(H::ConfigWrite, [offset, 4, 0, 0], Err(Error::NotPermitted))?;
    }
    driver.expect(H::ConfigWrite, [4, 2, 0, 0], Err(Error::NotPermitted))?;
    driver.expect(H::DeviceMap, [4, 0, MMIO, 1], Ok(0))?;
    // Registers are no memory that the core writes to.
    driver.expect(H::DeviceInfo, [MMIO, 0, 0, 0], Err(Error::BadAddress))?;
    driver.expect(H::DeviceInfo, [CONSOLE, 0, 0, 0], Ok(0))?;
    let port = driver.call(H::DeviceInterrupt, [0, 0, 0, 0])?.context("device_interrupt")?;
    driver.expect(H::DeviceInterrupt, [0, 0, 0, 0], Err(Error::Busy))?;
    if command(&mut watcher)? != MEMORY | MASTER || info()?.owner != u32::from(driver.puppet.child.created.id) {
        return Err("the open card is not the driver's".into());
    }
    log::info!("probe: the card's interrupt is port {port}");
    let owner = driver.puppet.child.handle;
    to_the_end(|| owner.reset(false)).context("domain_reset")?;
    if command(&mut watcher)? != MEMORY || info()?.owner != NO_OWNER {
        return Err("the card of a domain that was reset still reaches memory".into());
    }
    watcher.expect(H::DeviceOpen, [DMA, 0, 0, 0], Ok(0))?;
    watcher.expect(H::DeviceInterrupt, [0, 0, 0, 0], Ok(port))?;
    for hand in [driver, watcher] {
        let handle = hand.puppet.child.handle;
        to_the_end(|| handle.destroy()).context("domain_destroy")?;
    }
    if info()?.owner != NO_OWNER {
        return Err("the card of a domain that is gone is not free".into());
    }
    domain::close(device).context("handle_close")
}
