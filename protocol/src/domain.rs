//! What the control plane says about a domain, and what it hears.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Name;

/// Domains that can exist at once. A domain id is an index below this.
pub const MAX_DOMAINS: usize = 128;

/// Default scheduling weight, as in Xen's credit schedulers.
pub const DEFAULT_WEIGHT: u32 = 256;
/// Smallest and largest weight.
pub const WEIGHTS: core::ops::RangeInclusive<u32> = 1..=65535;

/// Class of ordinary domains.
pub const CLASS_GUEST: u32 = 0;
/// Class above it, for driver domains; it has a budget, and competes as a guest once that is spent.
pub const CLASS_DRIVER: u32 = 1;

/// How a domain or one of its vCPUs is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SchedParams {
    /// Share of the CPU relative to others, in [`WEIGHTS`].
    pub weight: u32,
    /// Upper limit in percent of one CPU (100 is one whole CPU); 0 is no limit.
    pub cap: u32,
    /// [`CLASS_GUEST`] or [`CLASS_DRIVER`].
    pub class: u32,
    /// The vCPU whose affinity is set, or [`ALL_VCPUS`].
    pub vcpu: u32,
    /// CPUs it may run on, a bit each; 0 is any.
    pub affinity: u64,
}

/// In [`SchedParams::vcpu`]: every vCPU.
pub const ALL_VCPUS: u32 = u32::MAX;

impl Default for SchedParams {
    fn default() -> Self {
        SchedParams { weight: DEFAULT_WEIGHT, cap: 0, class: CLASS_GUEST, vcpu: ALL_VCPUS, affinity: 0 }
    }
}

/// Most grants of others that a domain can hold mapped at once.
pub const MAX_MAPPINGS: u32 = 4096;
/// Most pages of retained memory: all are made by the one call that makes the domain, which has to be short.
pub const MAX_RETAINED: u32 = 1024;

macro_rules! numbered {
    ($(#[$meta:meta])* $type:ident { $($(#[doc = $doc:literal])* $name:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $type { $($(#[doc = $doc])* $name = $number,)* }

        impl $type {
            /// The value with this number.
            pub const fn from_number(number: u32) -> Option<$type> {
                match number { $($number => Some($type::$name),)* _ => None }
            }

            /// One word for lists.
            pub const fn text(self) -> &'static str {
                match self { $($type::$name => $text,)* }
            }
        }
    };
}

numbered! {
    /// Where a domain is in its life.
    State {
        /// Made, or reset; its memory is the builder's.
        Building = 0 "building",
        /// Started.
        Running = 1 "running",
        /// It ended by itself or by a fault; its memory is kept until reset or destroy.
        Dead = 2 "dead",
        /// Being brought back to `Building`.
        Resetting = 3 "resetting",
        /// Being taken apart.
        Dying = 4 "dying",
    }
}

numbered! {
    /// Why a domain is dead.
    Reason {
        /// It is not.
        None = 0 "none",
        /// It ended by itself: power-off.
        Shutdown = 1 "shutdown",
        /// It ended by itself and asks to be started again.
        Reboot = 2 "reboot",
        /// Its own panic handler said so.
        Panic = 3 "panic",
        /// A CPU exception nobody handles.
        Fault = 4 "fault",
        /// The control plane ended it.
        Killed = 5 "killed",
    }
}

numbered! {
    /// What a vCPU is doing.
    VcpuState {
        /// Not started.
        Offline = 0 "offline",
        /// On a CPU.
        Running = 1 "running",
        /// Wants a CPU.
        Runnable = 2 "runnable",
        /// Waits for an event.
        Blocked = 3 "blocked",
        /// Its cap is used up for this period.
        Throttled = 4 "throttled",
    }
}

/// Longest message of a death report, in bytes.
pub const MESSAGE_MAX: usize = 256;
/// Return addresses in a death report.
pub const BACKTRACE_MAX: usize = 16;

