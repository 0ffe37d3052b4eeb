//! Virtual CPUs: registers in a context frame of the domain, and what the scheduler does not keep.

use core::ops::{Index, IndexMut};

use protocol::error::{Error, Result};
use protocol::layout::vcpu_stack_top;
use zerocopy::IntoBytes;

use crate::domain::NO_FRAME;
use crate::platform::{ENTERED_BY_TRAP, Frame, Memory, Registers, reg};
use crate::sched::{MAX_VCPUS, VcpuId};
use crate::slot::Slot;

/// RFLAGS of a fresh vCPU: interrupts on, and the bit that is always set.
const FRESH_FLAGS: u64 = 0x202;

/// What the core keeps about a vCPU.
pub struct Vcpu {
    /// Its domain; none: this place is free.
    pub domain: Option<Slot>,
    /// Its number in the domain.
    pub index: u8,
    /// It has been started.
    pub started: bool,
    /// It waits for an event; the result of the wait is not in its context yet.
    pub waiting: bool,
    /// Registers.
    pub context: Frame,
}

impl Vcpu {
    /// A free place.
    pub const NONE: Vcpu = Vcpu { domain: None, index: 0, started: false, waiting: false, context: NO_FRAME };

    /// Sets the registers for a start at `entry` with stack pointer `stack` (0: the layout's), all else zero.
    pub fn prepare(&self, m: &impl Memory, entry: u64, stack: u64) {
        let stack = if stack == 0 { vcpu_stack_top(self.index as u32) } else { stack };
        let mut registers = Registers { rip: entry, rflags: FRESH_FLAGS, ..Registers::default() };
        registers.general[reg::RDI] = self.index as u64;
        registers.general[reg::RSP] = stack;
        registers.fs_base = stack;
        registers.entered = ENTERED_BY_TRAP;
        m.zero(self.context);
        m.write(self.context.at(0), registers.as_bytes());
    }
}

/// All vCPUs, by id. The index is masked rather than checked: ids come from the core's own tables.
pub struct Vcpus(pub [Vcpu; MAX_VCPUS]);

impl Vcpus {
    /// A free place.
    pub fn find_free(&self) -> Result<VcpuId> {
        let free = self.0.iter().position(|vcpu| vcpu.domain.is_none());
        free.map(|at| VcpuId(at as u16)).ok_or(Error::TableFull)
    }
}

impl Index<VcpuId> for Vcpus {
    type Output = Vcpu;
    fn index(&self, id: VcpuId) -> &Vcpu {
        &self.0[id.0 as usize % MAX_VCPUS]
    }
}

impl IndexMut<VcpuId> for Vcpus {
    fn index_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        &mut self.0[id.0 as usize % MAX_VCPUS]
    }
}
