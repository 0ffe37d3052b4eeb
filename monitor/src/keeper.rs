//! Who keeps the guest's store, and with it what dom0 and the guest say to each other: devices, orders, memory.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::RefCell;
use core::time::Duration;

use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use unikernel::control::{self, Reply, failed};
use unikernel::event::Channel;
use unikernel::executor::{Signal, race, spawn, yield_now};
use unikernel::vm::GuestPage;
use unikernel::{memory, time};

use crate::bridge::Bridge;
use crate::devices::orders::{Order, Orders, set_memory_target};
use crate::devices::start::{Start, plant};
use crate::devices::{Devices, Word};
use crate::machine::Machine;
use crate::store::Store;

/// How long a guest may take to give memory back.
const BALLOON_TIME: Duration = Duration::from_secs(20);
/// How often one looks whether it did.
const BALLOON_LOOK: Duration = Duration::from_millis(100);

/// What is in the store, and what it means.
struct Contents {
    store: Store,
    devices: Devices<Reply>,
    orders: Orders,
    bridge: Bridge,
}

/// The store with its ring.
pub struct Keeper {
    machine: Arc<Machine>,
    page: GuestPage,
    contents: RefCell<Contents>,
    /// The monitor changed something.
    changed: Signal,
    /// There is something to be said to dom0.
    speak: Signal,
    /// Pages of the guest's RAM.
    pages: u64,
}

impl Keeper {
    /// A store with nothing in it but what every guest is told.
    pub fn new(machine: Arc<Machine>, page: GuestPage, start: &Start<'_>) -> Rc<Keeper> {
        let mut store = Store::default();
        let orders = plant(start, &mut store);
        let devices = Devices::new(&mut store);
        store.connect(&page);
        let bridge = Bridge::new(machine.clone());
        let contents = RefCell::new(Contents { store, devices, orders, bridge });
        let (changed, speak) = (Signal::default(), Signal::default());
        Rc::new(Keeper { machine, page, contents, changed, speak, pages: start.pages })
    }

    /// Starts what serves the guest and dom0. `ring` fires when the guest has something for the store.
    pub fn start(self: &Rc<Keeper>, ring: Port) {
        spawn(self.contents.borrow().bridge.clone().serve());
        spawn(self.clone().serve(ring));
        spawn(self.clone().speak());
    }

    /// Serves the ring for good.
    async fn serve(self: Rc<Keeper>, ring: Port) {
        let ring = Channel::new(ring);
        loop {
            match self.turn() {
                true => yield_now().await,
                false => race(ring.wait(), self.changed.wait()).await,
            }
        }
    }

    /// Answers the guest, and acts on what it changed. Gives whether there is more to do.
    fn turn(&self) -> bool {
        let mut contents = self.contents.borrow_mut();
        let Contents { store, devices, orders, bridge } = &mut *contents;
        let before = store.turn(&self.page);
        devices.changed(store, bridge);
        if let Some(order) = orders.acknowledged(store) {
            log::info!("the guest does as it is told: {order:?}");
        }
        let after = store.turn(&self.page);
        self.speak.raise();
        if before.notify || after.notify {
            self.machine.with(|guest| guest.raise(guest.store_port));
        }
        after.more
    }

    /// Says to dom0 what there is to be said, for good.
    async fn speak(self: Rc<Keeper>) {
        loop {
            let word = self.contents.borrow_mut().devices.next_word();
            let said = match word {
                Some(Word::Answer(reply, message)) => reply.give(message).await,
                Some(Word::Report(message)) => control::report(message).await,
                None => {
                    self.speak.wait().await;
                    Ok(())
                }
            };
            if let Err(error) = said {
                log::error!("cannot speak to dom0: {error:?}");
            }
        }
    }

    /// Does what dom0 says. Gives the answer, unless it is given later.
    pub fn message(self: &Rc<Keeper>, message: ToDomain, reply: Reply) -> Option<FromDomain> {
        let mut contents = self.contents.borrow_mut();
        let Contents { store, devices, orders, bridge } = &mut *contents;
        let rest = devices.message(message, reply, store, bridge);
        self.changed.raise();
        let (message, reply) = rest?;
        let mut give = |order| match orders.give(order, store) {
            Ok(()) => FromDomain::Done,
            Err(refused) => failed(refused),
        };
        Some(match message {
            ToDomain::Shutdown => give(Order::PowerOff),
            ToDomain::Reboot => give(Order::Reboot),
            ToDomain::MemoryTarget { pages } => {
                let target = pages.saturating_sub(self.beside()).min(self.pages);
                set_memory_target(target, store);
                spawn(until_used(pages, reply));
                return None;
            }
            other => control::refuse(other),
        })
    }

    /// Frames that the domain uses beside the guest's memory.
    fn beside(&self) -> u64 {
        let guest = self.machine.with(|guest| guest.memory.count());
        memory::info().map_or(0, |info| info.used_pages.saturating_sub(guest))
    }
}

/// Answers when the domain uses no more than `pages` frames, or when the guest took too long.
async fn until_used(pages: u64, reply: Reply) {
    let deadline = time::after(BALLOON_TIME);
    let answer = loop {
        let used = memory::info().map_or(u64::MAX, |info| info.used_pages);
        if used <= pages {
            break FromDomain::Done;
        }
        if time::now() >= deadline {
            break failed(format_args!("the guest still uses {used} pages: it has no balloon, or needs them"));
        }
        time::sleep(BALLOON_LOOK).await;
    };
    if let Err(error) = reply.give(answer).await {
        log::error!("cannot speak to dom0: {error:?}");
    }
}
