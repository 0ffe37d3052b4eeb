//! Virtual CPUs: registers in a context frame of the domain, and what the scheduler does not keep.

use protocol::layout::{USER_END, vcpu_stack_top};

use crate::domain::NO_FRAME;
use crate::platform::{ENTERED_BY_TRAP, MXCSR, Registers, reg};
use crate::prelude::*;
use crate::sched::{MAX_VCPUS, VcpuId};
use crate::table::Table;

/// RFLAGS of a fresh vCPU: interrupts on, and the bit that is always set.
const FRESH_FLAGS: u64 = 0x202;

/// A vCPU as the one who makes a call: all that names it, in one register.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its id.
    pub vcpu: VcpuId,
    /// Its domain.
    pub slot: Slot,
    /// Its number in the domain.
    pub index: u8,
    /// Its context frame, which nobody else has.
    pub context: Frame,
}

impl Caller {
    /// No vCPU.
    pub const NOBODY: Caller = Caller { vcpu: VcpuId(0), slot: Slot::DOM0, index: 0, context: NO_FRAME };

    /// Whether it is no vCPU.
    pub const fn is_nobody(self) -> bool {
        self.context.0 == NO_FRAME.0
    }
}

/// All vCPUs, by id; nobody: the place is free.
pub type Vcpus = Table<Caller, MAX_VCPUS>;

impl Vcpus {
    /// A free place.
    pub fn find_free(&self) -> Result<VcpuId> {
        let free = self.0.iter().position(|vcpu| vcpu.is_nobody());
        free.map(|at| VcpuId(at as u16)).ok_or(Error::TableFull)
    }
}

/// Checks where a vCPU is to start. A stack pointer may equal the end of the domain's half.
pub fn check_start(entry: u64, stack: u64) -> Result<()> {
    if entry < USER_END && stack <= USER_END { Ok(()) } else { Err(Error::BadAddress) }
}

impl<M: Machine> Core<M> {
    /// Starts a vCPU at `entry` with stack pointer `stack` (0: the layout's), all other registers zero.
    pub(crate) fn start_vcpu(&mut self, id: VcpuId, entry: u64, stack: u64) {
        let (index, context) = (self.vcpus[id].index, self.native(id));
        self.vcpus[id].context = context;
        let stack = if stack == 0 { vcpu_stack_top(index.into()) } else { stack };
        let mut registers = Registers { rip: entry, rflags: FRESH_FLAGS, fs_base: stack, ..Registers::default() };
        registers.general[reg::RDI] = index.into();
        registers.general[reg::RSP] = stack;
        registers.entered = ENTERED_BY_TRAP;
        self.machine.zero(context);
        self.machine.put(context.at(0), &registers);
        self.machine.store(context.at(MXCSR.0), MXCSR.1);
        self.renew_guest(id);
        self.sched.start(id, self.now());
    }

    pub(crate) fn vcpu_start(&mut self, caller: Caller, vcpu: u64, entry: u64, stack: u64) -> Result {
        let id = self.domains[caller.slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        check_start(entry, stack)?;
        refuse_if(self.sched.is_started(id), Error::WrongState)?;
        self.start_vcpu(id, entry, stack);
        Ok(0)
    }

    pub(crate) fn vcpu_info(&mut self, caller: Caller, slot: Slot, vcpu: u64, out: u64) -> Result {
        let id = self.domains[slot].vcpu(vcpu).ok_or(Error::Invalid)?;
        let info = self.sched.info(id, self.now());
        self.deliver(caller, out, &info)
    }

    pub(crate) fn vcpu_yield(&mut self, _: Caller) -> Result {
        self.sched.yield_now(self.here, self.now());
        Ok(0)
    }
}
