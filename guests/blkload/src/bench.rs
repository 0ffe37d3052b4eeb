//! What a request costs, in ticks: instructions, under an emulator that counts them.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

use load::report::say;
use unikernel::domain::DomainHandle;
use unikernel::executor::{Signal, spawn};
use unikernel::frontend::block::{Disk, Failure};
use unikernel::time;

use crate::options::Options;

/// Requests that are measured at each depth.
const REQUESTS: u64 = 4096;
/// Requests before that, after which everything is mapped and warm.
const WARM_UP: u64 = 256;
/// Sectors of a request: 4 KiB.
const SECTORS: u64 = 8;

/// Measures reads of 4 KiB at depth 1 and at the depth of the options.
pub async fn run(disk: &Disk, options: &Options) -> Result<(), String> {
    for depth in [1, options.depth] {
        measure(disk, depth, WARM_UP).await.map_err(|failure| format!("bench: {failure}"))?;
        let before = Sample::take(disk)?;
        measure(disk, depth, REQUESTS).await.map_err(|failure| format!("bench: {failure}"))?;
        let after = Sample::take(disk)?;
        let per = |of: fn(&Sample) -> u64| (of(&after) - of(&before)) as f64 / REQUESTS as f64;
        say(format_args!(
            r#"bench {{"name":"block_read_4096_depth_{depth}","requests":{REQUESTS},"ticks":{:.1},"hypercalls":{:.3},"sent":{:.3},"wakeups":{:.3}}}"#,
            per(|sample| sample.ticks),
            per(|sample| sample.hypercalls),
            per(|sample| sample.sent),
            per(|sample| sample.wakeups),
        ));
    }
    say(format_args!(r#"bench {{"done":true}}"#));
    Ok(())
}

/// Counters at one moment.
struct Sample {
    ticks: u64,
    hypercalls: u64,
    sent: u64,
    wakeups: u64,
}

impl Sample {
    fn take(disk: &Disk) -> Result<Sample, String> {
        let info = DomainHandle::SELF.info().map_err(|error| format!("no information: {error}"))?;
        let traffic = disk.traffic();
        Ok(Sample { ticks: time::ticks(), hypercalls: info.hypercalls, sent: traffic.sent, wakeups: traffic.wakeups })
    }
}

/// Reads so many times, with `depth` requests in flight.
async fn measure(disk: &Disk, depth: usize, requests: u64) -> Result<(), Failure> {
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
