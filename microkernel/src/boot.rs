//! What the shell found out about the machine, and the first domain made from it.

use core::ops::Range;

use protocol::system::Features;

use crate::platform::{Frame, Phys};

/// What the shell tells the core once, before any other call.
#[derive(Clone, Debug)]
pub struct BootConfig<'a> {
    /// RAM for the core to manage, as byte ranges in any order: nothing of the core image, the bundle, the shell's own
    /// structures or the firmware lies in it. The core takes its frame table from it. All of it must be reachable through
    /// [`crate::platform::Memory`].
    pub ram: &'a [Range<u64>],
    /// Frames of RAM the firmware reported, used ones included.
    pub total_frames: u64,
    /// The boot bundle, page-aligned at its start and readable through [`crate::platform::Memory`].
    pub bundle: Range<Phys>,
    /// The boot line.
    pub boot_line: &'a str,
    /// CPUs that run, numbered from 0.
    pub cpus: usize,
    /// TSC frequency, Hz.
    pub tsc_hz: u64,
    /// What the CPUs offer and the shell switched on.
    pub features: Features,
    /// Brand string of the CPU, zero-padded.
    pub brand: [u8; 48],
    /// Root page table of the core's own address space: its entries 256..512 go into every address space.
    pub template: Frame,
}
