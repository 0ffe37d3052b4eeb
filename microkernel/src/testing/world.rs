//! A booted core with its first domain, and the means to act as any domain.

use std::boxed::Box;
use std::vec::Vec;

use protocol::answer::decode;
use protocol::domain::{DomainCreated, DomainSpec, SchedParams};
use protocol::error::{Error, Result};
use protocol::handle::Handle;
use protocol::hypercall::Hypercall;
use protocol::layout::{HEAP, IMAGE_BASE, PAGE_SIZE};
use protocol::system::{Features, SystemInfo};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::sim::Sim;
use crate::boot::BootConfig;
use crate::flush::MAILBOXES;
use crate::platform::{Flush, Frame, Memory, Phys, reg};
use crate::state::Core;
use crate::table::Slot;

/// First frame that the core manages; below it lie its own root, ACPI tables and the bundle.
pub const FIRST: u32 = 64;
/// Scratch memory of the first domain and of every child: pages of its heap.
pub const SCRATCH_PAGES: u64 = 16;
/// The root of the core's own address space.
const TEMPLATE: Frame = Frame(2);
const BUNDLE: u64 = 16 * PAGE_SIZE;

/// A core on a simulated machine.
pub struct World {
    /// The core.
    pub core: Box<Core<Sim>>,
}

/// A domain as its maker knows it.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub slot: Slot,
    pub handle: u64,
    pub port: u64,
}

