//! What one guest may have in its store. It is all charged to the guest's own monitor, so the bounds only keep a guest from
//! doing itself in by mistake; honest ones use some dozens of nodes and watches.

/// Nodes that belong to the guest, as in Xen.
pub const NODES: usize = 1000;
/// Bytes of those nodes, its watches, and what its transactions remember.
pub const BYTES: usize = 256 << 10;
/// Watches, as in Xen.
pub const WATCHES: usize = 128;
/// Transactions at once. Each can hold on to the nodes that were there when it began.
pub const TRANSACTIONS: usize = 8;
