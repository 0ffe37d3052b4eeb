//! Where the compressed kernel lies in a bzImage (Linux `Documentation/x86/boot.rst`).

use super::LoadError;

/// Bytes of the file that [`payload`] looks at.
pub const HEADER: usize = 0x250;

/// `HdrS`, which every bzImage carries.
const MAGIC: (usize, [u8; 4]) = (0x202, *b"HdrS");
/// First version of the boot protocol that says where the payload is.
const VERSION: u16 = 0x208;
/// Size of the sectors that the set-up code is counted in.
const SECTOR: u64 = 512;

/// Offset and bytes of the payload; `None` if this is no bzImage.
pub fn payload(header: &[u8; HEADER], file_bytes: u64) -> Result<Option<(u64, u64)>, LoadError> {
    if header[MAGIC.0..MAGIC.0 + 4] != MAGIC.1 {
        return Ok(None);
    }
    let u32_at =
        |at: usize| u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    let version = u16::from_le_bytes([header[0x206], header[0x207]]);
    if version < VERSION {
        return Err(LoadError::BootProtocol(version));
    }
    // 0 stands for 4.
    let sectors = match header[0x1f1] {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let (offset, length) = ((sectors + 1) * SECTOR + u32_at(0x248), u32_at(0x24c));
    match offset + length <= file_bytes {
        true => Ok(Some((offset, length))),
        false => Err(LoadError::Truncated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found() {
        let mut header = [0; HEADER];
        assert_eq!(payload(&header, 1 << 20), Ok(None));
        header[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(payload(&header, 1 << 20), Err(LoadError::BootProtocol(0)));
        header[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        header[0x1f1] = 39;
        header[0x248..0x24c].copy_from_slice(&0x2ccu32.to_le_bytes());
        header[0x24c..0x250].copy_from_slice(&1000u32.to_le_bytes());
        assert_eq!(payload(&header, 0x52cc + 1000), Ok(Some((0x52cc, 1000))));
        assert_eq!(payload(&header, 0x52cc + 999), Err(LoadError::Truncated));
        header[0x248..0x250].fill(0xff);
        assert_eq!(payload(&header, u64::from(u32::MAX)), Err(LoadError::Truncated));
    }
}
