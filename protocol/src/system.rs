//! What the core says about the machine.

/// Largest number of CPUs the core starts.
pub const MAX_CPUS: usize = 64;

bitflags::bitflags! {
    /// What the machine offers and the core uses.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// No-execute pages.
        const NX = 1 << 0;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 1;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 2;
        /// User-mode instruction prevention.
        const UMIP = 1 << 3;
        /// The local APICs are in x2APIC mode.
        const X2APIC = 1 << 4;
        /// XSAVE holds the vector state.
        const XSAVE = 1 << 5;
        /// AMD virtual machines with nested paging.
        const SVM = 1 << 6;
        /// Intel virtual machines with extended page tables.
        const VMX = 1 << 7;
        /// DMA is confined by an IOMMU.
        const IOMMU = 1 << 8;
        /// The boot line allows DMA without an IOMMU (`iommu=off-insecure`).
        const IOMMU_OFF_INSECURE = 1 << 9;
        /// Domains with a virtual machine do not run on CPU 0, unless it is the only one. QEMU's software emulation (TCG) has
        /// XRSTOR, on any CPU, write hidden flags of its first CPU without a lock (`cpu_clear_ignne` in
        /// `target/i386/tcg/sysemu/fpu_helper.c`), whether nested paging is on among them.
        const VM_SPARES_CPU_0 = 1 << 10;
        /// Memory of virtual machines can be mapped in pages of 2 MiB.
        const VM_LARGE_PAGES = 1 << 11;
    }
}

records! {
    /// Result of [`crate::hypercall::Hypercall::SystemInfo`].
    pub struct SystemInfo {
        /// [`crate::ABI_VERSION`].
        pub abi_version: u32,
        /// CPUs that run.
        pub cpus: u32,
        /// Domains that exist.
        pub domains: u32,
        /// Handles in use, in all domains.
        pub handles: u32,
        /// Ports open, in all domains.
        pub ports: u32,
        /// Grant mappings held, in all domains.
        pub mappings: u32,
        /// TSC frequency, Hz.
        pub tsc_hz: u64,
        /// ns since the core started.
        pub uptime_ns: u64,
        /// Frames of RAM the firmware reported.
        pub total_frames: u64,
        /// Frames that no domain has set aside.
        pub pool_frames: u64,
        /// Frames that lie free (in the pool, or set aside and not yet used).
        pub free_frames: u64,
        /// Frames that wait for every CPU to have flushed.
        pub parked_frames: u64,
        /// Frames the core keeps for itself.
        pub reserved_frames: u64,
        /// ns in which CPU `i` ran nothing, for `i` below `cpus`.
        pub idle_ns: [u64; MAX_CPUS],
        /// [`Features`] bits.
        pub features: u64,
    }

    /// Argument of [`crate::hypercall::Hypercall::LogRead`].
    pub struct LogRead {
        /// In: position to read from, in bytes since the start; what was overwritten is skipped. Out: position after the last
        /// byte read.
        pub position: u64,
        /// In: where the bytes go.
        pub address: u64,
        /// In: room there, at most 4096.
        pub length: u64,
    }

    /// Argument of [`crate::hypercall::Hypercall::AcpiRead`].
    pub struct AcpiRead {
        /// Table signature, for instance `FACP` or `DSDT`.
        pub signature: [u8; 4],
        /// Which one, of several with the same signature.
        pub instance: u32,
        /// Offset of the first byte wanted.
        pub offset: u64,
        /// Where the bytes go.
        pub address: u64,
        /// Room there, at most 4096.
        pub length: u64,
    }
}
