//! Bringing the machine up, in order.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::Release};

use microkernel::boot::BootConfig;
use microkernel::platform::Phys;
use microkernel::refuse_if;
use protocol::system::{Features, MAX_CPUS, SystemInfo};

use super::boot::{BootInfo, word};
use super::paging::{DEVICE, FRAME, Tables};
use super::percpu::Cpu;
use super::serial::line;
use super::{acpi, apic, entry, features, ioapic, lock, paging, panic, serial, smp, timer, window};

/// Memory below this is the firmware's and the other CPUs' entry; the core leaves it alone.
const LOW_MEMORY: u64 = 1 << 20;

/// Bytes of the stack on which the first CPU boots.
pub const BOOT_STACK_SIZE: usize = 64 << 10;
/// The core has booted: the other CPUs wait for it.
pub static BOOTED: AtomicBool = AtomicBool::new(false);
/// The stack on which the first CPU boots; only the assembly uses it.
pub static BOOT_STACK: [AtomicU64; BOOT_STACK_SIZE / 8] = [const { AtomicU64::new(0) }; BOOT_STACK_SIZE / 8];

/// The first Rust that runs: on the first CPU, with the early page tables.
pub extern "C" fn start_primary(protocol: u32, information: u32) -> ! {
    serial::initialize();
    match boot(protocol, information) {
        Ok(()) => run(),
        Err(reason) => {
            line(format_args!("core: cannot start: {reason}"));
            panic::end()
        }
    }
}

/// Enters the scheduler on this CPU, for good.
pub fn run() -> ! {
    // SAFETY: the CPU is initialised, and nothing on this stack is needed any more.
    unsafe { entry::first_entry() }
}

/// The I/O port that a word of the boot line names; 0 for none.
fn port(text: Option<&str>) -> u16 {
    text.and_then(|text| u16::from_str_radix(text.trim_start_matches("0x"), 16).ok()).unwrap_or(0)
}

fn boot(protocol: u32, information: u32) -> Result<(), &'static str> {
    let mut info = BootInfo::read(protocol, information)?;
    serial::DEBUG_CONSOLE.store(port(word(&info.line, "debugcon")), Relaxed);
    panic::EXIT_PORT.store(port(word(&info.line, "exit-port")), Relaxed);
    line(format_args!("Bulkhead {}", env!("CARGO_PKG_VERSION")));

    let mut found = features::detect();
    let no_nx = "the CPU cannot mark memory as not executable (NX), or the firmware has switched that off";
    refuse_if(!found.contains(Features::NX), no_nx)?;
    refuse_if(!found.contains(Features::XSAVE), "the CPU cannot save its vector registers by XSAVEOPT")?;
    features::enable(found);

    let total_frames = info.ram.as_slice().iter().map(|range| range.end - range.start).sum::<u64>() / FRAME;
    let image = paging::image();
    refuse_if(!info.ram.contains(&image), "the core was loaded over memory that the firmware uses")?;
    let bundle = info.bundle.start..info.bundle.end.checked_next_multiple_of(FRAME).unwrap_or(u64::MAX);
    refuse_if(bundle.is_empty(), "no boot bundle: it is the first boot module (QEMU: -initrd, GRUB: module2)")?;
    info.ram.remove(image)?;
    let misplaced = bundle.start % FRAME != 0 || !info.ram.contains(&bundle);
    refuse_if(misplaced, "the boot bundle does not start on a page, or lies in memory that the firmware keeps")?;
    let mut free = info.ram.clone();
    free.remove(bundle.clone())?;
    let trampoline = free.take(FRAME, LOW_MEMORY).ok_or("no free page below 1 MiB to start other CPUs with")?;
    free.remove(0..LOW_MEMORY)?;

    let mut tables = Tables::new(free, &info.ram)?;
    tables.activate();
    // What follows the bundle in its last page is no domain's to see.
    let rest = (bundle.end - info.bundle.end) as usize;
    // SAFETY: RAM of the bundle, which is mapped now; the loader's structures were copied.
    unsafe { core::ptr::write_bytes(window::pointer::<u8>(Phys(info.bundle.end)), 0, rest) };
    Cpu::new(&mut tables, 0)?.install();

    acpi::initialize(info.acpi.ok_or("the boot loader knows no ACPI tables")?, &mut tables)?;
    let madt = acpi::madt()?;
    tables.reach(madt.registers, FRAME, DEVICE)?;
    for (address, _) in &madt.ioapics {
        tables.reach(*address, FRAME, DEVICE)?;
    }
    apic::disable_pics();
    apic::choose_mode(found.contains(Features::X2APIC), madt.registers);
    apic::initialize(0);
    ioapic::initialize(&madt, apic::id());
    timer::calibrate()?;
    let limit = word(&info.line, "maxcpus").and_then(|text| text.parse().ok()).unwrap_or(MAX_CPUS);
    smp::start(&madt, &mut tables, trampoline, limit)?;

    let mut core = lock::CORE.lock();
    core.find_devices(info.ram.as_slice(), |at, length| tables.reach(at.0, length, DEVICE).is_ok());

    found.set(Features::IOMMU_OFF_INSECURE, word(&info.line, "iommu") == Some("off-insecure"));
    let length = (info.bundle.end - info.bundle.start) as usize;
    // SAFETY: RAM of the bundle, which is mapped; nobody writes to it any more, and domains see it read-only.
    let bundle_bytes = unsafe { core::slice::from_raw_parts(window::pointer(Phys(info.bundle.start)), length) };
    let config = BootConfig {
        ram: tables.free.as_slice(),
        bundle: bundle_bytes,
        bundle_start: Phys(info.bundle.start),
        boot_line: &info.line,
        info: SystemInfo {
            cpus: smp::cpus() as u32,
            tsc_hz: timer::tsc_hz(),
            total_frames,
            features: found.bits(),
            ..SystemInfo::default()
        },
        template: Phys(tables.root).frame(),
    };
    let (mib, mhz) = (total_frames / 256, config.info.tsc_hz / 1_000_000);
    core.say(format_args!("core: {mib} MiB of memory, {} CPUs at {mhz} MHz", config.info.cpus));
    core.boot(&config)?;
    let crash = word(&info.line, "crash").and_then(|how| CRASHES.iter().position(|name| *name == how));
    CRASH.store(crash.unwrap_or(CRASHES.len()), Relaxed);
    BOOTED.store(true, Release);
    Ok(())
}

/// Ways to fail on purpose, by the boot line.
const CRASHES: [&str; 4] = ["panic", "page-fault", "double-fault", "stack"];
/// The one asked for, as an index; out of range for none. One CPU takes it.
static CRASH: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Fails if the boot line asks for that, so that the report can be tested.
pub fn crash_if_asked() {
    match CRASH.swap(usize::MAX, Relaxed) {
        0 => panic!("as the boot line asked"),
        // SAFETY: none; the address is unmapped, and the fault is what is wanted.
        1 => unsafe { (0x10 as *mut u64).write_volatile(1) },
        // SAFETY: none; the stack pointer becomes useless, so that even a page fault cannot be delivered.
        2 => unsafe { core::arch::asm!("mov rsp, 8", "push 0", options(noreturn)) },
        3 => _ = overflow(1 << 20),
        _ => {}
    }
}

/// Uses up the stack, if `depth` is large enough.
fn overflow(depth: usize) -> usize {
    let filler = core::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { overflow(depth - 1) + filler[depth % 64] }
}
