//! The tree that a guest finds when it starts: what Xen's tools would have made for it.

use alloc::format;

use protocol::layout::PAGE_SIZE;

use super::orders::{Orders, set_memory_target, set_online};
use crate::store::{HOST, Permissions, Right, Store};

/// What a guest finds about itself.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Its name.
    pub name: &'a str,
    /// Pages of memory that it has.
    pub pages: u64,
    /// Pages of memory that it may have.
    pub pages_max: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Those of them that it is to use.
    pub online: u32,
    /// Frame and port of the store's page.
    pub store: (u64, u32),
    /// Frame and port of the console's page.
    pub console: (u64, u32),
}

/// KiB in so many pages.
pub const fn kib(pages: u64) -> u64 {
    pages * (PAGE_SIZE / 1024)
}

/// Makes the tree, and what gives the guest orders through it.
pub fn plant(start: &Start<'_>, store: &mut Store) -> Orders {
    let (home, guest) = (alloc::string::String::from(store.home()), store.guest());
    let shown = || Permissions::new(HOST, Right::None).but(guest, Right::Read);
    let own = || Permissions::new(guest, Right::None);
    let path = |key: &str| format!("{home}/{key}");
    store.make(&home, shown());
    for directory in ["control", "memory", "cpu", "store", "console", "device"] {
        store.make(&path(directory), shown());
    }
    for directory in ["data", "drivers", "feature", "attr", "error"] {
        store.make(&path(directory), own());
    }
    for key in ["shutdown", "sysrq", "feature-poweroff", "feature-reboot", "feature-suspend", "feature-halt"] {
        store.make(&path(&format!("control/{key}")), own());
    }
    let mut write = |key: &str, value: &dyn core::fmt::Display| store.write(&path(key), format!("{value}"));
    write("domid", &guest);
    write("name", &start.name);
    write("type", &"pvh");
    write("control/platform-feature-xs_reset_watches", &1);
    write("control/platform-feature-multiprocessor-suspend", &1);
    write("memory/static-max", &kib(start.pages_max));
    write("memory/videoram", &0);
    write("store/ring-ref", &start.store.0);
    write("store/port", &start.store.1);
    write("console/ring-ref", &start.console.0);
    write("console/port", &start.console.1);
    write("console/type", &"xenconsoled");
    write("console/output", &"pty");
    set_memory_target(start.pages, store);
    for vcpu in 0..start.vcpus {
        set_online(vcpu, vcpu < start.online, store);
    }
    Orders::new()
}
