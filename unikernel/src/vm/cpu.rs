//! The virtual CPU that goes with the vCPU that runs this: its state page, and letting the guest run.

use core::marker::PhantomData;

use protocol::error::{Error, Result};
use protocol::layout::vm_state;
use protocol::ring::Shared;
use protocol::vm::{Exit, word};

use crate::area::Area;
use crate::hypercall::raw;

/// A virtual CPU. It stays with the vCPU that made it: [`VirtualCpu::run`] takes the state of whoever calls it.
#[derive(Debug)]
pub struct VirtualCpu {
    page: Area,
    here: PhantomData<*const ()>,
}

impl VirtualCpu {
    /// That of the calling vCPU; nothing if the domain has no virtual machine.
    pub fn current() -> Option<VirtualCpu> {
        // SAFETY: the core maps such a page for each vCPU of a domain with a virtual machine, for good and for this only.
        let page = || unsafe { Area::page(vm_state(crate::vcpu::current())) };
        let has_one = crate::start::info().spec.guest_grant_frames > 0;
        has_one.then(|| VirtualCpu { page: page(), here: PhantomData })
    }

    /// Reads a [`word`] of the state.
    #[inline]
    pub fn get(&self, word: usize) -> u64 {
        let mut bytes = [0; 8];
        self.page.read(word * 8, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Writes one.
    #[inline]
    pub fn set(&self, word: usize, value: u64) {
        self.page.write(word * 8, &value.to_ne_bytes());
    }

    /// One of the four words of detail about the last exit.
    #[inline]
    pub fn detail(&self, index: usize) -> u64 {
        self.get(word::DETAIL + (index & 3))
    }

    /// Lets the guest run until something is the monitor's matter, but not beyond `deadline`, in ns since the core started.
    pub fn run(&self, deadline: u64) -> Result<Exit> {
        // SAFETY: no address among the arguments. The guest reaches guest memory only, where no Rust object lies.
        let exit = unsafe { raw::vm_run(deadline) }?;
        Exit::from_number(exit).ok_or(Error::Unsupported)
    }
}
