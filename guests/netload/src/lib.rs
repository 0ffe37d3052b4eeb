//! Network load that proves what it receives: between two instances of this guest, in numbered Ethernet frames whose every
//! byte follows from their number.
//!
//! Instances find each other by broadcasts. Frames may be lost, as on a wire; one that comes twice, or is not what was sent, is
//! wrong. Words of the command line: `interface=` (`eth0`), `seconds=` (10, 0 is for ever), `size=` of the largest frame
//! (1514), `depth=` frames that may be under way (64), `send=no` only answers, `report=` seconds between two reports (1). For
//! measurements there are `mode=send|receive|flood` and `frames=`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bench;
mod flow;
mod frame;
mod options;
mod traffic;

use load::words::or_end;
use unikernel::frontend::Devices;
use unikernel::{Domain, exit};

use options::{Mode, Options};

/// Runs the load; the domain ends with code 0 if all was right.
pub async fn run(domain: Domain) {
    let options = or_end("netload", Options::from_words(domain.words()));
    let devices = Devices::new();
    let interface = devices.interface(&options.interface);
    devices.start();
    let mac = interface.ready().await;
    let good = match options.mode {
        Mode::Load => traffic::run(interface, mac, options).await,
        Mode::Send => bench::send(&interface, mac, &options).await,
        Mode::Receive => bench::receive(&interface, mac).await,
        Mode::Flood => bench::flood(&interface, mac, &options).await,
    };
    exit::shutdown(if good { 0 } else { 1 });
}
