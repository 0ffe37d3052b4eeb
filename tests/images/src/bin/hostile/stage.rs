//! The domains of a hostile call: the caller, and those it may know.

use core::time::Duration;

use alloc::vec::Vec;

use protocol::device::{BRIDGE, DMA};
use protocol::domain::{DomainInfo, Reason, SchedParams, State as Life, VcpuState};
use protocol::event::Port;
use protocol::handle::{Handle, Rights};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use test_images::child::{spec, to_the_end};
use test_images::puppet::{Answer, Puppet};
use test_images::resources::Resources;
use test_images::{Context, Outcome};
use unikernel::domain::{self, DomainHandle};
use unikernel::{event, system, time};

use super::values::Value;

/// Memory of each domain on the stage: 1 MiB.
const MEMORY_PAGES: u64 = 256;
/// What the caller's memory is filled with before each call; as flags, sizes and handles it makes no sense.
const PAINT: u8 = 0xa5;
/// Ports of no device: the one that firmware writes its progress codes to.
const HARMLESS_PORTS: (u16, u16) = (0x80, 1);
/// An interrupt line that nothing raises here: that of the second parallel port.
const HARMLESS_LINE: u8 = 5;

/// How long a call that has not returned is waited for before somebody looks why.
const LOOK: Duration = Duration::from_millis(100);
/// How long a call may take for which nothing explains it, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the caller holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Nothing but itself, and the right to look at one other domain.
    None,
    /// All that dom0 holds.
    All,
}

/// Why a call has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It waits for an event.
    Waits,
    /// The caller is paused.
    Paused,
    /// The caller has ended itself.
    Ended,
    /// The caller died of a fault.
    Faulted,
    /// The caller was reset or is being taken apart.
    Gone,
    /// Nothing explains it.
    Runs,
}

/// The caller's names for things. What it was not given has the number of an entry that is not in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given {
    /// Itself.
    pub own: u64,
    /// The machine.
    pub system: u64,
    /// A domain that runs.
    pub running: u64,
    /// A domain in building.
    pub building: u64,
    /// The running domain, with no right but to look at it.
    pub inspect_only: u64,
    /// A range of I/O ports.
    pub ports: u64,
    /// An interrupt line.
    pub interrupt: u64,
    /// A PCI function, which the caller has opened.
    pub device: u64,
    /// A handle that may be closed: the running domain again.
    pub spare: u64,
    /// A handle that was closed.
    pub stale: u64,
    /// A handle of this domain, which the caller does not have.
    pub foreign: u64,
    /// An event channel to this domain.
    pub channel: u64,
}

impl Given {
    /// All handles that are valid.
    pub fn all(&self) -> Vec<u64> {
        let handles = [
            self.own,
            self.system,
            self.running,
            self.building,
            self.inspect_only,
            self.ports,
            self.interrupt,
            self.device,
            self.spare,
        ];
        handles.into_iter().filter(|handle| *handle != NOT_GIVEN).collect()
    }
}

/// An index beyond every handle table.
const NOT_GIVEN: u64 = protocol::handle::HANDLES as u64;

/// What must not change when a call is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    resources: Resources,
    caller: Face,
    /// The domains that the caller may know.
    pub others: [Face; 2],
}

/// What is known about one domain, without what time changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    life: u32,
    counts: [u32; 7],
    pages: [u64; 3],
    schedule: SchedParams,
}

/// The stage.
pub struct Stage {
    /// What the caller holds.
    pub authority: Authority,
    /// What it calls it.
    pub given: Given,
    /// Calls made so far.
    pub calls: u64,
    /// How often the stage was set.
    pub settings: u64,
    cast: Option<Cast>,
    empty: Resources,
}

struct Cast {
    caller: Puppet,
    running: Puppet,
    building: Puppet,
    port: Port,
    ports: Handle,
    interrupt: Handle,
    device: Handle,
}

