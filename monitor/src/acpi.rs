//! The ACPI tables of the guest.
//!
//! They say what is there, its CPUs, and above all what is not there (no legacy devices, no IOAPIC, no power management
//! beyond a register to switch off and one to reset), so that the kernel looks for none of it.

use alloc::vec::Vec;

use crate::layout::ACPI;

/// Port of the reset register, and what is written to it.
pub const RESET: (u16, u8) = (0x600, 1);
/// Port of the sleep control register.
pub const SLEEP_CONTROL: u16 = 0x601;
/// Port of the sleep status register.
pub const SLEEP_STATUS: u16 = 0x602;
/// What switching off is in the sleep control register: sleep type 5 (bits 2..5), and go (bit 5).
pub const SLEEP_OFF: u8 = 5 << 2 | 1 << 5;

/// Bytes of the header that all tables but the RSDP have.
const HEADER: usize = 36;
/// Offset of the checksum in it.
const CHECKSUM: usize = 9;
/// NO_VGA, NO_MSI and NO_CMOS_RTC; no legacy devices, no 8042.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 3 | 1 << 5;
/// WBINVD works; no fixed power or sleep button; reset register; headless; physical APIC destinations; hardware-reduced.
const FLAGS: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 12 | 1 << 19 | 1 << 20;
/// AML: `Name(_S5_, Package(4) {5, 0, 0, 0})`: there is a state "off", and its sleep type is 5.
const S5: [u8; 13] = [0x08, b'_', b'S', b'5', b'_', 0x12, 0x07, 0x04, 0x0a, 0x05, 0, 0, 0];

/// The byte that makes the sum of them all 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

/// A table around `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::from(signature);
    table.extend(((HEADER + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"BULKHDBULKHEAD");
    table.extend(1u32.to_le_bytes());
    table.extend(b"BLKH");
    table.extend(1u32.to_le_bytes());
    table.extend(body);
    table[CHECKSUM] = checksum(&table);
    table
}

/// A register of a byte at a port, as a generic address.
fn port(address: u16) -> [u8; 12] {
    let mut generic = [1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    generic[4..6].copy_from_slice(&address.to_le_bytes());
    generic
}

/// The FADT.
fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = [0; 276];
    let mut put = |offset: usize, bytes: &[u8]| fadt[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(40, &(dsdt as u32).to_le_bytes());
    put(109, &BOOT_ARCHITECTURE.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &port(RESET.0));
    put(128, &[RESET.1]);
    // Minor revision.
    put(131, &[3]);
    put(140, &dsdt.to_le_bytes());
    put(244, &port(SLEEP_CONTROL));
    put(256, &port(SLEEP_STATUS));
    put(268, b"BULKHEAD");
    table(*b"FACP", 6, &fadt[HEADER..])
}

/// The MADT: a local APIC for each vCPU, whose id is that of the vCPU. No PC/AT interrupt controllers.
fn madt(vcpus: u32) -> Vec<u8> {
    let mut body = Vec::from(0xfee0_0000u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for vcpu in 0..vcpus {
        body.extend([0, 8, vcpu as u8, vcpu as u8, 1, 0, 0, 0]);
    }
    table(*b"APIC", 5, &body)
}

/// All tables, to lie at [`ACPI`]; the RSDP comes first.
pub fn tables(vcpus: u32) -> Vec<u8> {
    let aligned = |bytes: &Vec<u8>| bytes.len().next_multiple_of(8) as u64;
    let dsdt = table(*b"DSDT", 2, &S5);
    let dsdt_at = ACPI + 0x40;
    let fadt = fadt(dsdt_at);
    let fadt_at = dsdt_at + aligned(&dsdt);
    let madt = madt(vcpus);
    let madt_at = fadt_at + aligned(&fadt);
    let xsdt = table(*b"XSDT", 1, &[fadt_at.to_le_bytes(), madt_at.to_le_bytes()].concat());
    let xsdt_at = madt_at + aligned(&madt);
    let mut rsdp = Vec::from(*b"RSD PTR \0BULKHD\x02\0\0\0\0");
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(xsdt_at.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    let mut all = rsdp;
    for (address, table) in [(dsdt_at, dsdt), (fadt_at, fadt), (madt_at, madt), (xsdt_at, xsdt)] {
        all.resize((address - ACPI) as usize, 0);
        all.extend(table);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(all: &[u8], address: u64) -> &[u8] {
        let table = &all[(address - ACPI) as usize..];
        &table[..u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize]
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn tables_lead_to_each_other_and_add_up() {
        let all = tables(3);
        assert!(all.starts_with(b"RSD PTR ") && all[15] == 2);
        assert_eq!((checksum(&all[..20]), checksum(&all[..36])), (0, 0));
        let xsdt = at(&all, u64_at(&all, 24));
        assert!(xsdt.starts_with(b"XSDT") && xsdt.len() == 52);
        let (fadt, madt) = (at(&all, u64_at(xsdt, 36)), at(&all, u64_at(xsdt, 44)));
        let dsdt = at(&all, u64_at(fadt, 140));
        for (table, signature) in [(xsdt, b"XSDT"), (fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert!(table.starts_with(signature));
            assert_eq!(checksum(table), 0);
        }
        assert_eq!((fadt.len(), madt.len(), dsdt.len()), (276, 44 + 3 * 8, 49));
        assert_eq!(u64_at(fadt, 112) as u32, 0x0018_1431);
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0x2c);
        assert_eq!(&madt[44 + 16..], [0, 8, 2, 2, 1, 0, 0, 0]);
        assert!((tables(32).len() as u64) < 4096);
    }
}
