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
pub mod console;
pub mod cpuid;
pub mod devices;
pub mod errno;
pub mod events;
pub mod exit;
pub mod guest;
pub mod hypercall;
pub mod layout;
pub mod loader;
pub mod machine;
pub mod msr;
pub mod ports_io;
pub mod state;
pub mod store;
pub mod terminal;
pub mod time;
pub mod walk;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use protocol::arguments::GuestBoot;
use protocol::control::{FromDomain, ToDomain};
use unikernel::vm::{GuestMemory, VirtualCpu};
use unikernel::{Domain, control, event, executor};

use guest::{End, Guest, Services};
use machine::Machine;

/// Runs the guest until it ends.
pub async fn run(domain: Domain) {
    let Some(boot) = domain.arguments.guest else {
        fail("it has no kernel: the configuration of a Linux guest says kernel = \"...\"");
    };
    match start(&domain, &boot) {
        Ok(machine) => {
            control::serve_all(|message, _| Some(answer(&machine, message))).await;
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
fn start(domain: &Domain, boot: &GuestBoot) -> Result<Arc<Machine>, String> {
    let spec = &domain.info.spec;
    let cpu = VirtualCpu::current().ok_or("this domain has no virtual machine")?;
    let mut memory = GuestMemory::take(&boot::frames(boot)).ok_or("memory: it does not fit in a guest")?;
    let entry = boot::prepare(&mut memory, boot, &domain.arguments.command_line, spec.vcpus)
        .map_err(|error| format!("{error}"))?;
    boot::enter(&cpu, entry);
    let page = memory.pin(layout::CONSOLE_FRAME).map_err(|error| format!("console: {error}"))?;
    let channel = || event::own_channel(0).map_err(|error| format!("no event channel: {error}"));
    let (store, console) = (channel()?, channel()?);
    let clock = time::Clock { tsc: unikernel::time::ticks(), ns: unikernel::time::clock(), tsc_hz: domain.info.tsc_hz };
    let services = Services { store: store.0, console: console.0 };
    let ram = layout::Ram::new(boot);
    let guest = Guest::new(memory, ram, spec.vcpus, spec.guest_grant_frames, clock, services);
    let machine = Machine::new(guest).map_err(|error| format!("no event channel: {error}"))?;
    let machine = Arc::new(machine);
    executor::spawn(terminal::serve(machine.clone(), page, console.1, domain.arguments.console));
    machine::start(&machine, cpu).map_err(|error| format!("its vCPUs do not start: {error}"))?;
    Ok(machine)
}

/// What dom0 asks.
fn answer(machine: &Machine, message: ToDomain) -> FromDomain {
    match message {
        ToDomain::Shutdown => machine.end(End::PowerOff),
        ToDomain::Reboot => machine.end(End::Reboot),
        other => control::refuse(other),
    }
}
