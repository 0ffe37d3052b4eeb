//! What is shown of domains and of the machine: one record each, from which tables, long lists and JSON are made.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::domain::{CLASS_DRIVER, DomainInfo, Reason, State, VcpuInfo, VcpuState};
use protocol::handle::Handle;
use protocol::layout::PAGE_SIZE;
use protocol::system::Features;
use serde::Serialize;

use crate::config::{Guest, cpus};
use crate::hypervisor::Hypervisor;
use crate::plane::{DOM0_ID, Phase, Plane};

/// Shortest time over which CPU use is measured, in ns; shorter ones give noise.
const SAMPLE_MIN_NS: u64 = 100_000_000;

/// A domain.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct DomainView {
    pub name: String,
    pub id: u16,
    pub incarnation: u32,
    /// As in the lists of xl: `r-----`.
    pub state: String,
    /// The state in a word.
    pub status: String,
    pub memory_bytes: u64,
    pub memory_pages: u64,
    pub used_pages: u64,
    pub max_pages: u64,
    pub vcpus: u32,
    pub vcpus_started: u32,
    /// Those that it was told to use.
    pub vcpus_used: u32,
    pub cpu_ns: u64,
    pub cpu_percent: f64,
    pub weight: u32,
    pub cap: u32,
    pub class: String,
    pub cpus: String,
    pub pauses: u32,
    pub resets: u32,
    pub restarts: u32,
    pub ready: bool,
    pub uptime_ns: u64,
    pub last_end: Option<String>,
    /// From its last death until its first request was served again.
    pub blackout_ns: Option<u64>,
    /// From its last death until its connections were attached again.
    pub recovery_ns: Option<u64>,
    pub handles: u32,
    pub ports: u32,
    pub mappings: u32,
    pub mapped_by_others: u32,
    pub hypercalls: u64,
    pub events_sent: u64,
    pub created_tsc: u64,
    pub first_run_tsc: u64,
    pub image: Option<String>,
    pub command_line: String,
}

/// A vCPU.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct VcpuView {
    pub name: String,
    pub id: u16,
    pub vcpu: u32,
    pub cpu: Option<u32>,
    pub state: String,
    pub cpu_ns: u64,
    pub affinity: String,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct MachineView {
    pub version: String,
    pub interface: u32,
    pub cpu_model: String,
    pub cpus: u32,
    pub cpu_mhz: f64,
    pub tsc_hz: u64,
    pub features: Vec<String>,
    pub virtual_machines: String,
    pub iommu: String,
    pub total_memory_bytes: u64,
    pub free_memory_bytes: u64,
    pub reserved_memory_bytes: u64,
    pub pool_frames: u64,
    pub free_frames: u64,
    pub parked_frames: u64,
    pub domains: u32,
    pub handles: u32,
    pub ports: u32,
    pub mappings: u32,
    pub uptime_ns: u64,
    pub idle_ns: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    id: u16,
    incarnation: u32,
    at: u64,
    cpu_ns: u64,
    percent: f64,
}

/// CPU use seen last, from which the use since then is computed.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Percent of one CPU that a domain used since it was looked at last, or since it was created.
    fn percent(&mut self, id: u16, info: &DomainInfo, now: u64, created: u64) -> f64 {
        let known = self.0.iter().position(|sample| (sample.id, sample.incarnation) == (id, info.incarnation));
        let (at, before, last) = match known.and_then(|index| self.0.get(index)) {
            Some(sample) => (sample.at, sample.cpu_ns, Some(sample.percent)),
            None => (created, 0, None),
        };
        let elapsed = now.saturating_sub(at);
        if let Some(percent) = last.filter(|_| elapsed < SAMPLE_MIN_NS) {
            return percent;
        }
        let used = info.cpu_ns.saturating_sub(before);
        let percent = if elapsed == 0 { 0.0 } else { (used as f64 / elapsed as f64 * 1000.0) as u64 as f64 / 10.0 };
        let sample = Sample { id, incarnation: info.incarnation, at: now, cpu_ns: info.cpu_ns, percent };
        match known.and_then(|index| self.0.get_mut(index)) {
            Some(place) => *place = sample,
            None => self.0.push(sample),
        }
        percent
    }

    /// Forgets domains that are not among `ids`.
    fn keep(&mut self, ids: &[u16]) {
        self.0.retain(|sample| ids.contains(&sample.id));
    }
}

/// The ids of all domains, dom0 first.
pub fn ids<H: Hypervisor>(plane: &Plane<'_, H>) -> Vec<u16> {
    core::iter::once(DOM0_ID).chain(plane.domains().iter().map(|domain| domain.id)).collect()
}

