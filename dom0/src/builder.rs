//! Builds a domain from an image: create, populate, fill, start. What fails is undone by whoever created it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use protocol::arguments::{ARGUMENTS_MAX, BootArguments, encode_arguments};
use protocol::domain::{ALL_VCPUS, DomainCreated, DomainSpec, SchedParams};
use protocol::error::Error;
use protocol::handle::Handle;
use protocol::hypercall::protection;
use protocol::layout::{ARGUMENTS, PAGE_SIZE, VCPU_AREA_SIZE, VCPU_AREAS};
use protocol::system::Features;

use crate::config::{Config, Guest, size};
use crate::guest;
use crate::hypervisor::Hypervisor;
use crate::image::{Image, Segment};

/// Pages of the first vCPU's stack.
pub const STACK_PAGES: u64 = 16;
/// Most pages of one populate call.
const POPULATE_MAX: u64 = 512;
/// Most bytes of one write call.
const WRITE_MAX: usize = 65536;

/// A step of building failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    /// What the core answered.
    pub error: Error,
    /// What could not be done, and the cure.
    pub text: String,
}

/// What the core is asked for when a domain with this configuration is made.
pub fn spec(config: &Config) -> DomainSpec {
    let native = DomainSpec {
        name: protocol::name(&config.name),
        memory_pages: config.memory_pages,
        max_pages: config.max_pages,
        vcpus: config.vcpus,
        grant_frames: config.grant_frames,
        max_mappings: config.max_mappings,
        retained_pages: config.retained_pages,
        guest_grant_frames: 0,
        large_pages: 0,
        schedule: SchedParams {
            weight: config.weight,
            cap: config.cap,
            class: config.class,
            vcpu: ALL_VCPUS,
            affinity: config.affinity.first().copied().unwrap_or(0),
        },
    };
    match config.guest {
        Guest::Native { .. } => native,
        Guest::Linux { .. } => guest::spec(config, native),
    }
}

/// Makes the domain, empty.
pub fn create<H: Hypervisor>(hypervisor: &mut H, spec: &DomainSpec) -> Result<DomainCreated, BuildError> {
    let mut created = retry(|| hypervisor.domain_create(spec));
    if created == Err(Error::NoMemory) && spec.large_pages > 0 {
        created = retry(|| hypervisor.domain_create(&guest::spec_in_pieces(spec)));
    }
    created.map_err(|error| {
        let (free, cpus, features) =
            hypervisor.system_info().map_or((0, 0, 0), |info| (info.pool_frames, info.cpus, info.features));
        let text = match error {
            Error::NoMemory if spec.memory_pages > free => format!(
                "needs {}, {} free: lower `memory` or destroy a domain",
                size::mib(spec.memory_pages),
                size::mib(free)
            ),
            Error::NoMemory => {
                format!("`memory`, {}, does not hold the tables of a domain: raise it", size::mib(spec.memory_pages))
            }
            Error::Unsupported => "a Linux guest needs a CPU with SVM or VMX and nested paging".to_string(),
            Error::TableFull => "no room for another domain: destroy one".to_string(),
            Error::Invalid if no_such_cpu(spec.schedule.affinity, cpus) => {
                format!("{cpus} CPUs run here, from 0: change `cpus` or `cpu`")
            }
            Error::Invalid
                if spec.guest_grant_frames > 0
                    && spec.schedule.affinity == 1
                    && features & Features::VM_SPARES_CPU_0.bits() != 0 =>
            {
                "no virtual machine runs on CPU 0 of an emulated machine: change `cpus` or `cpu`".to_string()
            }
            error => format!("the core refuses to make it: {error}"),
        };
        BuildError { error, text }
    })
}

/// Whether an affinity names only CPUs that do not run.
fn no_such_cpu(affinity: u64, cpus: u32) -> bool {
    affinity != 0 && 1_u64.checked_shl(cpus).is_some_and(|end| affinity & (end - 1) == 0)
}

/// Sets the affinity of each vCPU, where the configuration gives them separately.
pub fn pin<H: Hypervisor>(hypervisor: &mut H, domain: Handle, config: &Config) -> Result<(), BuildError> {
    let Some(&last) = config.affinity.last().filter(|_| config.affinity.len() > 1) else { return Ok(()) };
    for vcpu in 0..config.vcpus {
        let affinity = config.affinity.get(vcpu as usize).copied().unwrap_or(last);
        let params = SchedParams { vcpu, affinity, ..spec(config).schedule };
        hypervisor.domain_schedule(domain, &params).map_err(|error| {
            let text = format!("vCPU {vcpu} cannot be pinned: {error}: change `cpus`");
            BuildError { error, text }
        })?;
    }
    Ok(())
}

