//! Who keeps the guest's store: serves its ring, and fills in what a guest is told of itself.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use core::cell::RefCell;

use protocol::event::Port;
use unikernel::event::Channel;
use unikernel::executor::{Signal, race, yield_now};
use unikernel::vm::GuestPage;

use crate::machine::Machine;
use crate::store::{GUEST, Permissions, Right, Store};

/// KiB in a page.
const PAGE_KIB: u64 = 4;

/// The store with its ring.
pub struct Keeper {
    machine: Arc<Machine>,
    page: GuestPage,
    store: RefCell<Store>,
    /// The monitor changed something.
    changed: Signal,
}

impl Keeper {
    /// A store with nothing in it but what every guest is told.
    pub fn new(machine: Arc<Machine>, page: GuestPage, name: &str, memory_pages: u64, vcpus: u32) -> Rc<Keeper> {
        let mut store = Store::default();
        introduce(&mut store, name, memory_pages, vcpus);
        store.connect(&page);
        Rc::new(Keeper { machine, page, store: RefCell::new(store), changed: Signal::default() })
    }

    /// The machine whose store it is.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Does something with the store; the guest learns of it soon.
    pub fn with<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let result = act(&mut self.store.borrow_mut());
        self.changed.raise();
        result
    }

    /// Tells the guest to end: `order` is `poweroff` or `reboot`. Gives whether it listens.
    pub fn order(&self, order: &str) -> bool {
        self.with(|store| {
            let home = format!("{}/control", store.home());
            let listens = store.text(&format!("{home}/feature-{order}")) == Some("1");
            if listens {
                store.write(&format!("{home}/shutdown"), order);
            }
            listens
        })
    }

    /// Tells the guest how much memory it is to keep.
    pub fn set_memory_target(&self, pages: u64) {
        self.with(|store| {
            let path = format!("{}/memory/target", store.home());
            store.write(&path, format!("{}", pages * PAGE_KIB));
        });
    }

    /// Serves the ring for good. `ring` fires when the guest has something.
    pub async fn serve(self: Rc<Keeper>, ring: Port) {
        let ring = Channel::new(ring);
        loop {
            let turn = self.store.borrow_mut().turn(&self.page);
            if turn.notify {
                self.machine.with(|guest| guest.raise(guest.store_port));
            }
            match turn.more {
                true => yield_now().await,
                false => race(ring.wait(), self.changed.wait()).await,
            }
        }
    }
}

/// Writes what every guest is told of itself (Xen `docs/misc/xenstore-paths.pandoc`).
fn introduce(store: &mut Store, name: &str, memory_pages: u64, vcpus: u32) {
    let home = String::from(store.home());
    let readable = || Permissions::new(GUEST, Right::None);
    let own = |store: &mut Store, path: &str| store.make(&format!("{home}/{path}"), readable());
    let host = Permissions::new(crate::store::HOST, Right::Read);
    store.make(&home, host);
    let memory = format!("{}", memory_pages * PAGE_KIB);
    for (path, value) in [
        ("name", name),
        ("domid", &format!("{GUEST}")),
        ("memory/static-max", &memory),
        ("memory/target", &memory),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("control/platform-feature-xs_reset_watches", "1"),
    ] {
        store.write(&format!("{home}/{path}"), value);
    }
    for vcpu in 0..vcpus {
        store.write(&format!("{home}/cpu/{vcpu}/availability"), "online");
    }
    for path in ["control/shutdown", "control/sysrq", "data", "drivers", "feature", "attr", "error"] {
        own(store, path);
    }
    // What the guest can do it says in files of its own.
    for feature in ["poweroff", "reboot", "suspend"] {
        own(store, &format!("control/feature-{feature}"));
    }
    for path in ["device", "device/vbd", "device/vif"] {
        store.make(&format!("{home}/{path}"), Permissions::new(crate::store::HOST, Right::Read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_who_it_is() {
        let mut store = Store::default();
        introduce(&mut store, "debian", 0x1_0000, 2);
        let home = format!("/local/domain/{GUEST}");
        assert_eq!(store.home(), home);
        for (path, value) in [
            ("name", "debian"),
            ("memory/target", "262144"),
            ("cpu/1/availability", "online"),
            ("control/shutdown", ""),
        ] {
            assert_eq!(store.text(&format!("{home}/{path}")), Some(value), "{path}");
        }
        assert_eq!(store.text(&format!("{home}/cpu/2/availability")), None);
    }
}
