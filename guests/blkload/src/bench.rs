//! A load for measurements: 4 KiB reads whose contents nobody looks at. It says how long it took and counts nothing; who measures takes the
//! difference of two runs of different length.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;
use core::future::pending;

use load::report::say;
use unikernel::executor::{Signal, spawn};
use unikernel::frontend::block::{Disk, Failure};
use unikernel::time;

use crate::options::Options;

/// Sectors of a request: 4 KiB.
const SECTORS: u64 = 8;

/// Reads as often as the options say, at their depth, tells how long it took, and stays.
pub async fn run(disk: &Disk, options: &Options) -> Result<(), String> {
    let begun = time::now();
    read(disk, options.depth, options.requests).await.map_err(|failure| format!("bench: {failure}"))?;
    say(format_args!(r#"bench {{"ns":{}}}"#, time::now() - begun));
    pending().await
}

/// Reads so many times, with `depth` requests in flight.
async fn read(disk: &Disk, depth: usize, requests: u64) -> Result<(), Failure> {
    let places = disk.limits().ok_or(Failure::Gone)?.sectors / SECTORS;
    let (left, running) = (Rc::new(Cell::new(requests)), Rc::new(Cell::new(depth)));
    let (ended, failed) = (Rc::new(Signal::default()), Rc::new(Cell::new(None)));
    for _ in 0..depth {
        let (disk, buffer) = (disk.clone(), disk.buffer(1)?);
        let (left, running, ended, failed) = (left.clone(), running.clone(), ended.clone(), failed.clone());
        spawn(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let place = left.get() % places;
                if let Err(failure) = disk.read(place * SECTORS, buffer.whole()).await {
                    failed.set(Some(failure));
                    left.set(0);
                }
            }
            running.set(running.get() - 1);
            ended.raise();
        });
    }
    while running.get() > 0 {
        ended.wait().await;
    }
    failed.take().map_or(Ok(()), Err)
}
