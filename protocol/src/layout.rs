//! Where things lie in the address space of a domain.
//!
//! One fixed map for every domain: it makes a restart land where the old incarnation was, keeps every address below 2^39 (so
//! that behind an IOMMU device addresses can equal virtual addresses) and leaves unmapped guards around the stacks.

/// Size of a page and of a frame, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// No domain address is at or above this one.
pub const USER_END: u64 = 1 << 39;

/// The image is linked here ...
pub const IMAGE_BASE: u64 = 0x40_0000;
/// ... and ends before this address.
pub const IMAGE_END: u64 = 0x4000_0000;

/// [`crate::start::StartInfo`], written by the core, read-only for the domain.
pub const START_INFO: u64 = 0x1_0000_0000;
/// [`crate::arguments::BootArguments`], written by the builder, read-only for the domain.
pub const ARGUMENTS: u64 = START_INFO + PAGE_SIZE;
/// [`crate::event`] page of the native face.
pub const EVENTS: u64 = START_INFO + 2 * PAGE_SIZE;
/// Control ring, from dom0 to the domain ([`crate::ring::byte`]).
pub const CONTROL_IN: u64 = START_INFO + 3 * PAGE_SIZE;
/// Control ring, from the domain to dom0.
pub const CONTROL_OUT: u64 = START_INFO + 4 * PAGE_SIZE;
/// Console ring page ([`crate::ring::console`]).
pub const CONSOLE: u64 = START_INFO + 5 * PAGE_SIZE;
/// Heartbeat page ([`crate::heartbeat`]).
pub const HEARTBEAT: u64 = START_INFO + 6 * PAGE_SIZE;
/// State page ([`crate::vm`]) of vCPU `index`, in a domain with a virtual machine.
pub const fn vm_state(index: u32) -> u64 {
    START_INFO + (VM_STATES + index as u64) * PAGE_SIZE
}
/// Pages from [`START_INFO`] to the first state page.
const VM_STATES: u64 = 16;
/// Grant table of the native face, [`crate::domain::DomainSpec::grant_frames`] pages.
pub const GRANT_TABLE: u64 = 0x1_0010_0000;
/// Retained memory: survives [`crate::hypercall::Hypercall::DomainReset`]; never granted, never mapped for a device.
pub const RETAINED: u64 = 0x1_1000_0000;

/// Memory the domain populates and releases itself.
pub const HEAP: u64 = 0x2_0000_0000;
/// End of the heap window.
pub const HEAP_END: u64 = 0x40_0000_0000;
/// In a domain with a virtual machine: guest-physical memory, from address 0 on.
pub const GUEST_MEMORY: u64 = HEAP_END;
/// End of that window.
pub const GUEST_MEMORY_END: u64 = MMIO;
/// Window in which registers of devices are mapped.
pub const MMIO: u64 = 0x48_0000_0000;
/// End of that window.
pub const MMIO_END: u64 = 0x50_0000_0000;
/// The boot bundle, read-only, in the first domain only.
pub const BUNDLE: u64 = 0x50_0000_0000;
/// Areas of the vCPUs: area `i` starts at `VCPU_AREAS + i * VCPU_AREA_SIZE`.
pub const VCPU_AREAS: u64 = 0x60_0000_0000;
/// One vCPU's area: its stack ends at the end of the area and grows down; the lowest page is never mapped.
pub const VCPU_AREA_SIZE: u64 = 0x10_0000;
/// Window in which grants of other domains are mapped.
pub const GRANT_WINDOW: u64 = 0x70_0000_0000;
/// End of the grant window.
pub const GRANT_WINDOW_END: u64 = 0x78_0000_0000;

/// Initial stack pointer of vCPU `index`. The FS base of a native vCPU is this value too: per-vCPU data of the run time may
/// lie above it, in the last [`VCPU_LOCAL_SIZE`] bytes of the area.
pub const fn vcpu_stack_top(index: u32) -> u64 {
    VCPU_AREAS + (index as u64 + 1) * VCPU_AREA_SIZE - VCPU_LOCAL_SIZE
}

/// Bytes at the end of each vCPU area that the run time keeps for itself.
pub const VCPU_LOCAL_SIZE: u64 = 256;
