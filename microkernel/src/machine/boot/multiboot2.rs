//! The multiboot2 boot information (specification 2.0, section 3.6): a list of tags.

use super::{BootInfo, early_bytes, u32_at};

/// Most bytes of boot information that are looked at; it holds no module, only tables.
const SIZE_MAX: u64 = 1 << 20;

/// Reads the tags at `address`.
pub fn read(address: u32) -> Result<BootInfo, &'static str> {
    let header = early_bytes(address.into(), 8);
    let size = u64::from(u32_at(header, 0).unwrap_or(0)).min(SIZE_MAX);
    let mut rest = early_bytes(address.into(), size).get(8..).unwrap_or(&[]);
    let mut info = BootInfo::default();
    while let (Some(kind), Some(length)) = (u32_at(rest, 0), u32_at(rest, 4)) {
        let Some(body) = rest.get(8..length as usize) else { break };
        match kind {
            0 => break,
            1 => info.set_line(body)?,
            3 if info.bundle != (0..0) => return Err("more than one boot module; the boot bundle is the only one"),
            3 => info.bundle = u32_at(body, 0).unwrap_or(0).into()..u32_at(body, 4).unwrap_or(0).into(),
            6 => {
                let size = u32_at(body, 0).unwrap_or(0).max(24) as usize;
                info.set_memory(body.get(8..).unwrap_or(&[]), size)?;
            }
            // Copies of the old and the new root pointer.
            14 if info.acpi.is_none() => info.set_acpi(body),
            15 => info.set_acpi(body),
            _ => {}
        }
        rest = rest.get((length as usize).next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(info)
}