/// Puts an image, a stack and the arguments into a domain in building. Of the image, pages that it cannot write may have been kept.
pub fn load<H: Hypervisor>(
    hypervisor: &mut H,
    domain: Handle,
    image: &Image<'_>,
    kept: bool,
    arguments: &BootArguments,
) -> Result<(), BuildError> {
    let mut placed = 0;
    let filled = fill(hypervisor, domain, image, kept, &mut placed);
    filled.map_err(|error| out_of_memory(hypervisor, domain, image, placed, error))?;
    let mut page = Box::new([0; ARGUMENTS_MAX]);
    let Some(used) = encode_arguments(arguments, &mut page) else {
        let text = "the arguments do not fit into their page: shorten `cmdline`".to_string();
        return Err(BuildError { error: Error::TooBig, text });
    };
    hypervisor.domain_write(domain, ARGUMENTS, &page[..used]).map_err(|error| {
        let text = format!("the arguments cannot be written: {error}");
        BuildError { error, text }
    })
}

/// Puts image and stack in place; `placed` counts the pages that are.
fn fill<H: Hypervisor>(
    hypervisor: &mut H,
    domain: Handle,
    image: &Image<'_>,
    kept: bool,
    placed: &mut u64,
) -> Result<(), Error> {
    for segment in &image.segments {
        if kept && segment.protection != protection::WRITE {
            renew(hypervisor, domain, segment)?;
        } else {
            populate(hypervisor, domain, segment.address, segment.pages, segment.protection)?;
            write(hypervisor, domain, segment.address, segment.bytes)?;
        }
        *placed += segment.pages;
    }
    let stack = VCPU_AREAS + VCPU_AREA_SIZE - STACK_PAGES * PAGE_SIZE;
    populate(hypervisor, domain, stack, STACK_PAGES, protection::WRITE)
}

/// Makes sure that pages that were kept hold what was loaded, to the last byte: the core writes only what is not there yet.
fn renew<H: Hypervisor>(hypervisor: &mut H, domain: Handle, segment: &Segment<'_>) -> Result<(), Error> {
    let (pages, tail) = segment.bytes.as_chunks::<{ PAGE_SIZE as usize }>();
    write(hypervisor, domain, segment.address, pages.as_flattened())?;
    let mut page = Box::new([0; PAGE_SIZE as usize]);
    page[..tail.len()].copy_from_slice(tail);
    for index in pages.len() as u64..segment.pages {
        write(hypervisor, domain, segment.address + index * PAGE_SIZE, &*page)?;
        page.fill(0);
    }
    Ok(())
}

/// Writes any number of bytes into memory that is populated.
pub fn write<H: Hypervisor>(hypervisor: &mut H, domain: Handle, address: u64, bytes: &[u8]) -> Result<(), Error> {
    for (index, part) in bytes.chunks(WRITE_MAX).enumerate() {
        retry(|| hypervisor.domain_write(domain, address + (index * WRITE_MAX) as u64, part))?;
    }
    Ok(())
}

/// Populates any number of pages.
pub fn populate<H: Hypervisor>(
    hypervisor: &mut H,
    domain: Handle,
    address: u64,
    pages: u64,
    protection: u64,
) -> Result<(), Error> {
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(POPULATE_MAX);
        retry(|| hypervisor.memory_populate(domain, address + done * PAGE_SIZE, count, protection))?;
        done += count;
    }
    Ok(())
}

/// Starts a domain that was loaded.
pub fn start<H: Hypervisor>(hypervisor: &mut H, domain: Handle, image: &Image<'_>) -> Result<(), BuildError> {
    let started = retry(|| hypervisor.domain_start(domain, image.entry, 0));
    started.map_err(|error| out_of_memory(hypervisor, domain, image, image.pages() + STACK_PAGES, error))
}

fn out_of_memory<H: Hypervisor>(
    hypervisor: &mut H,
    domain: Handle,
    image: &Image<'_>,
    placed: u64,
    error: Error,
) -> BuildError {
    let (pages, used) = hypervisor.domain_info(domain).map_or((0, 0), |info| (info.memory_pages, info.used_pages));
    let needed = used.saturating_sub(placed) + image.pages() + STACK_PAGES;
    let text = match error {
        Error::NoMemory => format!(
            "its image, stack and tables need {} or a little more, and `memory` is {}: raise it",
            size::mib(needed),
            size::mib(pages)
        ),
        error => format!("the core refuses its memory: {error}"),
    };
    BuildError { error, text }
}

/// Repeats a call that the core cut into slices. Each slice makes progress, and the calls this is used for are bounded by the
/// size of their arguments.
pub fn retry<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match call() {
            Err(Error::Again) => {}
            other => return other,
        }
    }
}
