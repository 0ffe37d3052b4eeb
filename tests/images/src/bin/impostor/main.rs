//! A driver domain that breaks the rules of the rings: what its command line names as `case`, once, on the first connection that
//! dom0 gives it.
//!
//! To dom0 it is a driver domain like another; what the guest at the other end makes of it is for the test to judge.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod block;
mod network;

use alloc::string::ToString;
use core::time::Duration;

use protocol::connection::{DiskInfo, DiskLimits, Frontend, Offload, Statistics};
use protocol::control::{FromDomain, ToDomain};
use protocol::error::Result;
use protocol::grant::GrantRef;
use protocol::ring::Shared;
use protocol::ring::net::{RECEIVE, TRANSMIT};
use protocol::ring::sring::{Back, Geometry, RESPONSE_PRODUCER};
use unikernel::event::Channel;
use unikernel::executor::spawn;
use unikernel::grant::{Access, Mapped, Source, map};
use unikernel::text::short;
use unikernel::{Domain, control, time};

unikernel::main!(run);

/// The one disk.
const LIMITS: DiskLimits =
    DiskLimits { sectors: 1024, sector_size: 512, read_only: false, flush: true, discard: true, indirect_segments: 0 };
/// Of a disk that cannot be.
const ABSURD: DiskLimits = DiskLimits {
    sectors: u64::MAX,
    sector_size: 3,
    read_only: false,
    flush: true,
    discard: true,
    indirect_segments: 60_000,
};
/// How often a ring is looked at.
const LOOK: Duration = Duration::from_millis(1);

async fn run(domain: Domain) {
    let case = domain.word("case").unwrap_or_default().to_string();
    log::info!("impostor: {case}");
    control::serve(move |message| match message {
        ToDomain::BlockAttach(attach) => match Wire::open(attach.frontend, attach.ring.first(), block::RING) {
            Ok(wire) => {
                let limits = if case == "r9-limits" { ABSURD } else { LIMITS };
                spawn(block::act(case.clone(), wire));
                FromDomain::BlockAttached { limits, replayed: 0 }
            }
            Err(error) => control::failed(error),
        },
        ToDomain::NetworkAttach(attach) => {
            let transmit = Wire::open(attach.frontend, Some(&attach.transmit), TRANSMIT);
            match (transmit, Wire::open(attach.frontend, Some(&attach.receive), RECEIVE)) {
                (Ok(transmit), Ok(receive)) => {
                    spawn(network::act(case.clone(), transmit, receive));
                    FromDomain::NetworkAttached { offload: Offload::default() }
                }
                (Err(error), _) | (_, Err(error)) => control::failed(error),
            }
        }
        ToDomain::DiskAt { index: 0 } => {
            FromDomain::Disk(Some(DiskInfo { name: short("null0"), label: short(""), limits: LIMITS, users: 0 }))
        }
        ToDomain::DiskAt { .. } => FromDomain::Disk(None),
        ToDomain::BridgePortAt { .. } => FromDomain::BridgePort(None),
        ToDomain::Statistics { .. } => FromDomain::Statistics(Statistics::default()),
        ToDomain::Detach { .. } => FromDomain::Done,
        other => control::refuse(other),
    })
    .await;
}

/// The answering end of a ring, without the library that keeps driver domains honest.
struct Wire {
    page: Mapped,
    back: Back,
    channel: Channel,
}

impl Wire {
    fn open(frontend: Frontend, page: Option<&GrantRef>, geometry: Geometry) -> Result<Wire> {
        let reference = page.copied().unwrap_or_default();
        let page = map(Source { peer: frontend.peer, reference }, Access::Write)?;
        Ok(Wire { page, back: Back::resume(geometry, 0, 0), channel: Channel::new(frontend.port) })
    }

    /// Waits for so many requests and takes them.
    async fn requests<const N: usize, const SIZE: usize>(&mut self) -> [[u8; SIZE]; N] {
        let mut taken = [[0; SIZE]; N];
        for request in &mut taken {
            while !matches!(self.back.peek(&self.page, request), Ok(Some(_))) {
                let _ = self.back.rearm(&self.page);
                time::sleep(LOOK).await;
            }
            self.back.take();
        }
        taken
    }

    /// Answers and tells the guest.
    fn answer(&mut self, responses: &[&[u8]]) {
        for response in responses {
            self.back.write(&self.page, response);
        }
        let _ = self.back.publish(&self.page);
        self.tell();
    }

    /// Publishes any index as the response producer.
    fn claim(&self, index: u32) {
        self.page.store_u32(RESPONSE_PRODUCER, index);
        self.tell();
    }

    fn tell(&self) {
        // A guest that closed the connection does not hear it.
        let _ = self.channel.send();
    }
}