impl Stage {
    /// Makes the domains.
    pub async fn set(authority: Authority) -> Outcome<Stage> {
        // Once before the count: this domain's own tables get their size.
        let mut stage =
            Stage { authority, given: Given::default(), calls: 0, settings: 0, cast: None, empty: Resources::now()? };
        stage.cast().await?;
        stage.clear().await?;
        stage.settled().await?;
        stage.empty = Resources::now()?;
        stage.cast().await?;
        Ok(stage)
    }

    /// Makes them anew, after a call that changed something; what it left behind must be gone.
    pub async fn reset(&mut self) -> Outcome {
        self.clear().await?;
        self.empty.returned("after a hostile call").await?;
        self.cast().await
    }

    /// Takes them apart for good.
    pub async fn strike(mut self) -> Outcome {
        self.clear().await?;
        self.empty.returned("after all hostile calls").await
    }

    async fn cast(&mut self) -> Outcome {
        self.settings += 1;
        let caller = Puppet::start(&spec("caller", MEMORY_PAGES))?;
        let running = Puppet::start(&spec("running", MEMORY_PAGES))?;
        let building = Puppet::build(&spec("building", MEMORY_PAGES))?;
        to_the_end(|| running.child.handle.pause()).context("domain_pause")?;
        let (own, theirs) = domain::connect(&DomainHandle::SELF, &caller.child.handle).context("event_connect")?;
        let ports = system::create_ports(HARMLESS_PORTS.0, HARMLESS_PORTS.1).context("ioports_create")?;
        let interrupt = system::create_interrupt(HARMLESS_LINE).context("interrupt_create")?;
        let device = system::create_device(openable()?).context("device_create")?;
        let give = |handle: Handle, rights: Rights| -> Outcome<u64> {
            let given = caller.child.handle.give(handle, rights).context("handle_copy")?;
            Ok(given.0.into())
        };
        let mut given = Given { own: 0, foreign: caller.child.handle.0.0.into(), ..Given::default() };
        given.inspect_only = give(running.child.handle.0, Rights::INSPECT)?;
        given.channel = theirs.0.into();
        if self.authority == Authority::All {
            given.system = give(Handle::SYSTEM, Rights::all())?;
            given.running = give(running.child.handle.0, Rights::all())?;
            given.building = give(building.child.handle.0, Rights::all())?;
            given.ports = give(ports, Rights::all())?;
            given.interrupt = give(interrupt, Rights::all())?;
            given.device = give(device, Rights::all())?;
            given.spare = give(running.child.handle.0, Rights::all())?;
        } else {
            for handle in [
                &mut given.system,
                &mut given.running,
                &mut given.building,
                &mut given.ports,
                &mut given.interrupt,
                &mut given.device,
                &mut given.spare,
            ] {
                *handle = NOT_GIVEN;
            }
        }
        given.stale = give(ports, Rights::all())?;
        self.given = given;
        self.cast = Some(Cast { caller, running, building, port: own, ports, interrupt, device });
        let stale = [Value::fine(given.stale), Value::fine(0), Value::fine(0), Value::fine(0), Value::fine(0)];
        let close = protocol::hypercall::Hypercall::HandleClose as u64;
        match self.call(close, &stale) {
            Ok(Answer { result: 0, .. }) => {}
            other => return Err(alloc::format!("the caller cannot close a handle: {other:?}")),
        }
        if self.authority == Authority::All {
            let open = protocol::hypercall::Hypercall::DeviceOpen as u64;
            match self.call(open, &[Value::fine(given.device), Value::fine(DMA)]) {
                Ok(Answer { result: 0, .. }) => {}
                other => return Err(alloc::format!("the caller cannot open a device: {other:?}")),
            }
        }
        self.settled().await
    }

    async fn clear(&mut self) -> Outcome {
        let Some(Cast { caller, running, building, port, ports, interrupt, device }) = self.cast.take() else {
            return Ok(());
        };
        for puppet in [caller, running, building] {
            let handle = puppet.child.handle;
            // The caller may have destroyed it; then only the name is left.
            if to_the_end(|| handle.destroy()).is_err() {
                domain::close(handle.0).context("handle_close")?;
            }
            drop((puppet.console, puppet.orders));
            event::close(Port(puppet.child.created.control_port)).context("event_close")?;
        }
        event::close(port).context("event_close")?;
        domain::close(ports).context("handle_close")?;
        domain::close(device).context("handle_close")?;
        domain::close(interrupt).context("handle_close")
    }

