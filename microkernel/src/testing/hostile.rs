//! Every hypercall with every kind of bad argument: only declared errors, and a refused call changes nothing.
//!
//! The arguments are made from the declarations, so a new hypercall is attacked as soon as it is declared.

use std::collections::BTreeSet;
use std::vec::Vec;

use protocol::declaration::{DECLARATIONS, Declaration, Kind};
use protocol::error::Error;
use protocol::handle::{Handle, Rights};
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;

use super::bus::{DISK, SOUND};
use super::world::{World, spec};
use crate::table::Slot;

/// Numbers that are at the edge of something.
const EDGES: [u64; 14] =
    [0, 1, 2, 3, 511, 513, 4096, 65_537, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX];

/// Who attacks, and what there is to attack.
struct Scene {
    world: World,
    attacker: Slot,
    handles: Vec<u64>,
    scratch: u64,
}

/// A machine with some of everything; the attacker is the first domain, or a running child that was handed a few things.
fn scene(privileged: bool) -> Scene {
    let mut world = World::with_fill(420, 2, 0);
    let (running, building) = (world.child(), world.create(&spec(60)).unwrap());
    world.befriend(running, building);
    let dom0 = Slot::DOM0;
    let ports = world.ok(dom0, H::IoPortsCreate, &[1, 0x3f8, 8]);
    let line = world.ok(dom0, H::InterruptCreate, &[1, 4]);
    let stale = world.ok(dom0, H::HandleCopy, &[0, building.handle, 0x1f]);
    world.ok(dom0, H::HandleClose, &[stale]);
    let [disk, sound] = [DISK, SOUND].map(|address| world.ok(dom0, H::DeviceCreate, &[1, address.into()]));
    let mut handles = std::vec![0, 1, running.handle, building.handle, disk, ports, line, sound, stale, 200];
    let attacker = if privileged { dom0 } else { running.slot };
    if !privileged {
        for (handle, rights) in [(building.handle, Rights::all()), (ports, Rights::USE), (1, Rights::INSPECT)] {
            handles.push(world.ok(dom0, H::HandleCopy, &[running.handle, handle, rights.bits() as u64]));
        }
        handles[4] = world.ok(dom0, H::HandleCopy, &[running.handle, disk, Rights::all().bits() as u64]);
    }
    world.ok(attacker, H::DeviceOpen, &[handles[4], 1]);
    world.ok(attacker, H::DeviceInterrupt, &[handles[4], 0]);
    for domain in [dom0, running.slot, building.slot] {
        let context =
            |world: &World| world.core.domains[domain].vcpus().map(|id| world.core.vcpus[id].context.0).collect();
        let contexts: Vec<u32> = context(&world);
        world.core.machine.blind.borrow_mut().extend(contexts);
    }
    // The lists of free frames may change their order; what is on them may not.
    world.core.machine.blind.borrow_mut().insert(super::world::FIRST);
    Scene { world, attacker, handles, scratch: HEAP + 8 * PAGE_SIZE }
}

impl Scene {
    fn candidates(&self, kind: Kind) -> Vec<u64> {
        let mut values = EDGES.to_vec();
        let mapped_end = HEAP + super::world::SCRATCH_PAGES * PAGE_SIZE;
        let addresses = [
            self.scratch,
            MMIO,
            self.scratch + 1,
            mapped_end - 1,
            mapped_end - 16,
            mapped_end,
            START_INFO,
            GRANT_TABLE,
            IMAGE_BASE,
            VCPU_AREAS + PAGE_SIZE,
            GRANT_WINDOW,
            MMIO_END,
            USER_END - 1,
            USER_END,
            0x8000_0000_0000,
            0xffff_8000_0000_0000,
            u64::MAX - 7,
        ];
        match kind {
            Kind::System
            | Kind::Domain
            | Kind::AnyDomain
            | Kind::Live
            | Kind::Other
            | Kind::Building
            | Kind::AnyHandle
            | Kind::IoPorts
            | Kind::Interrupt
            | Kind::Device
            | Kind::Opened => {
                values.extend(&self.handles);
                values.extend(self.handles.iter().map(|handle| handle | 1 << 32));
                values.extend(self.handles.iter().map(|handle| handle + Handle::new(0, 1).0 as u64));
            }
            Kind::Read | Kind::Write | Kind::ReadWrite | Kind::Address => values.extend(addresses),
            Kind::Port => values.extend([3, 4, 5, 1023, 1024, 1 << 32 | 1]),
            _ => values.extend([1, 2, 16, 64, 65]),
        }
        values
    }

    /// All that a refused call must leave alone.
    fn state(&self) -> (u64, Vec<Vec<u8>>) {
        use zerocopy::IntoBytes;
        let core = &self.world.core;
        let domain = |slot| {
            let domain = &core.domains[slot];
            let mut info = domain.info;
            (info.hypercalls, info.state) = (0, domain.state.map_or(9, |state| state as u32));
            let mut bytes = info.as_bytes().to_vec();
            let account = core.frames.accounts[slot];
            for number in [domain.mapping_free, account.used, account.set_aside, account.mapped] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(domain.io_ports.iter().flat_map(|range| range.to_le_bytes()));
            bytes.extend(domain.progress.to_le_bytes());
            for id in domain.vcpus() {
                let info = core.sched.info(id, 0);
                bytes.extend([info.state as u8, core.sched.is_started(id) as u8, core.sched.waits(id) as u8]);
                bytes.extend(info.affinity.to_le_bytes());
            }
            bytes
        };
        let mut all: Vec<Vec<u8>> = (0..20).map(|slot| domain(Slot::new(slot))).collect();
        let bound = core.interrupts.iter().map(|bound| bound.is_some() as u8);
        all.push(
            bound
                .chain([core.serial.is_some() as u8])
                .chain(core.devices.iter().map(|device| device.info.owner as u8))
                .chain(core.machine.masked.get().to_le_bytes())
                .collect(),
        );
        (core.machine.digest(), all)
    }