records! {
    /// Argument of [`crate::hypercall::Hypercall::DomainCreate`].
    pub struct DomainSpec {
        /// Its name, for logs and reports; need not be unique for the core.
        pub name: Name,
        /// Frames set aside for it now. Everything is charged to them: its memory, page tables, vCPU contexts, tables.
        pub memory_pages: u64,
        /// Bound for later [`crate::hypercall::Hypercall::DomainSetMemory`].
        pub max_pages: u64,
        /// vCPUs, 1 to [`crate::event::MAX_VCPUS`].
        pub vcpus: u32,
        /// Pages of its grant table, 1 to [`crate::grant::MAX_GRANT_FRAMES`].
        pub grant_frames: u32,
        /// Grants of others that it can hold mapped at once, 0 to [`MAX_MAPPINGS`].
        pub max_mappings: u32,
        /// Pages of retained memory, 0 to [`MAX_RETAINED`].
        pub retained_pages: u32,
        /// Pages of the grant table of its virtual machine, up to [`crate::grant::MAX_GRANT_FRAMES`]; 0: it has none.
        pub guest_grant_frames: u32,
        /// Pages of 2 MiB that it can populate, kept for it among the frames set aside; `NoMemory` if there are not as many.
        pub large_pages: u32,
        /// How it is scheduled; `vcpu` must be [`ALL_VCPUS`].
        pub schedule: SchedParams,
    }

    /// Result of [`crate::hypercall::Hypercall::DomainCreate`].
    pub struct DomainCreated {
        /// The caller's handle of the new domain, with every right.
        pub handle: u32,
        /// Its id: also its index in the caller's peer table.
        pub id: u16,
        /// Zero.
        pub reserved: u16,
        /// Its incarnation number; never given twice while the machine is up.
        pub incarnation: u32,
        /// The caller's end of the control channel.
        pub control_port: u32,
    }

    /// Result of [`crate::hypercall::Hypercall::DomainInfo`].
    pub struct DomainInfo {
        /// Its name.
        pub name: Name,
        /// Its id.
        pub id: u32,
        /// Its incarnation.
        pub incarnation: u32,
        /// [`State`] as a number.
        pub state: u32,
        /// [`Reason`] as a number.
        pub reason: u32,
        /// How often it is paused; it runs at 0.
        pub pauses: u32,
        /// vCPUs it has.
        pub vcpus: u32,
        /// vCPUs that were started and not stopped since.
        pub vcpus_started: u32,
        /// Handles in use.
        pub handles: u32,
        /// Ports open.
        pub ports: u32,
        /// Grants of others it holds mapped.
        pub mappings: u32,
        /// Its pages that others hold mapped.
        pub mapped_by_others: u32,
        /// Times it was reset.
        pub resets: u32,
        /// Frames charged to it.
        pub used_pages: u64,
        /// Frames set aside for it.
        pub memory_pages: u64,
        /// Bound for `memory_pages`.
        pub max_pages: u64,
        /// CPU time of all its vCPUs, in ns.
        pub cpu_ns: u64,
        /// Hypercalls it made.
        pub hypercalls: u64,
        /// Events it sent.
        pub events_sent: u64,
        /// TSC when it was created or its last reset began.
        pub created_tsc: u64,
        /// TSC when its first instruction (since then) was about to run; 0 before that.
        pub first_run_tsc: u64,
        /// How it is scheduled.
        pub schedule: SchedParams,
    }

    /// Result of [`crate::hypercall::Hypercall::VcpuInfo`].
    pub struct VcpuInfo {
        /// [`VcpuState`] as a number.
        pub state: u32,
        /// The CPU it is on, or was last.
        pub cpu: u32,
        /// CPUs it may run on, a bit each.
        pub affinity: u64,
        /// CPU time, in ns.
        pub cpu_ns: u64,
    }

    /// Result of [`crate::hypercall::Hypercall::DomainDeath`]: how the last death came about.
    pub struct DeathReport {
        /// [`Reason`] as a number.
        pub reason: u32,
        /// The vCPU.
        pub vcpu: u32,
        /// Exit code, for an exit by itself.
        pub code: u64,
        /// Exception vector (Intel SDM vol. 3, table 6-1), for a fault.
        pub vector: u64,
        /// Error code of the exception.
        pub error: u64,
        /// CR2, for a page fault.
        pub address: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// RFLAGS.
        pub rflags: u64,
        /// rax rbx rcx rdx rsi rdi rbp rsp r8..r15. After a hypercall only rbx rbp rsp r12..r15 are meaningful.
        pub registers: [u64; 16],
        /// When, in ns since the core started.
        pub time_ns: u64,
        /// Return addresses by frame pointers, innermost first, 0 after the last.
        pub backtrace: [u64; BACKTRACE_MAX],
        /// Bytes in `message`.
        pub message_length: u64,
        /// What the domain said, UTF-8 if it is honest.
        pub message: [u8; MESSAGE_MAX],
    }
}
