//! What a domain finds when its first instruction runs.

use crate::domain::DomainSpec;

/// In [`StartInfo::magic`]: `"BULKHEAD"`, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULKHEAD");

records! {
    /// The page at [`crate::layout::START_INFO`], written by the core before the first instruction of every start.
    ///
    /// Registers at the first instruction of vCPU `i`: RDI is `i`, RSP and the FS base are
    /// [`crate::layout::vcpu_stack_top`]`(i)` (unless `vcpu_start` or `domain_start` named another stack), all else is zero.
    pub struct StartInfo {
        /// [`MAGIC`].
        pub magic: u64,
        /// [`crate::ABI_VERSION`].
        pub abi_version: u32,
        /// The domain's id; for logs only.
        pub id: u32,
        /// Incarnation.
        pub incarnation: u32,
        /// Times this incarnation was reset.
        pub resets: u32,
        /// TSC frequency, Hz.
        pub tsc_hz: u64,
        /// Bytes of the boot bundle at [`crate::layout::BUNDLE`]; 0 in every domain but the first.
        pub bundle_bytes: u64,
        /// What the domain was made from; `memory_pages` is what is set aside for it now.
        pub spec: DomainSpec,
    }
}