/// Everything about these domains.
pub fn domains<H: Hypervisor>(
    plane: &mut Plane<'_, H>,
    samples: &mut Samples,
    wanted: &[u16],
) -> Result<Vec<DomainView>, String> {
    samples.keep(&ids(plane));
    wanted.iter().map(|&id| domain(plane, samples, id)).collect()
}

fn domain<H: Hypervisor>(plane: &mut Plane<'_, H>, samples: &mut Samples, id: u16) -> Result<DomainView, String> {
    let (handle, name) = named(plane, id)?;
    let info = plane.hypervisor.domain_info(handle).map_err(|error| format!("{name}: the core says: {error}"))?;
    let now = plane.hypervisor.clock();
    let busy = (0..info.vcpus).any(|vcpu| {
        let state = plane.hypervisor.vcpu_info(handle, vcpu).ok().and_then(|info| VcpuState::from_number(info.state));
        matches!(state, Some(VcpuState::Running | VcpuState::Runnable | VcpuState::Throttled))
    });
    let record = plane.domain(id);
    let started = record.map_or(0, |record| record.started_ns);
    let outage = record.and_then(|record| record.outage);
    let phase = record.map_or(Phase::Running, |record| record.phase);
    Ok(DomainView {
        name,
        id,
        incarnation: info.incarnation,
        state: letters(&info, busy),
        status: status(&info, busy, phase).to_owned(),
        memory_bytes: info.memory_pages * PAGE_SIZE,
        memory_pages: info.memory_pages,
        used_pages: info.used_pages,
        max_pages: info.max_pages,
        vcpus: info.vcpus,
        vcpus_started: info.vcpus_started,
        vcpus_used: record.map_or(info.vcpus, |record| record.vcpus_used),
        cpu_ns: info.cpu_ns,
        cpu_percent: samples.percent(id, &info, now, record.map_or(0, |record| record.created_ns)),
        weight: info.schedule.weight,
        cap: info.schedule.cap,
        class: class(info.schedule.class).to_owned(),
        cpus: cpus::text(info.schedule.affinity),
        pauses: info.pauses,
        resets: info.resets,
        restarts: record.map_or(0, |record| record.restarts),
        ready: record.is_none_or(|record| record.ready),
        uptime_ns: now.saturating_sub(started),
        last_end: record.and_then(|record| record.last_end.clone()),
        blackout_ns: outage.and_then(|outage| outage.blackout_ns(now)),
        recovery_ns: outage.and_then(|outage| Some(outage.attached_ns?.saturating_sub(outage.died_ns))),
        handles: info.handles,
        ports: info.ports,
        mappings: info.mappings,
        mapped_by_others: info.mapped_by_others,
        hypercalls: info.hypercalls,
        events_sent: info.events_sent,
        created_tsc: info.created_tsc,
        first_run_tsc: info.first_run_tsc,
        image: record.and_then(|record| match &record.config.guest {
            Guest::Native { image } => Some(image.clone()),
            Guest::Linux { .. } => None,
        }),
        command_line: record.map(|record| record.arguments.command_line.as_str().to_owned()).unwrap_or_default(),
    })
}

/// The handle and name of a domain.
fn named<H: Hypervisor>(plane: &Plane<'_, H>, id: u16) -> Result<(Handle, String), String> {
    let found = plane.handle(id).map(|(handle, name)| (handle, name.to_owned()));
    found.ok_or_else(|| format!("domain {id} is gone"))
}

/// The vCPUs of a domain.
pub fn vcpus<H: Hypervisor>(plane: &mut Plane<'_, H>, id: u16) -> Result<Vec<VcpuView>, String> {
    let (handle, name) = named(plane, id)?;
    let failed = |error| format!("{name}: the core says: {error}");
    let count = plane.hypervisor.domain_info(handle).map_err(failed)?.vcpus;
    let used = plane.domain(id).map_or(count, |domain| domain.vcpus_used);
    let mut views = Vec::new();
    for vcpu in 0..count {
        let VcpuInfo { state, cpu, affinity, cpu_ns } = plane.hypervisor.vcpu_info(handle, vcpu).map_err(failed)?;
        // To the core, a vCPU that a guest does not use is one that waits.
        let state = VcpuState::from_number(state).filter(|_| vcpu < used).unwrap_or(VcpuState::Offline);
        views.push(VcpuView {
            name: name.clone(),
            id,
            vcpu,
            cpu: (state != VcpuState::Offline).then_some(cpu),
            state: state.text().to_owned(),
            cpu_ns,
            affinity: cpus::text(affinity),
        });
    }
    Ok(views)
}

