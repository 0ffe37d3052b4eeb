//! The machine on which the guest runs: one native vCPU for each of its own.
//!
//! vCPU 0 has the event loop besides: the guest's first vCPU runs whenever no task wants to. The others do nothing else. What
//! they share is behind one lock, which nobody holds while the guest runs.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use protocol::event::Port;
use protocol::vm::Exit;
use unikernel::vcpu::Mutex;
use unikernel::vm::VirtualCpu;
use unikernel::{console, event, executor, exit, print, time, vcpu};

use crate::exit::handle;
use crate::guest::{End, Guest, Next, Outbox};

/// Ports by which a vCPU is made to look: to send to, and where it arrives.
type Kick = (Port, Port);

/// The machine.
#[derive(Debug)]
pub struct Machine {
    guest: Mutex<Guest>,
    kicks: Vec<Kick>,
}

impl Machine {
    /// A machine for this guest.
    pub fn new(guest: Guest) -> protocol::error::Result<Machine> {
        let kicks = (0..guest.vcpus.len() as u32).map(event::own_channel).collect::<Result<_, _>>()?;
        Ok(Machine { guest: Mutex::new(guest), kicks })
    }

    /// Does something with the guest, and tells whom it concerns.
    pub fn with<T>(&self, act: impl FnOnce(&mut Guest) -> T) -> T {
        let mut guest = self.guest.lock();
        let result = act(&mut guest);
        let outbox = core::mem::take(&mut guest.outbox);
        drop(guest);
        self.deliver(outbox);
        result
    }

    fn deliver(&self, outbox: Outbox) {
        let own = vcpu::current();
        for (index, (port, _)) in self.kicks.iter().enumerate() {
            if outbox.vcpus >> index & 1 == 1 && index as u32 != own {
                // It is this domain's own port, which is always open.
                let _ = event::send(*port);
            }
        }
        for port in outbox.ports {
            // Nobody at the other end is nothing that the guest would be told.
            let _ = event::send(port);
        }
    }

    /// Lets the guest's vCPU that goes with the calling one do something, or wait, until `deadline` at the latest.
    fn step(&self, cpu: &VirtualCpu, deadline: u64) {
        let index = vcpu::current();
        match self.with(|guest| guest.prepare(index, cpu, time::now())) {
            Next::Wait(until) => event::block(until.min(deadline)),
            Next::Run(until) => {
                let end = match cpu.run(until.min(deadline)) {
                    // There is nothing to do but to look again.
                    Ok(Exit::Event | Exit::Deadline) => return,
                    Ok(exit) => self.with(|guest| handle(guest, cpu, index, exit, time::now()).err()),
                    Err(error) => Some(End::Crash(format!("the core does not run it: {error}"))),
                };
                if let Some(end) = end {
                    self.end(end);
                }
            }
        }
    }

    /// Passes on what the guest printed, as far as somebody takes it.
    pub fn pass_on(&self) {
        self.with(|guest| {
            guest.output.pass_on(|part| match console::write_some(part) {
                Ok(written) => written,
                Err(_) => {
                    print!("{}", alloc::string::String::from_utf8_lossy(part));
                    part.len()
                }
            });
        });
    }

    /// Ends the domain as the guest ended.
    pub fn end(&self, end: End) -> ! {
        self.pass_on();
        match end {
            End::PowerOff => exit::shutdown(0),
            End::Reboot => exit::reboot(),
            End::Crash(reason) => {
                log::error!("the guest crashed: {reason}");
                exit::crash(&reason)
            }
        }
    }
}

/// Starts the vCPUs: from now on the guest runs.
pub fn start(machine: &Arc<Machine>, first: VirtualCpu) -> protocol::error::Result<()> {
    for index in 1..machine.kicks.len() as u32 {
        let machine = machine.clone();
        vcpu::spawn(index, move || machine.serve(index))?;
    }
    let machine = machine.clone();
    executor::on_idle(move |deadline| machine.step(&first, deadline));
    Ok(())
}

impl Machine {
    /// The life of a further vCPU.
    fn serve(&self, index: u32) {
        let (Some(cpu), Some(kick)) = (VirtualCpu::current(), self.kicks.get(index as usize)) else { return };
        loop {
            event::take(kick.1);
            self.step(&cpu, u64::MAX);
        }
    }
}
