//! The one that asks, and measures.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use protocol::error::Error;
use protocol::layout::PAGE_SIZE;
use unikernel::domain::DomainHandle;
use unikernel::event::{self, Channel};
use unikernel::grant::{Access, Copies, Mapped, Source, map, map_batch, unmap_batch};
use unikernel::{time, vcpu};

use crate::samples::{ROUNDS, Samples};
use crate::{Partner, mailbox};

/// How long the other one has to grant its pages.
const GRANT_PATIENCE: Duration = Duration::from_secs(10);
/// Time for the other one to be waiting again before it gets the next event, wherever it runs.
const SETTLE: Duration = Duration::from_micros(50);
/// Times a whole batch is measured.
const BATCH_ROUNDS: usize = 100;

/// A page to copy into, as a device driver would have it.
#[derive(Clone)]
#[repr(align(4096))]
struct Buffer([u8; PAGE_SIZE as usize]);

/// Measures everything between two domains.
pub async fn measure(partner: Partner) -> Result<(), String> {
    let page = open(partner).await?;
    let own = DomainHandle::SELF.vcpu_info(0).map_err(|error| format!("no vCPU information: {error}"))?.cpu;
    let place = if mailbox::ready(&page) == Some(own) { "same_cpu" } else { "other_cpu" };
    events(partner, &page, place).await.map_err(|error| format!("events: {error}"))?;
    grants(partner).map_err(|error| format!("grants: {error}"))
}

/// Maps the mailbox, once it is granted.
async fn open(partner: Partner) -> Result<Mapped, String> {
    let deadline = time::after(GRANT_PATIENCE);
    let source = Source { peer: partner.peer, reference: mailbox::REFERENCE };
    loop {
        let reason = match map(source, Access::Write) {
            Ok(page) if mailbox::ready(&page).is_some() => return Ok(page),
            Ok(_) => Error::BadGrant,
            Err(error) => error,
        };
        if time::now() > deadline {
            return Err(format!("the partner's mailbox cannot be mapped: {reason}"));
        }
        time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sends an event to the other one, which waits, and gets one back.
async fn events(partner: Partner, page: &Mapped, place: &str) -> Result<(), Error> {
    let channel = Channel::new(partner.port);
    mailbox::want(page, ROUNDS as u32);
    channel.send()?;
    channel.wait().await;
    let (mut send, mut one_way, mut round_trip) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        settle();
        let start = time::ticks();
        channel.send()?;
        let sent = time::ticks();
        loop {
            event::block(u64::MAX);
            if event::take(partner.port) {
                break;
            }
        }
        let back = time::ticks();
        send.add(start, sent);
        one_way.add(start, mailbox::woken(page));
        round_trip.add(start, back);
    }
    send.report(&format!("event_send_{place}"), 1);
    one_way.report(&format!("event_to_waiting_{place}"), 1);
    round_trip.report(&format!("event_round_trip_{place}"), 1);
    Ok(())
}

/// Lets the other one go back to waiting.
fn settle() {
    vcpu::yield_now();
    let until = time::after(SETTLE);
    while time::now() < until {
        core::hint::spin_loop();
    }
}

/// Maps, unmaps and copies pages of the other one.
fn grants(partner: Partner) -> Result<(), Error> {
    let sources: Vec<Source> = (1..=mailbox::PAGES as u32)
        .map(|at| Source { peer: partner.peer, reference: mailbox::REFERENCE + at })
        .collect();
    for (count, rounds) in [(1, ROUNDS), (mailbox::PAGES, BATCH_ROUNDS)] {
        let sources = &sources[..count];
        let (mut mapping, mut unmapping, mut both) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..rounds {
            let start = time::ticks();
            let pages = map_batch(sources, Access::Write)?;
            let mapped = time::ticks();
            if let Some(error) = pages.iter().find_map(|page| page.as_ref().err().copied()) {
                return Err(error);
            }
            let before = time::ticks();
            unmap_batch(pages.into_iter().flatten());
            let after = time::ticks();
            mapping.add(start, mapped);
            unmapping.add(before, after);
            both.add(0, (mapped - start) + (after - before));
        }
        mapping.report(&format!("grant_map_x{count}"), count as u64);
        unmapping.report(&format!("grant_unmap_x{count}"), count as u64);
        both.report(&format!("grant_map_unmap_x{count}"), count as u64);
    }
    for (count, rounds) in [(1, ROUNDS), (mailbox::PAGES, BATCH_ROUNDS)] {
        let mut buffers: Box<[Buffer]> = alloc::vec![Buffer([0; PAGE_SIZE as usize]); count].into_boxed_slice();
        let mut samples = Samples::default();
        for _ in 0..rounds {
            let start = time::ticks();
            let mut copies = Copies::new();
            for (source, buffer) in sources.iter().zip(&mut buffers) {
                copies.read(*source, 0, &mut buffer.0)?;
            }
            copies.run()?;
            samples.add(start, time::ticks());
        }
        samples.report(&format!("grant_copy_4096_x{count}"), count as u64);
    }
    Ok(())
}
