//! Hypercalls of monitors: running a virtual CPU, and placing what the core keeps in guest memory.

use crate::prelude::*;

impl<M: Machine> Core<M> {
    pub(super) fn vm_run(&mut self, _: Caller, _: u64) -> Result {
        Err(Error::WrongState)
    }

    pub(super) fn vm_grant_table(&mut self, _: Caller, _: u64, _: u64) -> Result {
        Err(Error::WrongState)
    }
}
