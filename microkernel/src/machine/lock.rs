//! The one lock around the safe core, and the flush mailboxes beside it.
//!
//! The lock is fair, and whoever waits for it serves its own mailbox meanwhile: a CPU that holds the lock may need the waiting
//! one to have flushed, so nobody may wait deaf.

use microkernel::flush::MAILBOXES;
use microkernel::platform::Machine;
use microkernel::state::Core;
use spin::RelaxStrategy;
use spin::mutex::{TicketMutex, TicketMutexGuard};

use crate::hardware::Hardware;
use crate::percpu::Cpu;

/// What a CPU does while the lock is taken.
pub struct ServeFlushes;

impl RelaxStrategy for ServeFlushes {
    fn relax() {
        core::hint::spin_loop();
        serve_flushes();
    }
}

/// The safe core with the lock held.
pub type Guard = TicketMutexGuard<'static, Core<Hardware>, ServeFlushes>;

static CORE: TicketMutex<Core<Hardware>, ServeFlushes> = TicketMutex::new(Core::new(Hardware));

/// Takes the lock.
pub fn lock() -> Guard {
    CORE.lock()
}

/// Forgets cached translations if another CPU asked for it.
pub fn serve_flushes() {
    MAILBOXES.serve(Cpu::current().index, || Hardware.flush_local());
}

/// Waits, without the lock, until the CPUs of the mask have flushed since request `epoch`.
pub fn await_flush(epoch: u64, cpus: u64) {
    while !MAILBOXES.reached(epoch, cpus) {
        ServeFlushes::relax();
    }
}
