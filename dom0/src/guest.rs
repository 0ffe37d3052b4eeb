//! A Linux guest: the monitor as the domain's image, and the files of the guest in its memory, unread.
//!
//! dom0 only copies the files; the guest's own monitor parses them.

use alloc::format;
use alloc::string::String;

use protocol::arguments::{GuestBoot, GuestFile, LOW_MEMORY_END};
use protocol::domain::DomainSpec;
use protocol::grant::MAX_GRANT_FRAMES;
use protocol::handle::Handle;
use protocol::hypercall::protection;
use protocol::layout::{GUEST_MEMORY, GUEST_MEMORY_END, PAGE_SIZE};

use crate::builder::{self, BuildError};
use crate::bundle::Bundle;
use crate::config::{Config, Guest, size};
use crate::hypervisor::Hypervisor;
use crate::rtc;

/// Image of the monitor in the bundle.
pub const MONITOR: &str = "monitor";
/// Frames for a monitor's image, fixed tables and heap, 900 KiB. It takes 540 KiB, and that is enough for what its guest can make it
/// take: for its store, whose quotas ([quota.rs](../../monitor/src/store/quota.rs)) let it have 96 KiB, which are at most twice as much in
/// the heap, and 32 KiB of events that it does not read; for its event ports, 36 KiB; for its grant table, 8 pages with a record each and
/// three tables above each of three places, 100 KiB. What the kernel is expanded with is memory that is the guest's later, and tables
/// for large pages that the guest gives back in part come out of what it gives back.
const MONITOR_PAGES: u64 = 225;
/// Where the machine's clock shows no date: the beginning of 2026.
const UNKNOWN_UTC: u64 = 1_767_225_600;
/// Frames for each vCPU: contexts, state page, stack.
const VCPU_PAGES: u64 = 24;
/// Pages of guest memory behind one page table or in one large page, behind one frame of the monitor's bits, and behind two tables above those.
const PAGES_PER_TABLE: u64 = 512;
const PAGES_PER_BITS: u64 = 8 * PAGE_SIZE / 2;
const PAGES_PER_DIRECTORIES: u64 = 512 * 512;
/// Most RAM of a guest, in pages: above 4 GiB its addresses go on, and the window has an end.
const GUEST_PAGES_MAX: u64 = (GUEST_MEMORY_END - GUEST_MEMORY) / PAGE_SIZE - (2 << 18);

/// The files of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'b> {
    kernel: &'b [u8],
    ramdisk: &'b [u8],
}

impl<'b> Files<'b> {
    /// The files that a configuration names; `None` for a native guest.
    pub fn find(bundle: &Bundle<'b>, config: &Config) -> Result<Option<Files<'b>>, String> {
        let Guest::Linux { kernel, ramdisk, place } = &config.guest else { return Ok(None) };
        let file = |key: &str, path: &str| {
            let found = bundle.file(path.trim_start_matches('/'));
            found.ok_or_else(|| format!("{place}: {key}: the bundle holds no {path}: add it"))
        };
        let ramdisk = ramdisk.as_deref().map_or(Ok(&[][..]), |path| file("ramdisk", path))?;
        let files = Files { kernel: file("kernel", kernel)?, ramdisk };
        let (needed, low) = (files.pages(), low_pages(config.memory_pages));
        if needed >= low {
            let text = format!("kernel and ramdisk have {}", size::mib(needed));
            return Err(format!("{place}: memory: {text}, and that is all there is, {}: raise it", size::mib(low)));
        }
        if config.max_pages > GUEST_PAGES_MAX {
            let key = if config.memory_pages > GUEST_PAGES_MAX { "memory" } else { "maxmem" };
            return Err(format!("{place}: {key}: {} are the most for a Linux guest", size::mib(GUEST_PAGES_MAX)));
        }
        Ok(Some(files))
    }

    fn pages(&self) -> u64 {
        pages(self.kernel) + pages(self.ramdisk)
    }

    /// Puts the files at the top of the low memory of a domain in building; gives what its monitor has to know.
    pub fn place<H: Hypervisor>(
        &self,
        hypervisor: &mut H,
        domain: Handle,
        config: &Config,
    ) -> Result<GuestBoot, BuildError> {
        let low = low_pages(config.memory_pages);
        // Large pages whole: whatever else lies in them is the guest's too.
        let first = low.saturating_sub(self.pages()) / PAGES_PER_TABLE * PAGES_PER_TABLE;
        let start = GUEST_MEMORY + first * PAGE_SIZE;
        let mut end = low * PAGE_SIZE;
        let mut put = |hypervisor: &mut H, bytes: &[u8]| {
            end = end.saturating_sub(pages(bytes) * PAGE_SIZE);
            let file = GuestFile { address: end, length: bytes.len() as u64 };
            builder::write(hypervisor, domain, GUEST_MEMORY + end, bytes).map(|()| file)
        };
        let placed = builder::populate(hypervisor, domain, start, low - first, protection::WRITE)
            .and_then(|()| Ok((put(hypervisor, self.ramdisk)?, put(hypervisor, self.kernel)?)));
        let (ramdisk, kernel) = placed.map_err(|error| BuildError {
            error,
            text: format!("kernel and ramdisk do not go into its memory: {error}: raise `memory`"),
        })?;
        let start_utc = rtc::start(hypervisor).unwrap_or(UNKNOWN_UTC);
        let Config { memory_pages, max_pages, .. } = *config;
        Ok(GuestBoot { memory_pages, max_pages, kernel, ramdisk, start_utc })
    }
}

/// What the core is asked for, for a Linux guest: its own memory is the guest's, and what the monitor needs comes on top.
pub fn spec(config: &Config, native: DomainSpec) -> DomainSpec {
    let most = native.max_pages;
    // Memory that comes when it is touched comes in small pages, too: there are tables for all of it.
    let large = match most > native.memory_pages {
        true => 0,
        false => low_pages(most) / PAGES_PER_TABLE + (most - low_pages(most)) / PAGES_PER_TABLE,
    };
    let tables = most.div_ceil(PAGES_PER_TABLE) - large + 2 * most.div_ceil(PAGES_PER_DIRECTORIES);
    let beside = tables + most.div_ceil(PAGES_PER_BITS) + MONITOR_PAGES + VCPU_PAGES * u64::from(config.vcpus);
    DomainSpec {
        memory_pages: native.memory_pages + beside,
        max_pages: most + beside,
        // A monitor is nobody's backend.
        max_mappings: 0,
        guest_grant_frames: MAX_GRANT_FRAMES as u32,
        large_pages: large as u32,
        ..native
    }
}

/// The same for a machine whose free memory does not lie together, or whose CPU cannot use that: it takes a table for each large page.
pub fn spec_in_pieces(spec: &DomainSpec) -> DomainSpec {
    let tables = u64::from(spec.large_pages);
    DomainSpec { memory_pages: spec.memory_pages + tables, max_pages: spec.max_pages + tables, large_pages: 0, ..*spec }
}

/// Frames that a domain has beside the memory of its configuration.
pub fn beside(config: &Config) -> u64 {
    builder::spec(config).memory_pages.saturating_sub(config.memory_pages)
}

fn pages(bytes: &[u8]) -> u64 {
    (bytes.len() as u64).div_ceil(PAGE_SIZE)
}

fn low_pages(memory_pages: u64) -> u64 {
    memory_pages.min(LOW_MEMORY_END / PAGE_SIZE)
}
