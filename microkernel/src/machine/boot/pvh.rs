//! The PVH boot protocol: `struct hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`).

use super::{BootInfo, early_bytes, u32_at, u64_at};

/// First field of the structure.
const MAGIC: u32 = 0x336e_c578;
/// Most memory map entries that are looked at.
const ENTRIES_MAX: u64 = 512;

/// Reads the structure at `address`.
pub fn read(address: u32) -> Result<BootInfo, &'static str> {
    let start = early_bytes(address.into(), 56);
    let field = |offset| u64_at(start, offset).unwrap_or(0);
    if u32_at(start, 0) != Some(MAGIC) || u32_at(start, 4).is_none_or(|version| version < 1) {
        return Err("PVH boot without a memory map (start info older than version 1)");
    }
    let mut info = BootInfo::default();
    if u32_at(start, 12) == Some(1) {
        let module = early_bytes(field(16), 16);
        if let (Some(at), Some(length)) = (u64_at(module, 0), u64_at(module, 8)) {
            info.bundle = at..at.saturating_add(length);
        }
    }
    info.set_line(if field(24) == 0 { &[] } else { early_bytes(field(24), super::BOOT_LINE_MAX as u64 + 1) })?;
    info.set_acpi(early_bytes(field(32), 36));
    let map = early_bytes(field(40), u64::from(u32_at(start, 48).unwrap_or(0)).min(ENTRIES_MAX) * 24);
    info.set_memory(map, 24)?;
    Ok(info)
}
