//! The one lock around the safe core, and the flush mailboxes beside it.
//!
//! Whoever waits for the lock serves its own mailbox meanwhile: a CPU that holds the lock may need the waiting one to have
//! flushed, so nobody may wait deaf. It is not a ticket lock: where the CPUs are threads of an emulator on a host with
//! fewer, handing the lock to one that does not run right now makes events between CPUs five times as slow.

use microkernel::flush::MAILBOXES;
use microkernel::platform::{Flush, Machine};
use microkernel::state::Core;
use spin::RelaxStrategy;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::hardware::Hardware;
use super::percpu::Cpu;

/// What a CPU does while the lock is taken.
pub struct ServeFlushes;

impl RelaxStrategy for ServeFlushes {
    fn relax() {
        core::hint::spin_loop();
        serve_flushes();
    }
}

/// The safe core with the lock held.
pub type Guard = SpinMutexGuard<'static, Core<Hardware>, ServeFlushes>;

/// The safe core.
pub static CORE: SpinMutex<Core<Hardware>, ServeFlushes> = SpinMutex::new(Core::new(Hardware));

/// Forgets cached translations if another CPU asked for it.
pub fn serve_flushes() {
    MAILBOXES.serve(Cpu::current().index, || Hardware.flush_local());
}

/// Waits, without the lock, until the CPUs that were asked have flushed.
pub fn await_flush(flush: Flush) {
    while !MAILBOXES.reached(flush.epoch, flush.cpus) {
        ServeFlushes::relax();
    }
}
