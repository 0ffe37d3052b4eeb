//! The interrupt controllers for devices: the sixteen ISA lines, routed as the firmware says, all to the first CPU.

use microkernel::events::{LINES, VECTORS};
use microkernel::platform::Phys;
use spin::Mutex;

use super::acpi::Madt;
use super::window;

const MASKED: u32 = 1 << 16;
/// A line is level-triggered.
pub const LEVEL: u32 = 1 << 15;
/// A line is active when low.
pub const ACTIVE_LOW: u32 = 1 << 13;

/// Where a line arrives.
#[derive(Clone, Copy)]
struct Route {
    /// Physical address of the controller's registers.
    controller: u64,
    /// Index of the low register of its redirection entry.
    register: u32,
    /// The entry's low half, not masked.
    entry: u32,
}

/// Routes by line; the lock keeps the two steps of a register access together.
static ROUTES: Mutex<[Option<Route>; LINES]> = Mutex::new([None; LINES]);

/// Reads or writes a register: its number goes to offset 0, its value is at offset 16.
fn select(controller: u64, register: u32) -> *mut u32 {
    let base = window::pointer::<u32>(Phys(controller));
    // SAFETY: mapped, uncached registers of a controller that the firmware names.
    unsafe {
        base.write_volatile(register);
        base.add(4)
    }
}

fn write(controller: u64, register: u32, value: u32) {
    // SAFETY: as in `select`.
    unsafe { select(controller, register).write_volatile(value) }
}

/// Masks every input of every controller, and prepares the routes of the ISA lines to the CPU with this APIC id.
pub fn initialize(madt: &Madt, target: u32) {
    let mut routes = ROUTES.lock();
    for (controller, first) in madt.ioapics.iter().copied() {
        // SAFETY: as in `select`.
        let version = unsafe { select(controller, 1).read_volatile() };
        for pin in 0..=(version >> 16 & 0xff) {
            let register = 0x10 + 2 * pin;
            write(controller, register, MASKED);
            let Some(line) = madt.lines.iter().position(|line| line.gsi == first.wrapping_add(pin)) else { continue };
            write(controller, register + 1, target << 24);
            let entry = (VECTORS as u32 + line as u32) | madt.lines[line].mode;
            routes[line] = Some(Route { controller, register, entry });
        }
    }
}

/// Masks or unmasks a line.
pub fn mask(line: u8, masked: bool) {
    if let Some(Some(route)) = ROUTES.lock().get(usize::from(line)) {
        write(route.controller, route.register, route.entry | if masked { MASKED } else { 0 });
    }
}