/// The brand string of the CPU.
fn cpu_model() -> String {
    use core::arch::x86_64::__cpuid;
    if __cpuid(0x8000_0000).eax < 0x8000_0004 {
        return String::new();
    }
    let leaves = (0x8000_0002..=0x8000_0004).map(__cpuid);
    let words = leaves.flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let text: Vec<u8> = words.flat_map(u32::to_le_bytes).filter(|byte| (b' '..=b'~').contains(byte)).collect();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The machine.
pub fn machine<H: Hypervisor>(plane: &mut Plane<'_, H>) -> Result<MachineView, String> {
    let info = plane.hypervisor.system_info().map_err(|error| format!("the core says: {error}"))?;
    let features = Features::from_bits_truncate(info.features);
    let virtual_machines = match () {
        () if features.contains(Features::SVM | Features::VM_SPARES_CPU_0) => {
            "AMD SVM with nested paging, not on CPU 0, which the emulator gets wrong"
        }
        () if features.contains(Features::SVM) => "AMD SVM with nested paging",
        () if features.contains(Features::VMX) => "Intel VMX with extended page tables",
        () => "none",
    };
    let iommu = match () {
        () if features.contains(Features::IOMMU) => "on",
        () if features.contains(Features::IOMMU_OFF_INSECURE) => "off-insecure (DMA is NOT confined)",
        () => "none (devices that do DMA are refused)",
    };
    Ok(MachineView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interface: info.abi_version,
        cpu_model: cpu_model(),
        cpus: info.cpus,
        cpu_mhz: (info.tsc_hz / 100_000) as f64 / 10.0,
        tsc_hz: info.tsc_hz,
        features: features.iter_names().map(|(name, _)| name.to_lowercase()).collect(),
        virtual_machines: virtual_machines.to_owned(),
        iommu: iommu.to_owned(),
        total_memory_bytes: info.total_frames * PAGE_SIZE,
        free_memory_bytes: info.pool_frames * PAGE_SIZE,
        reserved_memory_bytes: info.reserved_frames * PAGE_SIZE,
        pool_frames: info.pool_frames,
        free_frames: info.free_frames,
        parked_frames: info.parked_frames,
        domains: info.domains,
        handles: info.handles,
        ports: info.ports,
        mappings: info.mappings,
        uptime_ns: info.uptime_ns,
        idle_ns: info.idle_ns.iter().take(info.cpus as usize).copied().collect(),
    })
}

/// The name of a scheduling class.
pub fn class(number: u32) -> &'static str {
    if number == CLASS_DRIVER { "driver" } else { "guest" }
}

/// The six letters of xl: running, blocked, paused, shut down, crashed, dying.
fn letters(info: &DomainInfo, busy: bool) -> String {
    let state = State::from_number(info.state);
    let reason = Reason::from_number(info.reason);
    let runs = state == Some(State::Running) && info.pauses == 0;
    let dead = state == Some(State::Dead);
    let crashed = dead && !matches!(reason, Some(Reason::Shutdown | Reason::Reboot));
    let letters = [
        ('r', runs && busy),
        ('b', runs && !busy),
        ('p', info.pauses > 0),
        ('s', dead && !crashed),
        ('c', crashed),
        ('d', matches!(state, Some(State::Dying | State::Resetting))),
    ];
    letters.iter().map(|&(letter, set)| if set { letter } else { '-' }).collect()
}

fn status(info: &DomainInfo, busy: bool, phase: Phase) -> &'static str {
    match (phase, State::from_number(info.state)) {
        (Phase::Quarantined, _) => "quarantined",
        (Phase::Waiting(_), _) => "waiting",
        (Phase::Restarting(_), _) => "restarting",
        (_, Some(State::Running)) if info.pauses > 0 => "paused",
        (_, Some(State::Running)) if busy => "running",
        (_, Some(State::Running)) => "blocked",
        (_, Some(State::Dead)) => match Reason::from_number(info.reason) {
            Some(reason) => reason.text(),
            None => "dead",
        },
        (_, Some(state)) => state.text(),
        (_, None) => "unknown",
    }
}

/// ns as seconds with one decimal, as xl shows CPU time.
pub fn seconds(ns: u64) -> String {
    format!("{}.{}", ns / 1_000_000_000, ns / 100_000_000 % 10)
}

/// Bytes as MiB, with a decimal where it is not whole.
pub fn mib(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{}", bytes >> 20),
        _ => format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
    }
}
