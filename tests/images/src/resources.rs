//! What a leak would show in.

use core::time::Duration;

use alloc::format;

use unikernel::{memory, system, time};

use crate::{Context, Outcome};

/// How long frames may wait for every CPU to have flushed, and dead things for being taken apart.
const SETTLE: Duration = Duration::from_secs(10);

/// Everything that create, use and destroy must leave as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Domains that exist.
    pub domains: u32,
    /// Handles in use, in all domains.
    pub handles: u32,
    /// Ports open, in all domains.
    pub ports: u32,
    /// Mappings of grants, in all domains.
    pub mappings: u32,
    /// Frames that no domain has set aside.
    pub pool: u64,
    /// Frames that are free, those that this domain's own heap has taken counted as free.
    pub free: u64,
    /// Frames that the core keeps.
    pub reserved: u64,
}

impl Resources {
    /// What there is now; frames on their way back are not free yet.
    pub fn now() -> Outcome<Resources> {
        let system = system::info().context("system_info")?;
        let own = memory::info().context("domain_info of this domain")?;
        Ok(Resources {
            domains: system.domains,
            handles: system.handles,
            ports: system.ports,
            mappings: system.mappings,
            pool: system.pool_frames,
            free: system.free_frames + own.used_pages,
            reserved: system.reserved_frames,
        })
    }

    /// Waits until everything is as it was; an error if that does not come.
    pub async fn returned(&self, when: &str) -> Outcome {
        let deadline = time::after(SETTLE);
        loop {
            let now = Resources::now()?;
            if now == *self {
                return Ok(());
            }
            if time::now() >= deadline {
                return Err(format!("{when} something has leaked: before {self:?}, now {now:?}"));
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }
}
