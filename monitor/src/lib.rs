//! The domain around one Linux guest.
//!
//! A stock distribution kernel runs in the domain's virtual machine, started by the PVH entry with the guest ABI of Xen. All
//! that the guest asks of the machine below comes here: the monitor loads the kernel, answers CPUID, MSRs, I/O ports and
//! hypercalls, and keeps its event channels, its store and its console. It holds nothing but this guest, so whatever the
//! guest makes of it is the guest's own loss.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod bridge;
pub mod console;
pub mod context;
pub mod cpuid;
pub mod devices;
pub mod errno;
pub mod events;
pub mod exit;
pub mod guest;
pub mod hypercall;
pub mod keeper;
pub mod layout;
pub mod loader;
pub mod machine;
pub mod mmio;
pub mod msr;
pub mod ports_io;
pub mod state;
pub mod store;
pub mod targets;
pub mod terminal;
#[cfg(not(freestanding))]
pub mod testing;
pub mod time;
pub mod walk;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;

use protocol::arguments::GuestBoot;
use unikernel::vm::{GuestMemory, VirtualCpu};
use unikernel::{Domain, control, event, executor};

use devices::start::Start;
use guest::{Guest, Services};
use keeper::Keeper;
use machine::Machine;

/// Runs the guest until it ends.
pub async fn run(domain: Domain) {
    let Some(boot) = domain.arguments.guest else {
        fail("it has no kernel: the configuration of a Linux guest says kernel = \"...\"");
    };
    match start(&domain, &boot) {
        Ok(keeper) => {
            control::serve_all(|message, reply| keeper.message(message, reply)).await;
        }
        Err(reason) => fail(&reason),
    }
}

/// Ends the domain: there is no guest to run.
fn fail(reason: &str) -> ! {
    log::error!("the guest does not start: {reason}");
    unikernel::exit::crash(reason)
}

/// Loads the guest and lets it run.
fn start(domain: &Domain, boot: &GuestBoot) -> Result<Rc<Keeper>, String> {
    let spec = &domain.info.spec;
    let cpu = VirtualCpu::current().ok_or("this domain has no virtual machine")?;
    let mut memory = GuestMemory::take(&boot::frames(boot)).ok_or("memory: it does not fit in a guest")?;
    let kernel = boot::load(&mut memory, boot).map_err(|error| format!("{error}"))?;
    // What the kernel was expanded with is the guest's now.
    unikernel::memory::trim_heap();
    boot::complete(&mut memory, boot, kernel.told, &domain.arguments.command_line, spec.vcpus)
        .map_err(|error| format!("{error}"))?;
    boot::enter(&cpu, &kernel);
    let mut pin = |frame| memory.pin(frame).map_err(|error| format!("a ring has no page: {error}"));
    let (console_page, store_page) = (pin(layout::CONSOLE_FRAME)?, pin(layout::STORE_FRAME)?);
    let channel = || event::own_channel(0).map_err(|error| format!("no event channel: {error}"));
    let (store, console) = (channel()?, channel()?);
    let clock = time::Clock {
        tsc: unikernel::time::ticks(),
        ns: unikernel::time::clock(),
        tsc_hz: domain.info.tsc_hz,
        start_utc: boot.start_utc,
    };
    let services = Services { store: store.0, console: console.0 };
    let ram = layout::Ram::new(boot);
    let mut guest = Guest::new(memory, ram, spec.vcpus, spec.guest_grant_frames, clock, services);
    if boot.max_pages > boot.memory_pages {
        guest.begin_with(boot.memory_pages);
    }
    // 32-bit kernels know no x2APIC mode.
    guest.vcpus.iter_mut().for_each(|vcpu| vcpu.apic.in_memory = kernel.narrow);
    let machine = Machine::new(guest).map_err(|error| format!("no event channel: {error}"))?;
    let machine = Arc::new(machine);
    executor::spawn(terminal::serve(machine.clone(), console_page, console.1, domain.arguments.console));
    let (store_port, console_port) = machine.with(|guest| (guest.store_port, guest.console_port));
    let start = Start {
        name: domain.name(),
        pages: boot.memory_pages,
        pages_max: boot.max_pages.max(boot.memory_pages),
        vcpus: spec.vcpus,
        online: spec.vcpus,
        store: (layout::STORE_FRAME, store_port),
        console: (layout::CONSOLE_FRAME, console_port),
    };
    let beside = spec.memory_pages.saturating_sub(boot.memory_pages);
    let keeper = Keeper::new(machine.clone(), store_page, &start, beside);
    keeper.start(store.1);
    machine::start(&machine, cpu).map_err(|error| format!("its vCPUs do not start: {error}"))?;
    Ok(keeper)
}
