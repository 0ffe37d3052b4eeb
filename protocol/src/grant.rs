//! Grants: a domain shares single pages of its own with a peer.
//!
//! Version 1 entries only (Xen `public/grant_table.h`, `grant_entry_v1`). The granter writes entries in its table; a mapper
//! names (peer, reference). Batches report per element: an error in one neither skips nor falsifies the others.

/// A reference: an index into the granter's table.
pub type GrantRef = u32;

/// Entry of the console ring page; made at create for peer [`PEER_CONSOLE`] (`GNTTAB_RESERVED_CONSOLE` of Xen).
pub const REF_CONSOLE: GrantRef = 0;
/// Entry of the ring from dom0 to the domain, made at create for [`PEER_DOM0`].
pub const REF_CONTROL_IN: GrantRef = 1;
/// Entry of the ring from the domain to dom0.
pub const REF_CONTROL_OUT: GrantRef = 2;
/// Entry of the heartbeat page, for [`PEER_DOM0`], read-only.
pub const REF_HEARTBEAT: GrantRef = 3;
/// First reference that the domain itself may use.
pub const REF_FIRST_FREE: GrantRef = 8;

/// Index of dom0 in every domain's peer table.
pub const PEER_DOM0: u16 = 0;
/// Index of the console domain in every domain's peer table.
pub const PEER_CONSOLE: u16 = 1;
/// Index of the driver domain of its disks in the table of a domain that has some.
pub const PEER_DISK: u16 = 2;
/// Index of the driver domain of its network interfaces.
pub const PEER_NETWORK: u16 = 3;
/// First peer index without a fixed meaning.
pub const PEER_FIRST_FREE: u16 = 8;
/// Entries of a peer table. In dom0's table the index of a domain is its domain id.
pub const PEERS: usize = 256;

/// The entry is not in use.
pub const INVALID: u16 = 0;
/// The peer may map or copy the page.
pub const PERMIT_ACCESS: u16 = 1;
/// Read only.
pub const READONLY: u16 = 1 << 2;
/// Set by the core while mapped or copied from.
pub const READING: u16 = 1 << 3;
/// Set by the core while mapped writable or copied to.
pub const WRITING: u16 = 1 << 4;
/// In [`MapElement`]: the page is for devices of the caller only, who needs no address of its own for it.
pub const DEVICE_ONLY: u16 = 1 << 5;
/// Entries in one page of the table.
pub const ENTRIES_PER_PAGE: usize = 512;
/// Largest number of pages of a table.
pub const MAX_GRANT_FRAMES: usize = 8;

/// Elements in the largest batch.
pub const MAX_BATCH: usize = 64;

/// In [`CopyElement`]: this side is the caller's own memory, and `reference_or_address` an address.
pub const OWN_MEMORY: u16 = 0xffff;

records! {
    /// One entry of the table, 8 bytes.
    pub struct GrantEntry {
        /// [`PERMIT_ACCESS`] and its flags; the core sets [`READING`] and [`WRITING`] while the page is mapped.
        pub flags: u16,
        /// The peer that may use it, as an index into the granter's peer table.
        pub peer: u16,
        /// The page: virtual page number in the granter's native face (guest frame number in a guest face).
        pub frame: u32,
    }

    /// One element of [`crate::hypercall::Hypercall::GrantMap`].
    pub struct MapElement {
        /// In: the granter, as an index into the caller's peer table.
        pub peer: u16,
        /// In: [`READONLY`] and [`DEVICE_ONLY`], or neither.
        pub flags: u16,
        /// In: the granter's reference.
        pub reference: GrantRef,
        /// In: page-aligned address inside the grant window that maps nothing yet; 0 with [`DEVICE_ONLY`].
        pub address: u64,
        /// Out: the address a device of the caller uses for this page.
        pub device_address: u64,
        /// Out: names the mapping for [`UnmapElement`].
        pub mapping: u32,
        /// Out: 0 or a negated [`crate::error::Error`].
        pub status: i32,
    }

    /// One element of [`crate::hypercall::Hypercall::GrantUnmap`].
    pub struct UnmapElement {
        /// In: what [`MapElement::mapping`] gave.
        pub mapping: u32,
        /// Out: 0 or a negated error.
        pub status: i32,
    }

    /// One side of a [`CopyElement`].
    pub struct CopySide {
        /// A grant reference of `peer`, or a page-aligned address of the caller's if `peer` is [`OWN_MEMORY`].
        pub reference_or_address: u64,
        /// Index into the caller's peer table, or [`OWN_MEMORY`].
        pub peer: u16,
        /// Offset inside the page.
        pub offset: u16,
        /// Must be zero.
        pub reserved: u32,
    }

    /// One element of [`crate::hypercall::Hypercall::GrantCopy`]; at least one side is a grant.
    pub struct CopyElement {
        /// Where the bytes come from.
        pub source: CopySide,
        /// Where they go.
        pub destination: CopySide,
        /// In: bytes, 1 to 4096, inside one page on both sides.
        pub length: u32,
        /// Out: 0 or a negated error.
        pub status: i32,
    }
}
