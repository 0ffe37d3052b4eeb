//! A guest whose frontends break the rules: what its command line names as `case`, once, on a disk or network interface that
//! dom0 gave it like everybody else's.
//!
//! It writes to the core's log what came of it, in one line that begins with `rogue`; what the others saw is for the test to
//! judge.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod block;
mod disk;
mod frames;
mod interface;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::time::Duration;

use protocol::control::{FromDomain, ToDomain};
use unikernel::executor::{Signal, race, spawn};
use unikernel::{Domain, control, time};

use disk::Disk;
use interface::Interface;

unikernel::main!(run);

/// How long an answer may take. One that comes at all comes much sooner.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing may come before it counts as nothing: long beside any answer on a machine that does something else, too.
const SILENCE: Duration = Duration::from_millis(400);

/// What a rogue found out: what it saw, or what went wrong before it could see anything.
type Found = Result<String, String>;

async fn run(domain: Domain) {
    let case = domain.word("case").unwrap_or_default().to_string();
    let (disk, interface) = (Rc::new(Disk::new(&case)), Rc::new(Interface::default()));
    let ready = Rc::new(Signal::default());
    spawn(obey(disk.clone(), interface.clone(), ready.clone()));
    ready.wait().await;
    let found = match case.split_once('/') {
        Some(("block", act)) => block::act(act, &disk).await,
        Some(("net", act)) => frames::act(act, &interface).await,
        _ => Err("`case` is block/ACT or net/ACT".into()),
    };
    match found {
        Ok(seen) => log::info!("rogue {case}: {seen}"),
        Err(fault) => log::error!("rogue {case}: failed: {fault}"),
    }
    core::future::pending::<()>().await;
}

/// Does what dom0 asks, honestly enough to be connected.
async fn obey(disk: Rc<Disk>, interface: Rc<Interface>, ready: Rc<Signal>) {
    let failed = |fault: String| control::failed(fault);
    control::serve(|message| match message {
        ToDomain::BlockOffer { peer, port, .. } => disk.offer(peer, port).unwrap_or_else(failed),
        ToDomain::BlockReady { limits, .. } => {
            disk.announce(limits);
            ready.raise();
            FromDomain::Done
        }
        ToDomain::NetworkOffer { peer, port, mac, .. } => interface.offer(peer, port, mac).unwrap_or_else(failed),
        ToDomain::NetworkReady { .. } => {
            ready.raise();
            FromDomain::Done
        }
        ToDomain::DeviceRelease { .. } | ToDomain::DeviceGone { .. } | ToDomain::BlockResized { .. } => {
            FromDomain::Done
        }
        other => control::refuse(other),
    })
    .await;
}

/// Looks again and again until `look` finds something, at most this long.
async fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let found = async {
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    let over = async {
        time::sleep(limit).await;
        None
    };
    race(found, over).await
}

/// An error as a sentence.
fn told(error: impl core::fmt::Debug) -> String {
    format!("{error:?}")
}
