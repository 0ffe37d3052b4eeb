//! The network domain's image: a bridge between guests, and to the first network device it was given.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

use heapless::String;
use network::bridge::PORTS;
use network::service::{Device, Network};
use network::virtio_net::{MEMORY, VirtioNet};
use protocol::handle::Handle;
use protocol::layout::PAGE_SIZE;
use unikernel::Domain;
use unikernel::backend::{Machine, Native, NetworkRings, run as serve};
use unikernel::pages::Page;
use unikernel::text::short;
use virtio::hardware::{Opened, open};

unikernel::main!(run);

/// Longest time that a frame may be with the device, in ns: the driver's own patience, and a reset after it.
const TIMEOUT_NS: u64 = 3_000_000_000;

async fn run(domain: Domain) {
    let machine = Native::new(&domain, NetworkRings::<Native>::RECORD);
    let mut wire = None;
    for &handle in &domain.arguments.devices {
        if wire.is_some() {
            log::warn!("one network device is used; the others are left alone");
            break;
        }
        match virtio_net(Handle(handle)).await {
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

/// Resets and starts a device.
async fn virtio_net(handle: Handle) -> Result<Device<Native>, String<128>> {
    let Opened { device, memory, .. } = open(handle, MEMORY / PAGE_SIZE as usize).await.map_err(short)?;
    let driver = VirtioNet::new(device, memory, Some(0)).map_err(|error| short(format_args!("{error:?}")))?;
    Ok(Box::new(driver))
}
