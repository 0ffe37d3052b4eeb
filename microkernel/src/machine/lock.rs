//! The one lock around the safe core.
//!
//! Fair, and whoever waits for it serves its own flush mailbox meanwhile: a CPU that holds the lock may need the waiting one
//! to have flushed, so nobody may wait deaf.

use microkernel::state::Core;
use spin::RelaxStrategy;
use spin::mutex::TicketMutex;

use crate::flush;
use crate::hardware::Hardware;

/// What a CPU does while the lock is taken.
pub struct ServeFlushes;

impl RelaxStrategy for ServeFlushes {
    fn relax() {
        core::hint::spin_loop();
        flush::serve();
    }
}

/// The safe core.
pub static CORE: TicketMutex<Core<Hardware>, ServeFlushes> = TicketMutex::new(Core::new(Hardware));
