//! PCI functions: what the core tells about them.
//!
//! The core keeps the configuration space, the interrupts and the switch for DMA to itself; whoever opens a device gets its
//! registers. A device is named by its address, as bus (bits 8..16), device (bits 3..8) and function (bits 0..3).

/// PCI functions that the core knows at most.
pub const MAX_DEVICES: usize = 128;

/// For [`crate::hypercall::Hypercall::DeviceOpen`]: the device may read and write memory.
pub const DMA: u64 = 1;

/// In [`DeviceInfo::owner`]: no domain has opened it.
pub const NO_OWNER: u32 = u32::MAX;

/// In [`DeviceInfo::flags`]: a bridge; nobody can open it.
pub const BRIDGE: u16 = 1;

/// Bytes of the configuration space of a function that can be read.
pub const CONFIG_SIZE: u64 = 256;

records! {
    /// A base address register.
    pub struct BarInfo {
        /// Bytes of memory behind it; 0 if it is absent, decodes I/O ports, or was given no place by the firmware.
        pub size: u64,
        /// First page of it that cannot be mapped, because the core keeps the interrupt table there.
        pub hidden: u32,
        /// How many pages that are.
        pub hidden_pages: u32,
    }

    /// Result of [`crate::hypercall::Hypercall::DeviceInfo`] and [`crate::hypercall::Hypercall::DeviceList`].
    pub struct DeviceInfo {
        /// Its address.
        pub address: u16,
        /// Vendor.
        pub vendor: u16,
        /// Device id, as the vendor numbers them.
        pub device: u16,
        /// Class (bits 8..16) and subclass (bits 0..8).
        pub class: u16,
        /// Message-signalled interrupts it has.
        pub interrupts: u16,
        /// [`BRIDGE`] or 0.
        pub flags: u16,
        /// Id of the domain that has opened it, or [`NO_OWNER`].
        pub owner: u32,
        /// Its memory. A 64-bit register takes two places; the second is absent.
        pub bars: [BarInfo; 6],
    }
}
