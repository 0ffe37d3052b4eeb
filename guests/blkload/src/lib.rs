//! Block load that proves what it reads: no request is lost or answered twice, each read finds what the last write before it
//! left, and requests that overlap are carried out in the order in which they were issued.
//!
//! **It overwrites the beginning of its disk.** Words of the command line: `device=` (`xvda`), `seconds=` (10), `requests=` (no limit),
//! `depth=` (32), `sectors=` the part of the disk that is used (32768), `mode=random|seq|read|bench`, `check=strict|relaxed`,
//! `gone=fail|wait` when the disk is taken away,
//! `seed=`, `report=` seconds between two reports (1).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bench;
mod choice;
mod counts;
mod options;
mod oracle;
mod worker;

use alloc::rc::Rc;

use load::report::say;
use load::words::or_end;
use unikernel::frontend::Devices;
use unikernel::{Domain, exit};

use options::{Mode, Options};

/// Runs the load; the domain ends with code 0 if all was right.
pub async fn run(domain: Domain) {
    let options = or_end("blkload", Options::from_words(domain.words()));
    let devices = Devices::new();
    let disk = devices.disk(&options.device);
    devices.start();
    let limits = disk.ready().await;
    say(format_args!("blkload: {} has {} sectors", disk.name(), limits.sectors));
    let outcome = match options.mode {
        Mode::Bench => bench::run(&disk, &options).await,
        _ => worker::run(&disk, Rc::new(options)).await,
    };
    exit::shutdown(match outcome {
        Ok(()) => 0,
        Err(reason) => {
            say(format_args!("blkload: {reason}"));
            1
        }
    });
}
