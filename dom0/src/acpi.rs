//! What switching the machine off needs of ACPI: two tables, read by hand.
//!
//! AML is not interpreted. The package `_S5_` is found by its bytes, as its form leaves no choice: a name, a package, small
//! constants. ACPI specification 6.5, sections 5.2.9 (FADT), 4.8.3.2 (PM1 control) and 20.2 (AML encoding).

use alloc::vec::Vec;

use crate::hypervisor::{Hypervisor, Width};

/// Largest DSDT that is read, in bytes; larger ones have not been seen.
const TABLE_MAX: u64 = 1 << 20;
/// Bytes of one read.
const PART: usize = 4096;

/// In PM1 control: the system is in ACPI mode.
const SCI_EN: u32 = 1;
/// In PM1 control: go to the sleep state named by the type.
const SLP_EN: u32 = 1 << 13;
/// Where the sleep type lies in PM1 control.
const SLP_TYP_SHIFT: u32 = 10;
/// In the flags of the FADT: there is a reset register.
const RESET_REG_SUP: u32 = 1 << 10;
/// Address space of a register: I/O ports.
const SPACE_IO: u8 = 1;
/// Reads of PM1 control after ACPI mode was asked for; the firmware has it done in a few.
const ENABLE_POLLS: u32 = 1000;

/// What the FADT says about power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// Port and value that turn ACPI mode on, where that is needed.
    enable: Option<(u16, u8)>,
    /// PM1a and PM1b control; the second is often missing.
    pm1_control: [Option<u16>; 2],
    /// Port and value that reset the machine.
    reset: Option<(u16, u8)>,
}

impl Fadt {
    /// Reads the table. What it does not have, or has outside of I/O ports, is `None`.
    pub fn parse(table: &[u8]) -> Fadt {
        let byte = |at: usize| table.get(at).copied().unwrap_or(0);
        let long = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        let port = |number: u32| u16::try_from(number).ok().filter(|&port| port != 0);
        // A generic address: space, width, offset, access size, 64-bit address.
        let generic = |at: usize| port(long(at + 4)).filter(|_| byte(at) == SPACE_IO && long(at + 8) == 0);
        let reset = generic(116).filter(|_| long(112) & RESET_REG_SUP != 0);
        Fadt {
            enable: port(long(48)).filter(|_| byte(52) != 0).map(|smi| (smi, byte(52))),
            pm1_control: [(64, 172), (68, 184)].map(|(legacy, extended)| port(long(legacy)).or(generic(extended))),
            reset: reset.map(|port| (port, byte(128))),
        }
    }
}

/// Finds the sleep types of state S5 in a DSDT, for PM1a and PM1b.
pub fn soft_off(dsdt: &[u8]) -> Option<[u8; 2]> {
    const NAME_OP: u8 = 0x08;
    const PACKAGE_OP: u8 = 0x12;
    let mut from = 0;
    loop {
        let at = from + dsdt.get(from..)?.windows(4).position(|name| name == b"_S5_")?;
        from = at + 4;
        let before = at.checked_sub(1).and_then(|at| dsdt.get(at));
        // The name may be written from the root: `\_S5_`.
        let named = match before {
            Some(&NAME_OP) => true,
            Some(b'\\') => at.checked_sub(2).and_then(|at| dsdt.get(at)) == Some(&NAME_OP),
            _ => false,
        };
        let mut rest = dsdt.get(from..)?;
        if named && rest.first() == Some(&PACKAGE_OP) {
            // The length of the package has as many more bytes as the two highest bits of its first say.
            let more = usize::from(*rest.get(1)? >> 6);
            rest = rest.get(2 + more..)?;
            let count = *rest.first()?;
            rest = rest.get(1..)?;
            let first = constant(&mut rest).filter(|_| count >= 1)?;
            let second = if count >= 2 { constant(&mut rest)? } else { first };
            return Some([first, second]);
        }
    }
}

/// Takes a small integer constant of AML.
fn constant(rest: &mut &[u8]) -> Option<u8> {
    let (&op, after) = rest.split_first()?;
    let (value, after) = match op {
        // ZeroOp and OneOp.
        0 | 1 => (op, after),
        // ByteConst.
        0x0a => (*after.first()?, after.get(1..)?),
        _ => return None,
    };
    *rest = after;
    Some(value)
}

