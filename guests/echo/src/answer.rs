//! The one that answers: grants pages to whoever dom0 connects, and sends an event back for each it gets.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use protocol::control::{FromDomain, ToDomain};
use protocol::error::Result;
use unikernel::domain::DomainHandle;
use unikernel::event::{self, Channel};
use unikernel::executor::{Signal, race, spawn};
use unikernel::grant::{Access, Granted};
use unikernel::pages::Page;
use unikernel::{control, println, time};

use crate::samples::ROUNDS;
use crate::{Partner, mailbox};

/// Longest wait for an event while the other one measures; it is dead if it takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves one partner after the other.
pub async fn serve() {
    let (next, arrived) = (Rc::new(Cell::new(None)), Rc::new(Signal::default()));
    let (slot, signal) = (next.clone(), arrived.clone());
    spawn(async move {
        control::serve(|message| match message {
            ToDomain::Connected { port, peer, .. } => {
                slot.set(Some(Partner { port, peer }));
                signal.raise();
                FromDomain::Done
            }
            other => control::refuse(other),
        })
        .await;
    });
    println!("echo: waiting to be connected");
    loop {
        arrived.wait().await;
        while let Some(partner) = next.take() {
            if let Err(error) = race(answer(partner), abandoned(&arrived)).await {
                println!("echo: cannot serve peer {}: {error}", partner.peer);
            }
        }
    }
}

/// Ends when there is another partner.
async fn abandoned(arrived: &Signal) -> Result<()> {
    arrived.wait().await;
    Ok(())
}

async fn answer(partner: Partner) -> Result<()> {
    let granted: Vec<Granted> =
        (0..=mailbox::PAGES).map(|_| Granted::new(Page::new()?, partner.peer, Access::Write)).collect::<Result<_>>()?;
    let Some(page) = granted.first().map(Granted::area) else { return Ok(()) };
    mailbox::set_ready(page, DomainHandle::SELF.vcpu_info(0)?.cpu);
    let channel = Channel::new(partner.port);
    loop {
        channel.wait().await;
        let rounds = mailbox::take_wanted(page).min(2 * ROUNDS as u32);
        if rounds == 0 {
            continue;
        }
        channel.send()?;
        for _ in 0..rounds {
            let Some(woken) = wait(partner) else { break };
            mailbox::set_woken(page, woken);
            channel.send()?;
        }
    }
}

/// Waits for the next event without running any task, so that what is measured is the core; gives the counter at the moment
/// it woke. `None` if the other one is silent for too long.
fn wait(partner: Partner) -> Option<u64> {
    let deadline = time::after(PATIENCE);
    loop {
        event::block(deadline);
        let woken = time::ticks();
        if event::take(partner.port) {
            return Some(woken);
        }
        if time::now() >= deadline {
            return None;
        }
    }
}
