//! What the shell found out about the machine, and the first domain made from it.

use core::ops::Range;

use heapless::String;
use protocol::domain::{CLASS_DRIVER, DomainSpec, SchedParams};
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::handle::Rights;
use protocol::layout::{ARGUMENTS, BUNDLE, PAGE_SIZE, VCPU_AREA_SIZE, VCPU_AREAS};
use protocol::start::{ARGUMENTS_MAX, BootArguments, encode_arguments};
use protocol::system::Features;

use crate::bundle::{File, Segment, read_elf};
use crate::handles::{Entry, Object};
use crate::platform::{Frame, Machine, Phys};
use crate::ports::Binding;
use crate::slot::Slot;
use crate::space::Access;
use crate::state::Core;

/// Memory of the first domain unless the boot line says otherwise, in MiB.
const DOM0_MEMORY: u64 = 64;
/// Grants of others the first domain can hold mapped: the two control rings of every other domain, and as many again.
const DOM0_MAPPINGS: u32 = 4 * protocol::domain::MAX_DOMAINS as u32;
/// Stack of the first domain, in pages.
const DOM0_STACK: u64 = 64;
/// Pages that are populated at a time.
const CHUNK: u64 = 512;

/// What the shell tells the core once, before any other call.
#[derive(Clone, Debug)]
pub struct BootConfig<'a> {
    /// RAM for the core to manage, as byte ranges in any order: nothing of the core image, the bundle, the shell's own
    /// structures or the firmware lies in it. The core takes its frame table from it. All of it must be reachable through
    /// [`crate::platform::Memory`].
    pub ram: &'a [Range<u64>],
    /// Frames of RAM the firmware reported, used ones included.
    pub total_frames: u64,
    /// The boot bundle, page-aligned at its start and readable through [`crate::platform::Memory`].
    pub bundle: Range<Phys>,
    /// The boot line.
    pub boot_line: &'a str,
    /// CPUs that run, numbered from 0.
    pub cpus: usize,
    /// TSC frequency, Hz.
    pub tsc_hz: u64,
    /// What the CPUs offer and the shell switched on.
    pub features: Features,
    /// Brand string of the CPU, zero-padded.
    pub brand: [u8; 48],
    /// Root page table of the core's own address space: its entries 256..512 go into every address space.
    pub template: Frame,
}

impl<M: Machine> Core<M> {
    /// Takes the memory over, loads the first domain from the bundle and makes it runnable. The error says why it cannot.
    pub fn boot(&mut self, config: &BootConfig<'_>) -> Result<(), &'static str> {
        self.tsc_hz = config.tsc_hz;
        self.clock.init(config.tsc_hz, self.machine.tsc());
        self.sched.init(config.cpus);
        self.cpu_count = config.cpus;
        self.total_frames = config.total_frames;
        (self.features, self.brand, self.template) = (config.features, config.brand, config.template);
        self.bundle_bytes = config.bundle.end.0 - config.bundle.start.0;
        if !self.frames.manage(&self.machine, config.ram, config.bundle.end.0) {
            return Err("not enough memory for the frame table");
        }
        let bundle = File::new(config.bundle.start, self.bundle_bytes);
        let image = bundle.entry(&self.machine, "dom0").ok_or("the boot bundle has no entry `dom0`")?;

        let memory = config.boot_line.split_whitespace().find_map(|word| word.strip_prefix("dom0_mem="));
        let memory = memory.and_then(|text| text.parse().ok()).unwrap_or(DOM0_MEMORY);
        let pages = memory.saturating_mul((1 << 20) / PAGE_SIZE);
        let spec = DomainSpec {
            name: protocol::name("dom0"),
            memory_pages: pages,
            max_pages: pages,
            vcpus: 1,
            grant_frames: 1,
            max_mappings: DOM0_MAPPINGS,
            retained_pages: 0,
            schedule: SchedParams { class: CLASS_DRIVER, ..SchedParams::default() },
        };
        const NO_ROOM: &str = "not enough memory for dom0: see dom0_mem on the boot line";
        let dom0 = Slot::DOM0;
        self.create(dom0, &spec).map_err(|_| NO_ROOM)?;
        self.add_handle(dom0, Entry { object: Object::System, rights: Rights::all() }).map_err(|_| NO_ROOM)?;
        self.open_fixed(dom0, DOMAIN_EVENT_PORT, Binding::Core);

        let mut segments = heapless::Vec::<Segment, 16>::new();
        let entry = read_elf(&self.machine, image, |segment| segments.push(segment).map_err(|_| NO_ROOM))?;
        for segment in segments {
            self.load_segment(dom0, segment)?;
        }
        let stack = VCPU_AREAS + VCPU_AREA_SIZE - DOM0_STACK * PAGE_SIZE;
        self.populate(dom0, stack, DOM0_STACK, Access::Write).map_err(|_| NO_ROOM)?;
        let space = self.domains[dom0].space;
        for page in 0..self.bundle_bytes.div_ceil(PAGE_SIZE) {
            let frame = Frame(config.bundle.start.frame().0 + page as u32);
            let address = BUNDLE + page * PAGE_SIZE;
            let mapped = space.map(&self.machine, &mut self.frames, dom0, address, frame, Access::Read);
            mapped.map_err(|_| NO_ROOM)?;
        }
        let command_line = String::try_from(config.boot_line).map_err(|_| "the boot line is too long")?;
        let mut page = [0; ARGUMENTS_MAX];
        let used = encode_arguments(&BootArguments { command_line, console: None }, &mut page).unwrap_or(0);
        if let Some(frame) = space.translate(&self.machine, ARGUMENTS, false) {
            self.machine.write(frame.at(0), &page[..used]);
        }
        self.start(dom0, entry, 0);
        Ok(())
    }

    fn load_segment(&mut self, slot: Slot, segment: Segment) -> Result<(), &'static str> {
        for first in (0..segment.pages).step_by(CHUNK as usize) {
            let address = segment.address.saturating_add(first * PAGE_SIZE);
            let populated = self.populate(slot, address, CHUNK.min(segment.pages - first), segment.access);
            populated.map_err(|_| "dom0 does not fit into its memory or its image area")?;
        }
        let mut buffer = [0; PAGE_SIZE as usize];
        for offset in (0..segment.file.size).step_by(PAGE_SIZE as usize) {
            let bytes = &mut buffer[..PAGE_SIZE.min(segment.file.size - offset) as usize];
            segment.file.read(&self.machine, offset, bytes);
            if let Some(frame) = self.domains[slot].space.translate(&self.machine, segment.address + offset, false) {
                self.machine.write(frame.at(0), bytes);
            }
        }
        Ok(())
    }
}