/// A tar file with one entry.
pub fn tar(name: &str, file: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(std::format!("{:011o}\0", file.len()).as_bytes());
    header[257..263].copy_from_slice(b"ustar\0");
    header[156] = b'0';
    header[263..265].copy_from_slice(b"00");
    header[148..156].fill(b' ');
    let sum = header.iter().map(|&byte| byte as u32).sum::<u32>();
    header[148..156].copy_from_slice(std::format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(file);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// An ELF file: these segments, each (address, flags, bytes, size in memory), one page apart in the file.
pub fn elf(segments: &[(u64, u32, &[u8], u64)]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62, 1, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [IMAGE_BASE + 0x10, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, segments.len() as u16, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for (index, &(address, flags, bytes, memory)) in segments.iter().enumerate() {
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        let offset = PAGE_SIZE * (index as u64 + 1);
        for word in [offset, address, address, bytes.len() as u64, memory, PAGE_SIZE] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    for (index, (_, _, bytes, _)) in segments.iter().enumerate() {
        file.resize(PAGE_SIZE as usize * (index + 1), 0);
        file.extend_from_slice(bytes);
    }
    file
}

/// The specification of a small domain.
pub fn spec(pages: u64) -> DomainSpec {
    DomainSpec {
        name: protocol::name("child"),
        memory_pages: pages,
        max_pages: 2 * pages,
        vcpus: 2,
        grant_frames: 1,
        max_mappings: 16,
        retained_pages: 1,
        guest_grant_frames: 0,
        large_pages: 0,
        schedule: SchedParams::default(),
    }
}

impl World {
    /// A machine with `frames` frames for domains, all of them dirty, and `cpus` CPUs.
    pub fn new(frames: u32, cpus: usize) -> World {
        Self::with_fill(frames, cpus, 0xcc)
    }

    /// As [`World::new`], with memory that holds `fill`.
    pub fn with_fill(frames: u32, cpus: usize, fill: u8) -> World {
        let image = elf(&[(IMAGE_BASE, 5, b"text", 4), (IMAGE_BASE + 2 * PAGE_SIZE, 6, b"data", 3 * PAGE_SIZE)]);
        let mut world = World::boot(frames, cpus, fill, &tar("dom0", &image)).unwrap();
        world.ok(Slot::DOM0, Hypercall::MemoryPopulate, &[Handle::SELF.0 as u64, HEAP, SCRATCH_PAGES, 1]);
        world
    }

    /// Boots with this bundle.
    pub fn boot(frames: u32, cpus: usize, fill: u8, bundle: &[u8]) -> core::result::Result<World, &'static str> {
        let end = FIRST + frames;
        let mut core = Box::new(Core::new(Sim::new(end as usize, fill)));
        core.machine.write(Phys(BUNDLE), bundle);
        core.machine.zero(TEMPLATE);
        core.machine.store(TEMPLATE.at(511 * 8), 0xabc_d003);
        let memory = end as u64 * PAGE_SIZE;
        let ram = FIRST as u64 * PAGE_SIZE..end as u64 * PAGE_SIZE;
        let config = BootConfig {
            ram: core::slice::from_ref(&ram),
            bundle,
            bundle_start: Phys(BUNDLE),
            boot_line: "dom0_mem=1 console=x",
            info: SystemInfo {
                cpus: cpus as u32,
                tsc_hz: 1_000_000_000,
                total_frames: end as u64,
                features: (Features::NX | Features::SVM | Features::VM_LARGE_PAGES | Features::IOMMU_OFF_INSECURE)
                    .bits(),
                ..SystemInfo::default()
            },
            template: TEMPLATE,
        };
        core.find_devices(config.ram, |at, length| at.0 + length <= memory);
        core.boot(&config)?;
        Ok(World { core })
    }

    /// Lets vCPU `index` of a domain be the one that runs on `cpu`.
    pub fn enter(&mut self, cpu: usize, slot: Slot, index: u64) {
        let vcpu = self.core.domains[slot].vcpu(index).unwrap();
        self.core.cpus[cpu].current = self.core.vcpus[vcpu];
    }

    /// Nobody runs on `cpu`.
    pub fn leave(&mut self, cpu: usize) {
        self.core.cpus[cpu].current = crate::vcpu::Caller::NOBODY;
    }

    /// Makes a hypercall as the first vCPU of a domain, on CPU 0, and carries it through to its end.
    pub fn call(&mut self, slot: Slot, call: Hypercall, arguments: &[u64]) -> Result {
        self.enter(0, slot, 0);
        let result = self.call_on(0, call as u64, arguments);
        self.leave(0);
        result
    }

    /// Makes a hypercall as whoever runs on `cpu`. The other CPUs flush when they are asked.
    pub fn call_on(&mut self, cpu: usize, number: u64, arguments: &[u64]) -> Result {
        let mut all = [0; 5];
        all[..arguments.len()].copy_from_slice(arguments);
        let context = self.core.cpus[cpu].current.context;
        self.core.hypercall(cpu, number, all);
        while let Some(Flush { epoch, cpus }) = self.core.awaited(cpu) {
            (0..64).filter(|other| cpus & 1 << other != 0).for_each(|other| {
                MAILBOXES.serve(other, || ());
            });
            assert!(MAILBOXES.reached(epoch, cpus));
            self.core.resume(cpu);
        }
        decode(self.core.machine.load(context.at(reg::RAX * 8)))
    }

    /// As [`World::call`], repeated while the core says so; must succeed.
    pub fn ok(&mut self, slot: Slot, call: Hypercall, arguments: &[u64]) -> u64 {
        loop {
            match self.call(slot, call, arguments) {
                Err(Error::Again) => {}
                result => return result.unwrap_or_else(|error| panic!("{call:?} {arguments:x?}: {error:?}")),
            }
        }
    }

    /// Copies bytes into a domain's memory, as the domain itself could.
    pub fn poke(&self, slot: Slot, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            let frame = self.core.domains[slot].space.translate(&self.core.machine, address, true).unwrap();
            self.core.machine.write(frame.at(address as usize % 4096), &[*byte]);
        }
    }

    /// Copies bytes out of a domain's memory.
    pub fn peek(&self, slot: Slot, address: u64, length: usize) -> Vec<u8> {
        let byte = |address: u64| {
            let frame = self.core.domains[slot].space.translate(&self.core.machine, address, false).unwrap();
            let mut byte = [0];
            self.core.machine.read(frame.at(address as usize % 4096), &mut byte);
            byte[0]
        };
        (address..address + length as u64).map(byte).collect()
    }

    /// Puts a value into a domain's memory and gives its address, for a call.
    pub fn put<T: IntoBytes + Immutable>(&self, slot: Slot, address: u64, value: &T) -> u64 {
        self.poke(slot, address, value.as_bytes());
        address
    }

    /// Takes a value from a domain's memory.
    pub fn get<T: FromBytes>(&self, slot: Slot, address: u64) -> T {
        T::read_from_bytes(&self.peek(slot, address, size_of::<T>())).ok().unwrap()
    }

    /// Lets dom0 make a domain.
    pub fn create(&mut self, spec: &DomainSpec) -> Result<Child> {
        let (at, out) = (self.put(Slot::DOM0, HEAP, spec), HEAP + 2048);
        self.call(Slot::DOM0, Hypercall::DomainCreate, &[1, at, out])?;
        let created: DomainCreated = self.get(Slot::DOM0, out);
        let slot = Slot::new(created.id as usize);
        Ok(Child { slot, handle: created.handle as u64, port: created.control_port as u64 })
    }

    /// A running domain with scratch memory in its heap.
    pub fn child(&mut self) -> Child {
        let child = self.create(&spec(100)).unwrap();
        self.start(child);
        child
    }

    /// Gives a domain in building its scratch memory, and starts it.
    pub fn start(&mut self, child: Child) {
        self.ok(Slot::DOM0, Hypercall::MemoryPopulate, &[child.handle, HEAP, SCRATCH_PAGES, 1]);
        self.ok(Slot::DOM0, Hypercall::DomainStart, &[child.handle, IMAGE_BASE, 0]);
    }

    /// Destroys a domain and closes dom0's port to it.
    pub fn destroy(&mut self, child: Child) {
        self.ok(Slot::DOM0, Hypercall::DomainDestroy, &[child.handle]);
        self.ok(Slot::DOM0, Hypercall::EventClose, &[0, child.port]);
    }

    /// Makes two domains peers of each other, at the index of their slot.
    pub fn befriend(&mut self, one: Child, other: Child) {
        for (a, b) in [(one, other), (other, one)] {
            self.ok(Slot::DOM0, Hypercall::DomainPeer, &[a.handle, b.slot.number() as u64, b.handle]);
        }
    }
}
