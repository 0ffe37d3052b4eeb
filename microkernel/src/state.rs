//! Everything the core knows, in one place behind one lock.

use crate::boot::BootConfig;
use crate::platform::{Fault, Machine, Next, Step};

/// The core. A constant, so that it can be a static; [`Core::boot`] fills it.
pub struct Core<M: Machine> {
    /// The machine below.
    pub machine: M,
}

impl<M: Machine> Core<M> {
    /// A core that knows nothing yet.
    pub const fn new(machine: M) -> Core<M> {
        Core { machine }
    }

    /// Takes the memory over, loads the first domain from the bundle and makes it runnable. The error says why it cannot.
    pub fn boot(&mut self, _config: &BootConfig<'_>) -> Result<(), &'static str> {
        Ok(())
    }

    /// The vCPU on `cpu` made a hypercall. Its result is in its context (RAX) afterwards.
    pub fn hypercall(&mut self, _cpu: usize, _number: u64, _arguments: [u64; 5]) -> Step {
        Step::Done
    }

    /// The vCPU on `cpu` raised an exception in ring 3; its registers are in its context.
    pub fn fault(&mut self, _cpu: usize, _fault: Fault) -> Step {
        Step::Done
    }

    /// An ISA interrupt line fired at `cpu`.
    pub fn interrupt(&mut self, _cpu: usize, _line: u8) {}

    /// The deadline that [`Core::schedule`] gave for `cpu` has passed.
    pub fn timer(&mut self, _cpu: usize) {}

    /// Another CPU kicked `cpu` (its flush mailbox was served already).
    pub fn kicked(&mut self, _cpu: usize) {}

    /// Completes the operation after which every CPU named in [`Step::AfterFlush`] has flushed.
    pub fn resume(&mut self, _cpu: usize) -> Step {
        Step::Done
    }

    /// Decides what `cpu` does next. The shell calls it last in every entry, and loads the root it names before it releases
    /// the lock.
    pub fn schedule(&mut self, _cpu: usize) -> Next {
        Next::Idle { deadline: u64::MAX }
    }
}
