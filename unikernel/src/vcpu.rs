//! The domain's vCPUs.
//!
//! vCPU 0 runs the event loop. The others are for work that can be handed over whole: [`spawn`] gives one a function, and
//! the objects it shares with the event loop are behind atomics or a [`Mutex`].

use alloc::boxed::Box;

use protocol::error::{Error, Result};
use protocol::event::MAX_VCPUS;
use protocol::layout::{PAGE_SIZE, VCPU_AREA_SIZE, VCPU_AREAS};

use crate::hypercall::raw;

/// Stack of a further vCPU, in pages: 64 KiB, as the builder gives vCPU 0.
const STACK_PAGES: u64 = 16;

/// A lock that is safe with several vCPUs: who waits for it lets others run, the holder perhaps.
pub type Mutex<T> = spin::mutex::SpinMutex<T, Yield>;

/// What to do while a lock is taken.
#[derive(Debug)]
pub struct Yield;

impl spin::RelaxStrategy for Yield {
    fn relax() {
        #[cfg(freestanding)]
        yield_now();
        #[cfg(not(freestanding))]
        core::hint::spin_loop();
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// What each vCPU is to run when it starts.
static WORK: Mutex<[Option<Work>; MAX_VCPUS]> = Mutex::new([const { None }; MAX_VCPUS]);

/// Lets other vCPUs of this CPU run first.
pub fn yield_now() {
    // SAFETY: no argument, no effect on memory.
    let _ = unsafe { raw::vcpu_yield() };
}

/// Index of the vCPU that runs this.
pub fn current() -> u32 {
    crate::cpu::vcpu()
}

/// Starts vCPU `index`, 1 or higher, with `work`. Afterwards it sleeps for good. `WrongState` if it was started before.
pub fn spawn(index: u32, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let slot = index as usize;
    if index == 0 || index >= crate::start::info().spec.vcpus || slot >= MAX_VCPUS {
        return Err(Error::Invalid);
    }
    crate::event::open_wake_channel()?;
    let work: Work = Box::new(work);
    if WORK.lock()[slot].is_some() {
        return Err(Error::WrongState);
    }
    let stack = VCPU_AREAS + (u64::from(index) + 1) * VCPU_AREA_SIZE - STACK_PAGES * PAGE_SIZE;
    match crate::memory::populate(stack, STACK_PAGES) {
        Ok(()) => {}
        Err(Error::Exists) => return Err(Error::WrongState),
        Err(error) => return Err(error),
    }
    WORK.lock()[slot] = Some(work);
    // SAFETY: `entry` is `_start`, which finds the vCPU on its own fresh stack and runs `run`.
    let started = unsafe { raw::vcpu_start(index.into(), entry(), 0) };
    if let Err(error) = started {
        WORK.lock()[slot] = None;
        // SAFETY: the vCPU does not run, so nothing uses its stack.
        let _ = unsafe { crate::memory::release(stack, STACK_PAGES) };
        return Err(error);
    }
    Ok(())
}

/// What a further vCPU does with its life.
#[cfg(freestanding)]
pub(crate) fn run(index: u32) -> ! {
    let work = WORK.lock().get_mut(index as usize).and_then(Option::take);
    if let Some(work) = work {
        work();
    }
    crate::event::sleep_forever()
}

fn entry() -> u64 {
    #[cfg(freestanding)]
    return crate::freestanding::entry::_start as *const () as u64;
    #[cfg(not(freestanding))]
    0
}