    /// Waits until no frame is on its way.
    async fn settled(&self) -> Outcome {
        while system::info().context("system_info")?.parked_frames != 0 {
            time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn players(&self) -> Outcome<&Cast> {
        self.cast.as_ref().ok_or_else(|| "the stage is empty".into())
    }

    /// What there is now.
    pub fn state(&self) -> Outcome<State> {
        let cast = self.players()?;
        let face = |puppet: &Puppet| puppet.child.handle.info().map(Face::of).unwrap_or(Face::GONE);
        let others = [face(&cast.running), face(&cast.building)];
        Ok(State { resources: Resources::now()?, caller: face(&cast.caller), others })
    }

    /// Fills the memory that calls may write.
    pub fn paint(&self) {
        if let Some(cast) = &self.cast {
            cast.caller.console.write(0, &[PAINT; PAGE_SIZE as usize]);
        }
    }

    /// Whether nothing was written there.
    pub fn is_painted(&self) -> bool {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.cast.as_ref().is_some_and(|cast| {
            cast.caller.console.read(0, &mut bytes);
            bytes.iter().all(|byte| *byte == PAINT)
        })
    }

    /// Lets the caller make a call.
    pub fn call(&mut self, number: u64, arguments: &[Value]) -> Result<Answer, Silence> {
        self.calls += 1;
        let mut numbers = [0; 5];
        numbers.iter_mut().zip(arguments).for_each(|(number, value)| *number = value.number);
        let Some(cast) = &mut self.cast else { return Err(Silence::Gone) };
        cast.caller.order(number, numbers);
        let deadline = time::after(PATIENCE);
        loop {
            if let Some(answer) = cast.caller.answer(LOOK) {
                return Ok(answer);
            }
            match silence(&cast.caller.child.handle) {
                Silence::Runs if time::now() < deadline => {}
                silence => return Err(silence),
            }
        }
    }
}

/// Address of a PCI function that is no bridge.
fn openable() -> Outcome<u16> {
    for index in 0.. {
        match system::device(index).context("device_list")? {
            Some(info) if info.flags & BRIDGE == 0 => return Ok(info.address),
            Some(_) => {}
            None => break,
        }
    }
    Err("there is no PCI device".into())
}

fn silence(caller: &DomainHandle) -> Silence {
    let Ok(info) = caller.info() else { return Silence::Gone };
    match (Life::from_number(info.state), Reason::from_number(info.reason)) {
        (Some(Life::Dead), Some(Reason::Fault)) => Silence::Faulted,
        (Some(Life::Dead), _) => Silence::Ended,
        (Some(Life::Running), _) if info.pauses > 0 => Silence::Paused,
        (Some(Life::Running), _) => match caller.vcpu_info(0).map(|vcpu| VcpuState::from_number(vcpu.state)) {
            Ok(Some(VcpuState::Blocked)) => Silence::Waits,
            _ => Silence::Runs,
        },
        _ => Silence::Gone,
    }
}

impl Face {
    /// Of a domain that does not exist any more.
    const GONE: Face = Face {
        life: u32::MAX,
        counts: [0; 7],
        pages: [0; 3],
        schedule: SchedParams { weight: 0, cap: 0, class: 0, vcpu: 0, affinity: 0 },
    };

    fn of(info: DomainInfo) -> Face {
        Face {
            life: info.state,
            counts: [
                info.pauses,
                info.vcpus_started,
                info.handles,
                info.ports,
                info.mappings,
                info.mapped_by_others,
                info.resets,
            ],
            pages: [info.used_pages, info.memory_pages, info.max_pages],
            schedule: info.schedule,
        }
    }
}
