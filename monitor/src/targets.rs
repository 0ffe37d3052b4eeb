//! What dom0 wants the guest to use of its memory and its CPUs.
//!
//! The guest is asked for it through its store, and does it in its own time. dom0 is answered when it has, or when it comes no
//! closer any more; then the guest is asked to go back to what it used before, so that it is not left half way.

use alloc::rc::Rc;
use core::time::Duration;

use protocol::control::FromDomain;
use protocol::layout::PAGE_SIZE;
use unikernel::control::{Reply, failed};
use unikernel::executor::spawn;
use unikernel::time;

use crate::devices::orders::{set_memory_target, set_online};
use crate::keeper::Keeper;

/// How long a guest may come no closer to what it is asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one looks.
const LOOK: Duration = Duration::from_millis(20);

/// What the guest and its monitor can have.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Frames of RAM that its kernel knows of.
    pub pages: u64,
    /// Frames of the domain beside them.
    pub beside: u64,
    /// Page tables that are not among those, and that there are once parts of all large pages were given back.
    pub tables: u64,
    /// CPUs.
    pub vcpus: u32,
}

/// What the guest is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Frames of RAM.
    pub pages: u64,
    /// CPUs.
    pub vcpus: u32,
}

const fn mib(pages: u64) -> u64 {
    pages.div_ceil((1 << 20) / PAGE_SIZE)
}

/// The least memory, in MiB, with which a kernel can do that knows of so much: it keeps tables for all of it. The curve is that of
/// the balloon driver of XenLinux.
pub const fn least(known: u64) -> u64 {
    match known {
        0..128 => 8 + known / 2,
        128..512 => 40 + known / 4,
        512..2048 => 104 + known / 8,
        _ => 296 + known / 32,
    }
}

/// Waits until nothing is left to be done, or until it becomes no less; gives what is left.
async fn settle(left: impl Fn() -> u64) -> u64 {
    let (mut least, mut deadline) = (u64::MAX, 0);
    loop {
        let now = left();
        if now < least {
            (least, deadline) = (now, time::after(PATIENCE));
        }
        if now == 0 || time::now() >= deadline {
            return now;
        }
        time::sleep(LOOK).await;
    }
}

async fn give(reply: Reply, answer: FromDomain) {
    if let Err(error) = reply.give(answer).await {
        log::error!("cannot speak to dom0: {error:?}");
    }
}

impl Keeper {
    /// Has the domain do with `pages` frames. Gives the answer, unless it is given later.
    pub(crate) fn set_pages(self: &Rc<Self>, pages: u64, reply: Reply) -> Option<FromDomain> {
        let (target, known) =
            (pages.saturating_sub(self.start.beside + self.start.tables).min(self.start.pages), mib(self.start.pages));
        if mib(target) < least(known) {
            let least = least(known);
            return Some(failed(format_args!("{least} MiB are the least for a guest that knows of {known}")));
        }
        let before = self.targets.get().pages;
        let untouched = self.machine.with(|guest| guest.untouched());
        if target < before && untouched > 0 {
            return Some(failed(format_args!(
                "it still gives back what its `maxmem` is more than its `memory`: {} MiB untouched",
                mib(untouched)
            )));
        }
        self.ask_for_pages(target);
        let keeper = self.clone();
        spawn(async move {
            let answer = match settle(|| keeper.machine.with(|guest| guest.pages().saturating_sub(target))).await {
                0 => FromDomain::Done,
                left => {
                    if keeper.targets.get().pages == target {
                        keeper.ask_for_pages(before);
                    }
                    let left = mib(left);
                    failed(format_args!("the guest keeps {left} MiB too much: it has no balloon, or needs them"))
                }
            };
            give(reply, answer).await;
        });
        None
    }

    fn ask_for_pages(&self, pages: u64) {
        self.targets.set(Targets { pages, ..self.targets.get() });
        let most = (pages + self.start.tables).min(self.start.pages);
        self.machine.with(|guest| guest.allow(most));
        self.write(|store| set_memory_target(pages, store));
    }

    /// Has the guest use its first `vcpus` CPUs. Gives the answer, unless it is given later. Only for CPUs that it loses is waited:
    /// whether it uses those that it gets is up to its user space.
    pub(crate) fn set_vcpus(self: &Rc<Self>, vcpus: u32, reply: Reply) -> Option<FromDomain> {
        let most = self.start.vcpus;
        if !(1..=most).contains(&vcpus) {
            return Some(failed(format_args!("the guest has 1 to {most} CPUs")));
        }
        let before = self.targets.get().vcpus;
        self.ask_for_vcpus(vcpus);
        let keeper = self.clone();
        spawn(async move {
            let answer = match settle(|| keeper.machine.with(|guest| guest.running_from(vcpus))).await {
                0 => FromDomain::Done,
                left => {
                    if keeper.targets.get().vcpus == vcpus {
                        keeper.ask_for_vcpus(before);
                    }
                    failed(format_args!("the guest does not let go of {left} of its CPUs"))
                }
            };
            give(reply, answer).await;
        });
        None
    }

    fn ask_for_vcpus(&self, vcpus: u32) {
        self.targets.set(Targets { vcpus, ..self.targets.get() });
        self.write(|store| (0..self.start.vcpus).for_each(|vcpu| set_online(vcpu, vcpu < vcpus, store)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_memory_grows_with_the_memory() {
        assert_eq!([0, 32, 127, 128, 512, 2048, 8192].map(least), [8, 24, 71, 72, 168, 360, 552]);
    }
}
