//! Who keeps the guest's store, and with it what dom0 and the guest say to each other: devices, orders, memory.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};

use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use unikernel::control::{self, Reply, failed};
use unikernel::event::Channel;
use unikernel::executor::{Signal, race, spawn, yield_now};
use unikernel::vm::GuestPage;
use unikernel::vm::memory::LARGE_PAGE;

use crate::bridge::Bridge;
use crate::devices::orders::{Order, Orders};
use crate::devices::start::{Start, plant};
use crate::devices::{Devices, Word};
use crate::machine::Machine;
use crate::store::Store;
use crate::targets::{Share, Targets};

/// What is in the store, and what it means.
struct Contents {
    store: Store,
    devices: Devices<Reply>,
    orders: Orders,
    bridge: Bridge,
}

/// The store with its ring.
pub struct Keeper {
    pub(crate) machine: Arc<Machine>,
    page: GuestPage,
    contents: RefCell<Contents>,
    /// The monitor changed something.
    changed: Signal,
    /// There is something to be said to dom0.
    speak: Signal,
    /// What the guest is to use.
    pub(crate) targets: Cell<Targets>,
    /// What there is.
    pub(crate) start: Share,
}

impl Keeper {
    /// A store with nothing in it but what every guest is told. The domain has `beside` frames for the monitor.
    pub fn new(machine: Arc<Machine>, page: GuestPage, start: &Start<'_>, beside: u64) -> Rc<Keeper> {
        let mut store = Store::default();
        let orders = plant(start, &mut store);
        let devices = Devices::new(&mut store);
        store.connect(&page);
        let bridge = Bridge::new(machine.clone());
        let contents = RefCell::new(Contents { store, devices, orders, bridge });
        let (changed, speak) = (Signal::default(), Signal::default());
        let targets = Cell::new(Targets { pages: start.pages, vcpus: start.online });
        // A guest that begins with less has tables for all of its memory set aside.
        let tables = if start.pages_max > start.pages { 0 } else { start.pages.div_ceil(LARGE_PAGE) };
        let start = Share { pages: start.pages_max, beside, tables, vcpus: start.vcpus };
        Rc::new(Keeper { machine, page, contents, changed, speak, targets, start })
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
                drop(contents);
                return self.set_pages(pages, reply);
            }
            ToDomain::VcpuTarget { vcpus } => {
                drop(contents);
                return self.set_vcpus(vcpus, reply);
            }
            other => control::refuse(other),
        })
    }

    /// Writes into the store on the monitor's behalf.
    pub(crate) fn write(&self, write: impl FnOnce(&mut Store)) {
        write(&mut self.contents.borrow_mut().store);
        self.changed.raise();
    }
}
