//! Starting the other CPUs.
//!
//! One at a time: the first CPU offers an area, sends INIT and the start-up interrupt, and the new CPU claims the offer in its
//! first instructions. A CPU that comes too late finds no offer and halts, so it can never share a stack.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use microkernel::platform::Phys;
use microkernel::refuse_if;
use protocol::system::MAX_CPUS;

use super::acpi::Madt;
use super::paging::Tables;
use super::percpu::Cpu;
use super::symbols::copy_bytes;
use super::{apic, features, serial, start, timer, window};

/// The area for the CPU that comes next; the entry code takes it.
pub static OFFER: AtomicPtr<Cpu> = AtomicPtr::new(core::ptr::null_mut());

/// CPUs that run.
static RUNNING: AtomicUsize = AtomicUsize::new(1);

/// Time a CPU has to claim the offer and to report, in steps of 100 us.
const PATIENCE: u32 = 2000;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// CPUs that run.
pub fn cpus() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// Starts every CPU of the MADT but this one, up to `limit` CPUs in all. `page` is free memory below 1 MiB.
pub fn start(madt: &Madt, tables: &mut Tables, page: u64, limit: usize) -> Result<(), &'static str> {
    let code = &raw const trampoline_start;
    let length = (&raw const trampoline_end) as usize - code as usize;
    // SAFETY: the page was set aside for this, and the code is shorter.
    unsafe { copy_bytes(window::pointer(Phys(page)), code, length) };
    let own = apic::id();
    for id in madt.cpus.iter().copied().filter(|id| *id != own) {
        let cpu = cpus();
        if cpu >= limit.min(MAX_CPUS) {
            break;
        }
        OFFER.store(Cpu::new(tables, cpu)?, Ordering::Release);
        apic::start(id, page);
        for _ in (0..PATIENCE).take_while(|_| cpus() == cpu) {
            timer::pause(100);
        }
        if cpus() == cpu {
            let taken = OFFER.swap(core::ptr::null_mut(), Ordering::AcqRel).is_null();
            refuse_if(taken, "a CPU started and then got stuck")?;
            serial::line(format_args!("core: the CPU with APIC id {id} does not start; going on without it"));
        }
    }
    Ok(())
}

/// Where another CPU gets to on its own stack, with the core's own tables; it goes on once the safe core can be entered.
pub extern "C" fn start_secondary(this: *mut Cpu) -> ! {
    features::enable(features::detect());
    // SAFETY: the entry code claimed the offer, so the area is this CPU's alone.
    unsafe { &mut *this }.install();
    apic::initialize(Cpu::current().index);
    RUNNING.fetch_add(1, Ordering::AcqRel);
    while !start::BOOTED.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    start::run()
}