    /// Makes a call; gives whether it was carried out.
    fn attack(&mut self, declaration: &Declaration, arguments: &[u64]) -> bool {
        self.world.enter(0, self.attacker, 0);
        let before = self.state();
        let result = self.world.call_on(0, declaration.number, arguments);
        self.world.leave(0);
        let Err(error) = result else { return true };
        let implied = declaration.arguments.iter().flat_map(|(_, kind, _)| kind.errors());
        let allowed: Vec<Error> = declaration.errors.iter().chain(implied).copied().collect();
        assert!(allowed.contains(&error), "{} {arguments:x?} gave {error:?}", declaration.name);
        if error == Error::Again {
            return true;
        }
        assert!(self.state() == before, "{} {arguments:x?} gave {error:?} and changed something", declaration.name);
        false
    }
}

fn storm(privileged: bool) {
    let mut scene = scene(privileged);
    let mut seed = 0x1234_5678_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for declaration in DECLARATIONS {
        let candidates: Vec<Vec<u64>> =
            declaration.arguments.iter().map(|(_, kind, _)| scene.candidates(*kind)).collect();
        let rounds = if candidates.len() < 2 { candidates.iter().map(Vec::len).sum() } else { 1500 };
        let (mut tried, mut carried_out) = (BTreeSet::new(), 0);
        for round in 0..rounds.max(1) {
            // Mostly what could be right, so that all checks are reached; the likely values come after the edges.
            let mut pick = |values: &Vec<u64>| match random(4) {
                _ if candidates.len() < 2 => values[round],
                0 => values[random(values.len())],
                _ => values[EDGES.len() + random((values.len() - EDGES.len()).min(5))],
            };
            let arguments: Vec<u64> = candidates.iter().map(&mut pick).collect();
            if tried.insert(arguments.clone()) && scene.attack(declaration, &arguments) {
                carried_out += 1;
                scene.world.check();
                scene = self::scene(privileged);
            }
            if carried_out > 20 {
                break;
            }
        }
    }
    scene.world.check();
}

#[test]
fn the_first_domain_gets_declared_errors_only() {
    storm(true);
}

#[test]
fn an_ordinary_domain_gets_declared_errors_only() {
    storm(false);
}

#[test]
fn undeclared_numbers_are_no_calls() {
    let mut scene = scene(true);
    for number in [DECLARATIONS.len() as u64, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        scene.world.enter(0, Slot::DOM0, 0);
        let before = scene.state();
        assert_eq!(scene.world.call_on(0, number, &[0; 5]), Err(Error::NoSuchCall));
        scene.world.leave(0);
        assert!(scene.state() == before);
    }
}

/// The calls that an ordinary domain could use to reach beyond itself, with everything right but the authority.
#[test]
fn what_was_not_handed_over_cannot_be_used() {
    let mut world = World::new(420, 1);
    let (one, other) = (world.child(), world.create(&spec(60)).unwrap());
    let handle = world.ok(Slot::DOM0, H::HandleCopy, &[one.handle, other.handle, Rights::INSPECT.bits() as u64]);
    let at = HEAP;
    for (call, arguments) in [
        (H::DomainWrite, [handle, IMAGE_BASE, at, 8, 0]),
        (H::DomainStart, [handle, IMAGE_BASE, 0, 0, 0]),
        (H::DomainPause, [handle, 0, 0, 0, 0]),
        (H::DomainUnpause, [handle, 0, 0, 0, 0]),
        (H::DomainReset, [handle, 0, 0, 0, 0]),
        (H::DomainDestroy, [handle, 0, 0, 0, 0]),
        (H::DomainSetMemory, [handle, 60, 60, 0, 0]),
        (H::DomainSchedule, [handle, at, 0, 0, 0]),
        (H::DomainPeer, [handle, 9, 0, 0, 0]),
        (H::MemoryPopulate, [handle, HEAP, 1, 1, 0]),
        (H::EventConnect, [0, handle, 0, 0, 0]),
        (H::HandleCopy, [0, handle, 1, 0, 0]),
        (H::DomainPause, [0, 0, 0, 0, 0]),
        (H::DomainReset, [0, 0, 0, 0, 0]),
        (H::DomainDestroy, [0, 0, 0, 0, 0]),
        (H::DomainSchedule, [0, at, 0, 0, 0]),
        (H::DomainSetMemory, [0, 60, 60, 0, 0]),
    ] {
        assert_eq!(world.call(one.slot, call, &arguments), Err(Error::NotPermitted), "{call:?}");
    }
    for (call, arguments) in [
        (H::LogRead, [1, at, 0, 0, 0]),
        (H::SystemInfo, [1, at, 0, 0, 0]),
        (H::AcpiRead, [1, at, 0, 0, 0]),
        (H::DeviceList, [1, 0, at, 0, 0]),
        (H::DeviceCreate, [1, DISK as u64, 0, 0, 0]),
        (H::IoPortsCreate, [1, 1, 1, 0, 0]),
        (H::InterruptCreate, [1, 4, 0, 0, 0]),
        (H::DomainCreate, [1, at, at, 0, 0]),
    ] {
        assert_eq!(world.call(one.slot, call, &arguments), Err(Error::WrongKind), "{call:?}");
    }
    world.ok(one.slot, H::DomainInfo, &[handle, at]);
    world.check();
}
