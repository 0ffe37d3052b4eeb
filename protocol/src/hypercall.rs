//! Every hypercall, declared once.
//!
//! Calling convention (`syscall`): number in RAX; arguments in RDI, RSI, RDX, R10, R8; result in RAX as
//! [`crate::error::encode`] packs it. RBX, RBP, RSP, R12..R15, the x87 control word and MXCSR survive; every other register,
//! the vector registers included, is zero afterwards (RCX and R11 hold RIP and RFLAGS).
//!
//! Integers that an argument kind does not allow, including set bits above a 32-bit kind, give [`crate::error::Error::Invalid`]
//! (handles: `BadHandle`, ports: `BadPort`, pointers and addresses: `BadAddress`). A refused call changes nothing.
//!
//! [`crate::for_each_hypercall`] hands the whole table to another macro: the core makes its dispatcher from it, `unikernel` its
//! wrappers, and [`crate::declaration`] what documentation and the hostile tests are made from.

/// Access that a domain has to pages it populates, for [`Hypercall::MemoryPopulate`]. Always readable; never writable and
/// executable at once.
pub mod protection {
    /// Read only.
    pub const READ: u64 = 0;
    /// Writable.
    pub const WRITE: u64 = 1;
    /// Executable.
    pub const EXECUTE: u64 = 2;
}

