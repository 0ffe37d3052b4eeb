//! The network domain's image: a bridge between guests, and to the first network device it was given.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

use network::bridge::PORTS;
use network::service::{Device, Network};
use unikernel::Domain;
use unikernel::backend::{Machine, Native, NetworkRings, run as serve};
use unikernel::pages::Page;

unikernel::main!(run);

/// Longest time that a frame may be with the device, in ns: the driver's own patience, and a reset after it.
const TIMEOUT_NS: u64 = 3_000_000_000;

async fn run(domain: Domain) {
    let machine = Native::new(&domain, NetworkRings::<Native>::RECORD);
    let wire: Option<Device<Native>> = None;
    let (Ok(headers), Ok(scratch)) = (Page::new(), Page::new()) else {
        panic!("no memory for two pages; give the domain more (`memory`)");
    };
    let connections = machine.places().min(PORTS - 1) as u16;
    let timeout = if wire.is_some() { TIMEOUT_NS } else { 0 };
    let network = Network::new(wire, connections, headers.into_area(), scratch.into_area());
    serve(machine, network, timeout).await;
}
