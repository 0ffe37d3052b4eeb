//! A guest that measures: what hypercalls, events and grants cost.
//!
//! With `solo` on its command line it measures alone. Two of them that dom0 connected measure between each other: the one
//! that was told by its command line asks, the other answers. Under an emulator that counts instructions the unit of the time
//! stamp counter is one instruction, and the numbers are exact.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod answer;
mod ask;
mod mailbox;
mod samples;
mod solo;

use protocol::event::Port;
use unikernel::{Domain, control, executor, println};

unikernel::main!(run);

/// The other one of a pair.
#[derive(Clone, Copy, Debug)]
struct Partner {
    port: Port,
    /// Index in this domain's peer table.
    peer: u16,
}

/// Reads `<name>:<port>:<peer>`.
fn partner(word: &str) -> Option<Partner> {
    let mut parts = word.rsplit(':');
    let peer = parts.next()?.parse().ok()?;
    let port = Port(parts.next()?.parse().ok()?);
    parts.next().map(|_| Partner { port, peer })
}

async fn run(domain: Domain) {
    let solo = domain.words().any(|word| word == "solo");
    match domain.word("connect").map(partner) {
        _ if solo => solo::measure_all(),
        Some(Some(partner)) => {
            executor::spawn(async {
                control::serve(control::refuse).await;
            });
            match ask::measure(partner).await {
                Ok(()) => samples::done(),
                Err(reason) => println!("{}: {reason}", domain.name()),
            }
        }
        Some(None) => println!("{}: `connect=` names no domain, port and peer", domain.name()),
        None => answer::serve().await,
    }
}
