//! A guest that serves a web page: the files of a FAT partition, read over a block ring, sent over a network ring.
//!
//! Words of its command line: `device=` the disk (`xvda`), `interface=` the network interface (`eth0`), `ip=` address and prefix and
//! `gw=` gateway for networks without DHCP, `port=` (80). Either driver domain may be restarted at any time: block requests
//! are then answered late, and TCP sends again what was lost.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address;
pub mod cache;
pub mod files;
pub mod http;
pub mod server;
pub mod stack;

use alloc::rc::Rc;

use unikernel::frontend::Devices;
use unikernel::{Domain, println};

use cache::Cache;

/// Where web servers listen.
const PORT: u16 = 80;

/// Serves until the domain ends.
pub async fn run(domain: Domain) {
    let devices = Devices::new();
    let (disk, interface) = (
        devices.disk(domain.word("device").unwrap_or("xvda")),
        devices.interface(domain.word("interface").unwrap_or("eth0")),
    );
    devices.start();
    let port = domain.word("port").and_then(|word| word.parse().ok()).unwrap_or(PORT);
    let fallback = address::Fallback::from_words(domain.word("ip"), domain.word("gw"));
    let limits = disk.ready().await;
    let cache = match Cache::new(disk.clone()) {
        Ok(cache) => Rc::new(cache),
        Err(failure) => return println!("web: no memory for {}: {failure}", disk.name()),
    };
    println!("web: {} has {} MiB", disk.name(), limits.sectors / 2048);
    let stack = stack::Stack::new(interface).await;
    server::start(&stack, &cache, port);
    stack.run(fallback).await;
}
