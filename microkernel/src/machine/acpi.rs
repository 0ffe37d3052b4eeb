//! The firmware's tables: where they are, and what the MADT says about CPUs and interrupts.
//!
//! Only headers and the static MADT and FADT are read; AML never runs in ring 0. Every offset is checked against the length
//! of its table, and a table that lies nowhere is left out.

use heapless::Vec;
use microkernel::events::LINES;
use microkernel::platform::Phys;
use protocol::system::MAX_CPUS;
use spin::Once;

use super::boot::{u32_at, u64_at};
use super::ioapic::{ACTIVE_LOW, LEVEL};
use super::paging::{READ, Tables};
use super::window;

/// Tables that are kept in mind; machines have some thirty.
const MAX_TABLES: usize = 96;
/// Largest table that is believed, in bytes.
const MAX_LENGTH: u64 = 16 << 20;
/// I/O interrupt controllers that are used.
const MAX_IOAPICS: usize = 16;
const HEADER: u64 = 36;

/// How an ISA line is wired.
#[derive(Clone, Copy)]
pub struct Line {
    /// Number of the input over all controllers.
    pub gsi: u32,
    /// Trigger and polarity: [`LEVEL`], [`ACTIVE_LOW`].
    pub mode: u32,
}

/// What the MADT says.
pub struct Madt {
    /// Physical address of the local controllers' registers.
    pub registers: u64,
    /// APIC ids of the CPUs that can be started.
    pub cpus: Vec<u32, MAX_CPUS>,
    /// Physical addresses of the I/O controllers, each with its first input.
    pub ioapics: Vec<(u64, u32), MAX_IOAPICS>,
    /// The ISA lines.
    pub lines: [Line; LINES],
}

static TABLES: Once<Vec<&[u8], MAX_TABLES>> = Once::new();

/// A table, header included: of those with this signature the one with this number.
pub fn find(signature: &[u8; 4], instance: usize) -> Option<&'static [u8]> {
    TABLES.get()?.iter().filter(|table| table.starts_with(signature)).nth(instance).copied()
}

/// Makes the table at `at` reachable.
fn table(at: u64, tables: &mut Tables) -> Option<&'static [u8]> {
    tables.reach(at, HEADER, READ).ok()?;
    // SAFETY: mapped just now. Tables do not change while the core reads them, for no domain runs yet and their memory is
    // never given to one.
    let header = unsafe { core::slice::from_raw_parts(window::pointer(Phys(at)), HEADER as usize) };
    let length = u32_at(header, 4).map(u64::from).filter(|length| (HEADER..=MAX_LENGTH).contains(length))?;
    tables.reach(at, length, READ).ok()?;
    // SAFETY: likewise.
    Some(unsafe { core::slice::from_raw_parts(header.as_ptr(), length as usize) })
}

/// Looks up all tables of the list at `root`. More than fit are left out.
pub fn initialize(root: u64, tables: &mut Tables) -> Result<(), &'static str> {
    let list = table(root, tables).ok_or("the list of ACPI tables lies nowhere")?;
    let mut found = Vec::new();
    for entry in list[HEADER as usize..].chunks_exact(if list.starts_with(b"XSDT") { 8 } else { 4 }) {
        let at = u64_at(entry, 0).or(u32_at(entry, 0).map(u64::from)).unwrap_or(0);
        let Some(table) = table(at, tables) else { continue };
        if table.starts_with(b"FACP") {
            // X_DSDT, or DSDT where that is missing.
            let at = u64_at(table, 140).filter(|at| *at != 0).or(u32_at(table, 40).map(u64::from));
            _ = at.and_then(|at| self::table(at, tables)).map(|dsdt| found.push(dsdt));
        }
        _ = found.push(table);
    }
    TABLES.call_once(|| found);
    Ok(())
}

/// The I/O port of the ACPI timer.
pub fn timer_port() -> Option<u16> {
    u32_at(find(b"FACP", 0)?, 76).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// Reads the MADT (ACPI specification, section 5.2.12).
pub fn madt() -> Result<Madt, &'static str> {
    let madt = find(b"APIC", 0).ok_or("no ACPI table describes the CPUs (MADT)")?;
    let mut found = Madt {
        registers: u32_at(madt, 36).unwrap_or(0).into(),
        cpus: Vec::new(),
        ioapics: Vec::new(),
        lines: core::array::from_fn(|line| Line { gsi: line as u32, mode: 0 }),
    };
    let mut rest = madt.get(44..).unwrap_or(&[]);
    while let [kind, length, ..] = *rest {
        let Some(entry) = rest.get(..usize::from(length)).filter(|_| length >= 2) else { break };
        let number = |offset| u32_at(entry, offset).unwrap_or(0);
        // More of a kind than the core uses are left out.
        match kind {
            0 if length >= 8 && number(4) & 1 != 0 => _ = found.cpus.push(entry[3].into()),
            1 => _ = found.ioapics.push((number(4).into(), number(8))),
            2 if length >= 10 && usize::from(entry[3]) < LINES => {
                // Polarity and trigger: 3 is low and level; 0 is what the ISA bus has, high and edge.
                let low = if entry[8] & 3 == 3 { ACTIVE_LOW } else { 0 };
                let level = if entry[8] >> 2 & 3 == 3 { LEVEL } else { 0 };
                found.lines[usize::from(entry[3])] = Line { gsi: number(4), mode: low | level };
            }
            5 => found.registers = u64_at(entry, 4).unwrap_or(found.registers),
            9 if number(8) & 1 != 0 && !found.cpus.contains(&number(4)) => _ = found.cpus.push(number(4)),
            _ => {}
        }
        rest = &rest[usize::from(length)..];
    }
    Ok(found)
}
