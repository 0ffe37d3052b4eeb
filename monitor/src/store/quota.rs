//! What one guest may have in its store. It is all charged to the guest's own monitor, so the bounds only keep a guest from
//! doing itself in by mistake; honest ones use some dozens of nodes and watches.

/// Nodes that belong to the guest.
pub const NODES: usize = 400;
/// Bytes of those nodes, its watches, and what its transactions remember and hold on to. What dom0 sets aside for a monitor holds twice as
/// much.
pub const BYTES: usize = 96 << 10;
/// Watches, as in Xen.
pub const WATCHES: usize = 128;
/// Transactions at once.
pub const TRANSACTIONS: usize = 8;
