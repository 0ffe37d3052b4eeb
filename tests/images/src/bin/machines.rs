//! Makes domains with virtual machines as the first domain, several at once, and looks at how they end.
//!
//! Boot line: `count=` (2) of them, or `exits=` that one is to measure. The guests' grants are mapped meanwhile, and at the end nothing may be left.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use core::time::Duration;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use protocol::domain::{Reason, State};
use protocol::error::Error;
use protocol::event::Port;
use protocol::grant::PEER_FIRST_FREE;
use protocol::ring::Shared;
use test_images::child::{Child, Fuse, Stop, spec};
use test_images::pair::obituary;
use test_images::resources::Resources;
use test_images::{Context, Outcome, image, number, verdict};
use unikernel::domain::DomainHandle;
use unikernel::grant::{Access, Source, map};
use unikernel::{Domain, event, time};

/// Memory of a domain: 8 MiB.
const MEMORY_PAGES: u64 = 2048;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first entry of this domain's peer table that names no domain by its id.
const PEERS: u16 = 200;

unikernel::main!(start);

async fn start(domain: Domain) {
    let outcome = run(&domain).await;
    verdict::conclude(&domain, "machines", outcome);
}

async fn run(domain: &Domain) -> Outcome {
    let (count, exits) = (number(domain, "count", 2), number(domain, "exits", 0));
    if exits > 0 {
        return measure(exits).await;
    }
    // Once for the tables of this domain, without counting.
    round(1).await?;
    let before = Resources::now()?;
    round(count).await?;
    before.returned("after the machines").await
}

fn failed(stop: Stop) -> String {
    format!("making a machine: {stop:?}")
}

/// Makes a domain with a virtual machine, and starts it.
fn start_machine(words: &str) -> Outcome<Child> {
    let (image, fuse) = (image("machine")?, &mut Fuse::new(u64::MAX));
    let spec = protocol::domain::DomainSpec { guest_grant_frames: 8, ..spec("machine", MEMORY_PAGES) };
    let child = Child::create(&spec, fuse).map_err(failed)?;
    child.load(&image, words, fuse).map_err(failed)?;
    child.start(&image, fuse).map_err(failed)?;
    Ok(child)
}

/// Whether a machine has ended; an error if it did not mean to.
fn has_ended(child: &Child) -> Outcome<bool> {
    let info = child.handle.info().context("domain_info")?;
    let died = info.state == State::Dead as u32;
    if died && info.reason != Reason::Shutdown as u32 {
        return Err(format!("a machine {}", obituary(child)));
    }
    Ok(died)
}

/// Lets one measure its exits.
async fn measure(exits: u64) -> Outcome {
    let child = start_machine(&format!("exits={exits}"))?;
    while !has_ended(&child)? {
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn round(count: u64) -> Outcome {
    let mut machines = Vec::new();
    for index in 0..count {
        let child = start_machine(&format!("tag={} spin=300", index + 1))?;
        // The peer's other face, beside the one that its maker got.
        let face = DomainHandle::SELF.set_peer(PEERS + index as u16, &child.handle, true);
        face.context("domain_peer")?;
        machines.push(child);
    }
    let plain = Child::create(&spec("plain", 200), &mut Fuse::new(u64::MAX)).map_err(failed)?;
    if DomainHandle::SELF.set_peer(PEER_FIRST_FREE, &plain.handle, true) != Err(Error::Invalid) {
        return Err("a domain without a virtual machine has a guest".into());
    }
    plain.destroy()?;
    let deadline = time::after(PATIENCE);
    let (mut ended, mut mapped) = (alloc::vec![false; machines.len()], alloc::vec![false; machines.len()]);
    while ended.contains(&false) {
        for (index, child) in machines.iter().enumerate() {
            ended[index] = has_ended(child)?;
            let source = Source { peer: PEERS + index as u16, reference: 8 };
            if let Ok(page) = map(source, Access::Read) {
                let mut text = [0; 12];
                page.read(0, &mut text);
                mapped[index] |= &text == b"from a guest";
            }
            event::send(Port(child.created.control_port)).context("event_send")?;
        }
        if time::now() >= deadline {
            return Err("the machines do not end".into());
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    if mapped.contains(&false) {
        return Err("a guest's grant could not be mapped".into());
    }
    machines.into_iter().try_for_each(Child::destroy)
}