/// Switches the machine off. Returns only if that did not work, with the reason.
pub fn power_off<H: Hypervisor>(hypervisor: &mut H) -> &'static str {
    let Some(fadt) = table(hypervisor, *b"FACP") else { return "the firmware has no FADT" };
    let fadt = Fadt::parse(&fadt);
    let Some(types) = table(hypervisor, *b"DSDT").and_then(|dsdt| soft_off(&dsdt)) else {
        return "the firmware does not say how to switch off (no _S5_)";
    };
    enable(hypervisor, &fadt);
    for (port, sleep_type) in fadt.pm1_control.into_iter().zip(types) {
        let Some(port) = port else { continue };
        let Ok(before) = hypervisor.port_read(port, Width::Word) else { return "the power register is not to be had" };
        let kept = before & !(SLP_EN | 7 << SLP_TYP_SHIFT);
        let value = kept | u32::from(sleep_type & 7) << SLP_TYP_SHIFT | SLP_EN;
        if hypervisor.port_write(port, Width::Word, value).is_err() {
            return "the power register is not to be had";
        }
    }
    "the machine does not obey"
}

/// Turns ACPI mode on, if the firmware left it off.
fn enable<H: Hypervisor>(hypervisor: &mut H, fadt: &Fadt) {
    let (Some((smi, value)), Some(control)) = (fadt.enable, fadt.pm1_control[0]) else { return };
    let on = |hypervisor: &mut H| hypervisor.port_read(control, Width::Word).is_ok_and(|bits| bits & SCI_EN != 0);
    if on(hypervisor) || hypervisor.port_write(smi, Width::Byte, value.into()).is_err() {
        return;
    }
    for _ in 0..ENABLE_POLLS {
        if on(hypervisor) {
            return;
        }
    }
}

/// Registers that reset a PC without the firmware's help: the chipset's (hard reset), and the keyboard controller's line to
/// the CPU.
const RESET_FALLBACKS: [(u16, u8); 2] = [(0xcf9, 6), (0x64, 0xfe)];

/// Starts the machine again. Returns only if that did not work, with the reason.
pub fn reset<H: Hypervisor>(hypervisor: &mut H) -> &'static str {
    let register = table(hypervisor, *b"FACP").and_then(|fadt| Fadt::parse(&fadt).reset);
    let mut reason = "no reset register is to be had";
    for (port, value) in register.into_iter().chain(RESET_FALLBACKS) {
        if hypervisor.port_write(port, Width::Byte, value.into()).is_ok() {
            reason = "the machine does not obey";
        }
    }
    reason
}

fn table<H: Hypervisor>(hypervisor: &mut H, signature: [u8; 4]) -> Option<Vec<u8>> {
    let mut part = alloc::vec![0; PART];
    let mut table: Vec<u8> = Vec::new();
    loop {
        let offset = table.len() as u64;
        let length = hypervisor.acpi_read(signature, offset, &mut part).ok()?;
        let count = length.saturating_sub(offset).min(PART as u64) as usize;
        if count == 0 || offset >= TABLE_MAX {
            return Some(table);
        }
        table.extend_from_slice(part.get(..count)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sleep_type_is_found_among_other_things() {
        let mut dsdt = b"..._S5_no\x08_S4_\x12\x06\x04\x0a\x02".to_vec();
        assert_eq!(soft_off(&dsdt), None);
        dsdt.extend(b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00");
        assert_eq!(soft_off(&dsdt), Some([5, 0]));
        assert_eq!(soft_off(b"\x08\\_S5_\x12\x07\x02\x01\x0a\x07"), Some([1, 7]));
        assert_eq!(soft_off(b"\x08_S5_\x12\x47\x00\x01\x00"), Some([0, 0]));
        assert_eq!(soft_off(b"\x08_S5_\x12"), None);
        assert_eq!(soft_off(b"\x08_S5_\x12\x06\x02\x0b\x01\x00"), None);
    }

    #[test]
    fn registers_come_from_the_old_fields_or_the_new() {
        let mut table = std::vec![0; 244];
        assert_eq!(Fadt::parse(&table), Fadt { enable: None, pm1_control: [None, None], reset: None });
        table[48..52].copy_from_slice(&0xb2_u32.to_le_bytes());
        table[52] = 0xf1;
        table[64..68].copy_from_slice(&0x604_u32.to_le_bytes());
        table[184..192].copy_from_slice(&[1, 16, 0, 2, 0x04, 0x07, 0, 0]);
        table[112..116].copy_from_slice(&RESET_REG_SUP.to_le_bytes());
        table[116..124].copy_from_slice(&[1, 8, 0, 1, 0xf9, 0x0c, 0, 0]);
        table[128] = 6;
        let expected =
            Fadt { enable: Some((0xb2, 0xf1)), pm1_control: [Some(0x604), Some(0x704)], reset: Some((0xcf9, 6)) };
        assert_eq!(Fadt::parse(&table), expected);
        table[116] = 0;
        assert_eq!(Fadt::parse(&table).reset, None, "a reset register in memory is out of reach");
    }

    proptest! {
        #[test]
        fn no_table_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Fadt::parse(&bytes);
            soft_off(&bytes);
            soft_off(&[b"\x08_S5_".as_slice(), &bytes].concat());
        }
    }
}
