//! The load `blkload mode=bench` with the disk domain's driver linked into it: no ring, no other domain. The difference is what a
//! driver domain costs.
//!
//! Words of the command line: `requests=`, and `depth=` how many are in flight.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::pending;

use disk::disk::{Disk, Operation, Piece};
use disk::virtio::{PAGES, Virtio};
use protocol::handle::Handle;
use protocol::layout::PAGE_SIZE;
use protocol::ring::block::SECTORS_PER_PAGE;
use test_images::{Outcome, number};
use unikernel::device::{DmaBuffer, Msi};
use unikernel::executor::{Signal, race, spawn, yield_now};
use unikernel::{Domain, exit, time};
use virtio::hardware::{Bars, Opened, open};

unikernel::main!(run);

async fn run(domain: Domain) {
    match read(&domain).await {
        Ok(ns) => {
            log::info!(r#"bench {{"ns":{ns}}}"#);
            pending().await
        }
        Err(reason) => {
            log::error!("linked: {reason}");
            exit::shutdown(1);
        }
    }
}

/// A disk that tasks share.
struct Shared {
    disk: RefCell<Virtio<Bars, DmaBuffer>>,
    /// By tag: the request is done.
    answered: Vec<Signal>,
    work: Signal,
    failed: Cell<bool>,
    left: Cell<u64>,
    running: Cell<usize>,
}

/// Gives how long it took, in ns.
async fn read(domain: &Domain) -> Outcome<u64> {
    let (requests, depth) = (number(domain, "requests", 1), number(domain, "depth", 1) as usize);
    let handle = Handle(*domain.arguments.devices.first().ok_or("there is no device")?);
    let Opened { device, memory, interrupt } =
        open(handle, PAGES + depth).await.map_err(|problem| format!("{problem}"))?;
    // Behind the pages that the driver uses: one for each read under way.
    let pages: Vec<u64> = (PAGES..PAGES + depth).map(|page| memory.device_address(page * PAGE_SIZE as usize)).collect();
    let virtio = Virtio::new(device, memory).map_err(|error| format!("the device: {error:?}"))?;
    let places = virtio.properties().sectors / u64::from(SECTORS_PER_PAGE);
    let shared = Rc::new(Shared {
        disk: RefCell::new(virtio),
        answered: (0..depth).map(|_| Signal::default()).collect(),
        work: Signal::default(),
        failed: Cell::new(false),
        left: Cell::new(requests),
        running: Cell::new(depth),
    });
    let begun = time::now();
    for (tag, address) in pages.into_iter().enumerate() {
        let shared = shared.clone();
        let piece = Piece::own(address, SECTORS_PER_PAGE.into());
        spawn(async move {
            while shared.left.get() > 0 {
                shared.left.set(shared.left.get() - 1);
                let sector = shared.left.get() % places * u64::from(SECTORS_PER_PAGE);
                if shared.disk.borrow_mut().submit(tag as u32, Operation::Read { sector }, &[piece]).is_err() {
                    shared.failed.set(true);
                    break;
                }
                shared.work.raise();
                shared.answered[tag].wait().await;
            }
            shared.running.set(shared.running.get() - 1);
            shared.work.raise();
        });
    }
    serve(&shared, &interrupt).await?;
    if shared.failed.get() { Err("a read failed".into()) } else { Ok(time::now() - begun) }
}

/// Shows the device what the tasks submitted, and tells them what it did, until all of them have ended.
async fn serve(shared: &Shared, interrupt: &Msi) -> Result<(), String> {
    while shared.running.get() > 0 {
        let more = {
            let mut disk = shared.disk.borrow_mut();
            let mut some = false;
            while let Some((tag, done)) = disk.completed().map_err(|fault| fault.0)? {
                shared.failed.set(shared.failed.get() | done.is_err());
                shared.answered[tag as usize].raise();
                some = true;
            }
            disk.kick();
            some || disk.rearm()
        };
        match more {
            true => yield_now().await,
            false => race(interrupt.wait(), shared.work.wait()).await,
        }
    }
    Ok(())
}
