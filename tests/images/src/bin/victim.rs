//! A guest with an ordinary frontend, for tests of what a driver domain can do to it: asks for something, says what became of
//! it, and that it lives.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use unikernel::executor::spawn;
use unikernel::frontend::Devices;
use unikernel::frontend::block::{Disk, Failure};
use unikernel::frontend::network::Interface;
use unikernel::{Domain, time};

unikernel::main!(run);

/// Requests under way at once.
const REQUESTS: u64 = 8;
/// How often it says that it lives.
const SIGN: Duration = Duration::from_millis(200);
/// Least size of a frame.
const FRAME: usize = 60;

async fn run(domain: Domain) {
    let devices = Devices::new();
    let (disk, interface) = (devices.disk("xvda"), devices.interface("eth0"));
    devices.start();
    spawn(live());
    match domain.word("use") {
        Some("disk") => match read(&disk).await {
            Ok(()) => log::info!("victim: read all"),
            Err(failure) => log::info!("victim: read failed: {failure}"),
        },
        _ => send(&interface).await,
    }
    core::future::pending::<()>().await;
}

async fn live() {
    loop {
        log::info!("victim: alive");
        time::sleep(SIGN).await;
    }
}

async fn read(disk: &Disk) -> Result<(), Failure> {
    disk.ready().await;
    let buffer = disk.buffer(1)?;
    let reads: Vec<_> = (0..REQUESTS).map(|sector| disk.read(sector, buffer.sectors(0..1))).collect();
    for read in reads {
        read.await?;
    }
    Ok(())
}

async fn send(interface: &Interface) {
    let mac = interface.ready().await;
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    for _ in 0..REQUESTS {
        interface.send(&frame, false);
    }
}
