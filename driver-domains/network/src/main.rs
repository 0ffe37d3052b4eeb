//! The network domain's image: a bridge between guests, and to the first network device it was given.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use core::time::Duration;

use heapless::String;
use network::bridge::PORTS;
use network::e1000::registers::{Bar, is_reset, start_reset};
use network::e1000::{self, E1000};
use network::service::{Device, Network};
use network::virtio_net::{MEMORY, VirtioNet};
use protocol::error::Error;
use protocol::handle::Handle;
use protocol::layout::PAGE_SIZE;
use unikernel::backend::{Machine, Native, NetworkRings, run as serve};
use unikernel::device::{DmaBuffer, PciDevice, pci};
use unikernel::pages::Page;
use unikernel::text::short;
use unikernel::{Domain, time};
use virtio::hardware::{Opened, open};

unikernel::main!(run);

/// Longest time that a frame may be with the device, in ns: the driver's own patience, and a reset after it.
const TIMEOUT_NS: u64 = 10_000_000_000;

/// Longest time that a reset of an Intel card may take, which is some microseconds by its manual.
const RESET_TIME: Duration = Duration::from_secs(1);
/// Time between two looks at it meanwhile.
const RESET_STEP: Duration = Duration::from_millis(1);

async fn run(domain: Domain) {
    let machine = Native::new(&domain, NetworkRings::<Native>::RECORD);
    let mut wire = None;
    for &handle in &domain.arguments.devices {
        if wire.is_some() {
            log::warn!("one network device is used; the others are left alone");
            break;
        }
        match driver(Handle(handle)).await {
            Ok(found) => wire = Some(found),
            Err(problem) => log::error!("a network device cannot be used: {problem}"),
        }
    }
    let (Ok(headers), Ok(scratch)) = (Page::new(), Page::new()) else {
        panic!("no memory for two pages; give the domain more (`memory`)");
    };
    let connections = machine.places().min(PORTS - 1) as u16;
    let timeout = if wire.is_some() { TIMEOUT_NS } else { 0 };
    let network = Network::new(wire, connections, headers.into_area(), scratch.into_area());
    serve(machine, network, timeout).await;
}

/// Resets and starts a device, with the driver for its kind.
async fn driver(handle: Handle) -> Result<Device<Native>, String<128>> {
    let about = pci::info(handle).map_err(|error| short(format_args!("it is not there: {error}")))?;
    match (about.vendor, about.device) {
        e1000::ID => intel(handle).await,
        _ => virtio_net(handle).await,
    }
}

async fn intel(handle: Handle) -> Result<Device<Native>, String<128>> {
    let refused = |error: Error| short(format_args!("the core refuses it: {error}"));
    let device = PciDevice::open(handle).map_err(refused)?;
    let registers = device.map_bar(e1000::BAR).map_err(refused)?;
    let registers = Bar::new(registers).ok_or_else(|| short("its BAR does not hold its registers"))?;
    start_reset(&registers);
    let done = async {
        while !is_reset(&registers) {
            time::sleep(RESET_STEP).await;
        }
    };
    let done = time::before(time::after(RESET_TIME), done).await;
    done.ok_or_else(|| short("it does not come out of its reset"))?;
    // Before, it may still hold addresses that a former driver gave it.
    device.enable_dma().map_err(refused)?;
    let memory = DmaBuffer::new(&device, e1000::MEMORY / PAGE_SIZE as usize).map_err(refused)?;
    let driver = E1000::new(registers, memory).map_err(|problem| short(format_args!("{problem:?}")))?;
    Ok(Box::new(driver))
}

async fn virtio_net(handle: Handle) -> Result<Device<Native>, String<128>> {
    let Opened { device, memory, .. } = open(handle, MEMORY / PAGE_SIZE as usize).await.map_err(short)?;
    let driver = VirtioNet::new(device, memory, Some(0)).map_err(|error| short(format_args!("{error:?}")))?;
    Ok(Box::new(driver))
}
