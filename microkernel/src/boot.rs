//! What the shell found out about the machine, and the first domain made from it.

use core::ops::Range;
use core::result::Result;

use elf::{ElfBytes, abi, endian::LittleEndian};
use protocol::domain::{CLASS_DRIVER, DomainSpec, SchedParams};
use protocol::event::DOMAIN_EVENT_PORT;
use protocol::layout::{ARGUMENTS, BUNDLE, VCPU_AREA_SIZE, VCPU_AREAS};
use protocol::system::SystemInfo;
use tar_no_std::TarArchiveRef;

use crate::calls::MAX_PAGES;
use crate::handles;
use crate::ports::{Entry, Use};
use crate::prelude::*;
use crate::space::{Access, leaf};

/// Memory of the first domain unless the boot line says otherwise, in MiB.
const DOM0_MEMORY: u64 = 64;
/// Grants of others the first domain can hold mapped: the two control rings of every other domain, and as many again.
const DOM0_MAPPINGS: u32 = 4 * protocol::domain::MAX_DOMAINS as u32;
/// Stack of the first domain, in pages.
const DOM0_STACK: u64 = 64;

const NO_ROOM: &str = "not enough memory for dom0: see dom0_mem on the boot line";
const NO_IMAGE: &str = "the entry `dom0` of the boot bundle is no static x86-64 ELF file with separate segments";

/// What the shell tells the core once, before any other call.
#[derive(Clone, Debug)]
pub struct BootConfig<'a> {
    /// RAM for the core to manage, as byte ranges in any order: nothing of the core image, the bundle, the shell's own
    /// structures or the firmware lies in it. The core takes its frame table from it. All of it must be reachable through
    /// [`crate::platform::Memory`].
    pub ram: &'a [Range<u64>],
    /// The boot bundle, which nobody changes any more.
    pub bundle: &'a [u8],
    /// Where it lies: at the start of a page. The rest of its last page is nobody's either.
    pub bundle_start: Phys,
    /// The boot line.
    pub boot_line: &'a str,
    /// What is told about the machine, as far as it does not change: CPUs are numbered from 0.
    pub info: SystemInfo,
    /// Root page table of the core's own address space: its entries 256..512 go into every address space.
    pub template: Frame,
}

/// The file `name` in a tar file.
fn find<'a>(tar: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut files = TarArchiveRef::new(tar).ok()?.entries();
    files.find(|file| file.filename().as_str() == Ok(name)).map(|file| file.data())
}

impl<M: Machine> Core<M> {
    /// Takes the memory over, loads the first domain from the bundle and makes it runnable. The error says why it cannot.
    pub fn boot(&mut self, config: &BootConfig<'_>) -> Result<(), &'static str> {
        self.clock.init(config.info.tsc_hz, self.machine.tsc());
        self.sched.init(config.info.cpus as usize);
        self.template = config.template;
        self.bundle_bytes = config.bundle.len() as u64;
        self.info = SystemInfo { abi_version: protocol::ABI_VERSION, ..config.info };
        let bundle_end = config.bundle_start.0 + self.bundle_bytes;
        let managed = self.frames.manage(&self.machine, config.ram, bundle_end);
        refuse_if(!managed, "not enough memory for the frame table")?;
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
            schedule: SchedParams { class: CLASS_DRIVER, ..SchedParams::default() },
            ..DomainSpec::default()
        };
        self.build_first(config, &spec).map_err(|_| NO_ROOM)?;
        let image = find(config.bundle, "dom0").ok_or("the boot bundle has no entry `dom0`")?;
        let entry = self.load_image(Slot::DOM0, image)?;
        self.start(Slot::DOM0, entry, 0);
        Ok(())
    }

    /// Makes the first domain with all it has but its image.
    fn build_first(&mut self, config: &BootConfig<'_>, spec: &DomainSpec) -> protocol::error::Result<()> {
        let slot = Slot::DOM0;
        self.create(slot, spec)?;
        self.add_handle(slot, handles::Entry::new(ObjectKind::System, Rights::all(), 0))?;
        self.open_port(slot, Some(DOMAIN_EVENT_PORT), Entry::new(Use::CORE, 0))?;
        let stack = VCPU_AREAS + VCPU_AREA_SIZE - DOM0_STACK * PAGE_SIZE;
        self.populate(slot, stack, DOM0_STACK, Access::Write)?;
        let space = self.domains[slot].space;
        for offset in (0..self.bundle_bytes).step_by(PAGE_SIZE as usize) {
            let frame = Phys(config.bundle_start.0 + offset).frame();
            space.map(&self.machine, &mut self.frames, slot, BUNDLE + offset, leaf(frame, Access::Read))?;
        }
        self.fill(slot, ARGUMENTS, config.boot_line.as_bytes())
    }

    /// Loads the segments of a static ELF file; gives its entry point.
    fn load_image(&mut self, slot: Slot, image: &[u8]) -> Result<u64, &'static str> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(image).map_err(|_| NO_IMAGE)?;
        refuse_if(file.ehdr.e_type != abi::ET_EXEC || file.ehdr.e_machine != abi::EM_X86_64, NO_IMAGE)?;
        let segments = file.segments().ok_or(NO_IMAGE)?;
        for segment in segments.iter().filter(|segment| segment.p_type == abi::PT_LOAD) {
            let access = match segment.p_flags & (abi::PF_W | abi::PF_X) {
                0 => Access::Read,
                abi::PF_W => Access::Write,
                abi::PF_X => Access::Execute,
                _ => return Err(NO_IMAGE),
            };
            let bytes = file.segment_data(&segment).ok().filter(|bytes| bytes.len() as u64 <= segment.p_memsz);
            let bytes = bytes.ok_or(NO_IMAGE)?;
            let pages = segment.p_memsz.div_ceil(PAGE_SIZE);
            for first in (0..pages).step_by(MAX_PAGES) {
                let address = segment.p_vaddr.saturating_add(first * PAGE_SIZE);
                let part = pages.min(first + MAX_PAGES as u64) - first;
                self.populate(slot, address, part, access).map_err(|_| NO_ROOM)?;
            }
            self.fill(slot, segment.p_vaddr, bytes).map_err(|_| NO_IMAGE)?;
        }
        Ok(file.ehdr.e_entry)
    }

    /// Copies bytes to memory of a domain, whatever its access.
    fn fill(&self, slot: Slot, address: u64, bytes: &[u8]) -> protocol::error::Result<()> {
        self.reach(slot, address, bytes.len(), false).map(|memory| memory.write(&self.machine, 0, bytes))
    }
}
