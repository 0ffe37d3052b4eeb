//! Event channels: ports, and the page in which they are pending.
//!
//! The page has the 2-level layout of the Xen ABI (`public/xen.h`, `shared_info` and `vcpu_info`): a bit a port, pending and
//! masked, and for each vCPU a selector word with a bit for every pending word that may hold something. The core sets bits,
//! the domain clears them; both with atomic operations. Offsets, not a Rust type: the page is shared memory.

/// A port in the domain's own port space. Port 0 is never open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[repr(transparent)]
pub struct Port(pub u32);

/// Ports a domain has.
pub const PORTS: usize = 1024;
/// Words of pending (and of mask) bits that are in use.
pub const WORDS: usize = PORTS / 64;
/// The port on which a domain and dom0 signal control messages; dom0 uses a port of its own for each domain.
pub const CONTROL_PORT: Port = Port(1);
/// The port on which the core tells dom0 that the state of some domain changed; open in the first domain only.
pub const DOMAIN_EVENT_PORT: Port = Port(2);

/// Offset of the pending words: bit `p % 64` of word `p / 64` belongs to port `p`.
pub const PENDING: usize = 0;
/// Offset of the mask words; a masked port becomes pending but wakes nobody.
pub const MASK: usize = 512;
/// Offset of the first per-vCPU record.
pub const VCPUS: usize = 1024;
/// Size of a per-vCPU record.
pub const VCPU_SIZE: usize = 64;
/// In a record: one u64, not zero while the vCPU has something to look at.
pub const UPCALL_PENDING: usize = 0;
/// In a record: one u64, bit `w` set when pending word `w` may hold something for this vCPU.
pub const SELECTOR: usize = 8;

/// Offset in the page of the record of a vCPU.
pub const fn vcpu_record(vcpu: u32) -> usize {
    VCPUS + vcpu as usize * VCPU_SIZE
}

/// Largest number of vCPUs of one domain; their records fill the rest of the page.
pub const MAX_VCPUS: usize = 32;

const _: () = assert!(VCPUS + MAX_VCPUS * VCPU_SIZE <= crate::layout::PAGE_SIZE as usize);
const _: () = assert!(WORDS <= 64);