/// Calls `$callback!` with the table of all hypercalls:
/// `number Variant function(argument: Kind(RIGHT), ...) [errors];` each, with its documentation before it.
#[macro_export]
macro_rules! for_each_hypercall {
    ($callback:path) => { $callback! {
        /// Gives `ABI_VERSION`. Does nothing else, so it is also the null hypercall of the benchmarks.
        0 Version version() [];
        /// Appends a line to the core's log, behind the domain's name. At most 256 bytes; control characters become `.`.
        1 LogWrite log_write(text: Read, length: Length) [TooBig];
        /// Reads the core's log; `request` is a `LogRead`. Gives the number of bytes, 0 at the end.
        2 LogRead log_read(system: System(INSPECT), request: ReadWrite) [TooBig];
        /// Fills `out`, a `SystemInfo`.
        3 SystemInfo system_info(system: System(INSPECT), out: Write) [];
        /// Reads from a firmware table; `request` is an `AcpiRead`. Gives the length of the whole table.
        4 AcpiRead acpi_read(system: System(INSPECT), request: Read) [NotFound, TooBig];
        /// Makes a handle for `count` I/O ports from `first`. Ports the core drives itself are refused with `Busy`.
        5 IoPortsCreate ioports_create(system: System(CONTROL), first: Number, count: Number) [TableFull, Busy];
        /// Makes a handle for ISA interrupt `line` (0 to 15), as the firmware routes it. Lines the core uses are refused.
        6 InterruptCreate interrupt_create(system: System(CONTROL), line: Number) [TableFull, Busy, NotFound];
        /// Lets the caller use the ports of the range by IN and OUT. Enabling the core's serial port takes it over. Gives
        /// the first port (bits 0..16) and the count (bits 16..).
        7 IoPortsEnable ioports_enable(range: IoPorts(USE)) [TableFull];
        /// Binds the interrupt to a new port of the caller and unmasks it; at most one binding exists at a time.
        8 InterruptBind interrupt_bind(interrupt: Interrupt(USE)) [TableFull, Busy];
        /// Makes a copy of `handle` in the table of `domain`, with no more than `rights`. Gives the new handle.
        9 HandleCopy handle_copy(domain: AnyDomain, handle: AnyHandle, rights: Flags) [TableFull, WrongState];
        /// Closes a handle. The object stays as it is. `Handle::SELF` and `Handle::SYSTEM` cannot be closed.
        10 HandleClose handle_close(handle: AnyHandle) [NotPermitted];

        /// Makes the peer's port pending, and wakes its vCPU if it waits. Sent to a domain in restart, it stays pending.
        11 EventSend event_send(port: Port) [NoPeer];
        /// Returns 1 when something is pending for the calling vCPU, 0 when the deadline has passed.
        12 EventWait event_wait(deadline: Deadline) [];
        /// Unmasks a port, and signals again if it is pending; for an interrupt, the line too.
        13 EventUnmask event_unmask(port: Port) [];
        /// Closes a port of the caller, or of a domain that it may connect; the peer's port stays, unconnected. The control
        /// port cannot be closed.
        14 EventClose event_close(domain: Live(CONNECT), port: Port) [NotPermitted];
        /// Lets the port notify another vCPU of the caller.
        15 EventBindVcpu event_bind_vcpu(port: Port, vcpu: Number) [];
        /// Connects two domains by a new channel. Gives the port of the first (bits 32..) and of the second (bits 0..32).
        16 EventConnect event_connect(first: Live(CONNECT), second: Live(CONNECT)) [TableFull];

        /// Maps a batch of `count` grants, 1 to `MAX_BATCH`, `elements` is an array of `MapElement`. Gives the number done
        /// without error; each element has its own status (`NoPeer BadGrant BadAddress Exists NoMemory TableFull Invalid`).
        17 GrantMap grant_map(elements: ReadWrite, count: Length) [TooBig];
        /// Unmaps a batch of `UnmapElement`. Returns when no CPU and no device can reach the pages any more. Gives the number
        /// done without error (`NotFound`).
        18 GrantUnmap grant_unmap(elements: ReadWrite, count: Length) [TooBig];
        /// Copies a batch of `CopyElement`. Gives the number done without error (`NoPeer BadGrant BadAddress Invalid`).
        19 GrantCopy grant_copy(elements: ReadWrite, count: Length) [TooBig];

        /// Puts zeroed memory at `address` of the caller, or of a domain in building: image, heap or stack area, or
        /// guest memory, not yet populated. At most 512 pages a call. `protection` is one of `protection`; for guest memory it
        /// is `WRITE`, and the guest may execute it, too.
        20 MemoryPopulate memory_populate(domain: AnyDomain, address: Address, pages: Pages, protection: Flags) [NoMemory, Exists, WrongState, TooBig];
        /// Takes memory of the caller's image, heap or stack area, or guest memory, away and gives the frames back to those
        /// set aside for it. At most 512 pages a call. Pages that others hold mapped give `Busy`, and nothing is released.
        21 MemoryRelease memory_release(address: Address, pages: Pages) [Busy, TooBig];

        /// Makes a domain from `spec`, a `DomainSpec`, in state building, and fills `out`, a `DomainCreated`. Peer 0 of the
        /// new domain is the caller; control rings, console ring, grant table and retained memory are in place.
        22 DomainCreate domain_create(system: System(CONTROL), spec: Read, out: Write) [NoMemory, TableFull, Again, Unsupported];
        /// Copies `length` bytes, at most 65536, from the caller's `source` to `address` (any alignment) of a domain in
        /// building, whatever protection the page has. Pages outside image, heap, stack and arguments are refused.
        23 DomainWrite domain_write(domain: Building, address: Address, source: Read, length: Length) [TooBig];
        /// Starts vCPU 0 at `entry` with stack pointer `stack` (0: the layout's).
        24 DomainStart domain_start(domain: Building, entry: Address, stack: Address) [];
        /// Stops all its vCPUs until unpaused as often. Returns when none of them runs any more.
        25 DomainPause domain_pause(domain: Other) [WrongState, Again];
        /// Takes one pause back.
        26 DomainUnpause domain_unpause(domain: Other) [WrongState];
        /// Ends whatever it does and takes it back to building in place: memory scrubbed except for retained pages; handles,
        /// peers, ports and pending events stay; what it had mapped is unmapped; its incarnation stays. With 1 in `keep`, pages of
        /// its image that it cannot write stay too, and their content: nobody says that it is what was loaded.
        27 DomainReset domain_reset(domain: Other, keep: Flags) [WrongState, Again];
        /// Ends it and gives everything back. The caller's handle is closed when this succeeds.
        28 DomainDestroy domain_destroy(domain: AnyDomain) [Again];
        /// Fills `out`, a `DomainInfo`.
        29 DomainInfo domain_info(domain: Domain(INSPECT), out: Write) [];
        /// Fills `out`, a `DeathReport`.
        30 DomainDeath domain_death(domain: Domain(INSPECT), out: Write) [];
        /// Sets aside `pages` frames for it and bounds later calls by `max`. Fails with `Busy` below what it uses.
        31 DomainSetMemory domain_set_memory(domain: Domain(CONTROL), pages: Pages, max: Pages) [NoMemory, Busy];
        /// Sets how it is scheduled; `params` is a `SchedParams`.
        32 DomainSchedule domain_schedule(domain: Domain(CONTROL), params: Read) [];
        /// Makes `peer` entry `index` of the domain's peer table. With 1 in `face`, grants of that peer are taken from the grant
        /// table of its virtual machine. An entry in use is refused unless it named somebody who is gone.
        33 DomainPeer domain_peer(domain: Live(CONNECT), index: Number, peer: Live(CONNECT), face: Flags) [Exists];
        /// Fills `out`, a `VcpuInfo`.
        34 VcpuInfo vcpu_info(domain: Domain(INSPECT), vcpu: Number, out: Write) [];
        /// Starts another vCPU of the caller at `entry` with stack pointer `stack` (0: the layout's).
        35 VcpuStart vcpu_start(vcpu: Number, entry: Address, stack: Address) [WrongState];
        /// Lets others run first.
        36 VcpuYield vcpu_yield() [];
        /// Ends the caller: `reason` is Shutdown, Reboot or Panic; the message, at most 256 bytes, goes into its death report.
        37 DomainExit domain_exit(reason: Number, code: Number, message: Read, length: Length) [TooBig];
        /// Gives ns since the core started.
        38 Clock clock() [];

        /// Fills `out`, a `DeviceInfo`, for PCI function `index` of those found at boot; `NotFound` past the last.
        39 DeviceList device_list(system: System(INSPECT), index: Number, out: Write) [NotFound];
        /// Makes a handle for the PCI function at `address`, bus (bits 8..16), device (bits 3..8) and function (bits 0..3).
        40 DeviceCreate device_create(system: System(CONTROL), address: Number) [TableFull, NotFound];
        /// Fills `out`, a `DeviceInfo`.
        41 DeviceInfo device_info(device: Device(USE), out: Write) [];
        /// Claims the device until the caller is reset or ends, and lets it decode its memory; with `DMA` in `flags` it may
        /// also read and write memory from now on, without it not: reset it in between, for it may still hold addresses
        /// that a former driver gave it. `Busy`: another domain has it. `NotPermitted`: a bridge, or there is no IOMMU and
        /// the boot line does not say `iommu=off-insecure`.
        42 DeviceOpen device_open(device: Device(USE), flags: Flags) [Busy];
        /// Reads 1, 2 or 4 bytes of the configuration space, at an offset that is a multiple of that.
        43 ConfigRead config_read(device: Device(USE), offset: Number, width: Number) [];
        /// Writes there, of a device that the caller has opened: status, cache line size and latency timer. Everything else
        /// is the core's, and refused with `NotPermitted`.
        44 ConfigWrite config_write(device: Opened, offset: Number, width: Number, value: Number) [];
        /// Maps pages of a memory BAR, from its page `page` on, uncached at `address` in the MMIO window, until the caller is
        /// reset or ends. The pages that hold the MSI-X table are refused with `NotPermitted`; a BAR that shares a page with
        /// another is refused with `Busy`, one that is absent with `NotFound`.
        45 DeviceMap device_map(device: Opened, bar: Number, page: Number, address: Address, pages: Pages) [NotFound, Busy, Exists, NoMemory, TooBig];
        /// Binds message-signalled interrupt `index` to a new port of the caller, on the CPU it runs on, and unmasks it. At
        /// most one binding exists at a time; closing the port ends it.
        46 DeviceInterrupt device_interrupt(device: Opened, index: Number) [NotFound, Busy, TableFull];
        /// Writes the addresses a device of the caller uses for its writable pages from `address` on into `out`, a u64 each,
        /// at most 512. From then on they can be neither granted nor released, until the caller is reset or ends.
        47 DeviceAddresses device_addresses(device: Opened, address: Address, pages: Pages, out: Write) [Busy, TooBig];

        /// Runs the virtual CPU that belongs to the calling vCPU, from the state in its page (`vm`), until something happens
        /// that the guest cannot do itself, an event is pending, or the deadline has passed. Gives the `vm::Exit`.
        /// `WrongState`: the domain has no virtual machine.
        48 VmRun vm_run(deadline: Deadline) [WrongState];
        /// Puts page `index` of the guest's grant table at `address` of guest memory, where nothing is; it leaves the place
        /// where it was. `WrongState`: the domain has no virtual machine.
        49 VmGrantTable vm_grant_table(index: Number, address: Address) [WrongState, Exists, NoMemory];
    } };
}

macro_rules! number {
    ($($(#[doc = $doc:literal])* $number:literal $variant:ident $name:ident $arguments:tt $errors:tt;)*) => {
        /// The hypercalls by number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Hypercall { $($(#[doc = $doc])* $variant = $number,)* }
    };
}

for_each_hypercall!(number);
