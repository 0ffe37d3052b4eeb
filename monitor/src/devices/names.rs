//! What Linux calls a device by number.
//!
//! Disks have the numbers of `xen-vbd-interface(7)`: major and minor number of the block device in Linux, or bit 28 with disk and
//! partition where those are too large. Network interfaces are counted.

use super::device::Class;

/// Major number of `xvd*`.
const XVD: u32 = 202;
/// Major number of `sd*`.
const SD: u32 = 8;
/// Major numbers of `hd*`: two disks each.
const HD: [u32; 2] = [3, 22];
/// Marks numbers with disk and partition in fields of their own.
const EXTENDED: u32 = 1 << 28;

/// The number of the device with this name; `None` if it can have none.
pub fn number(name: &str, class: Class) -> Option<u32> {
    match class {
        Class::Block => disk(name),
        Class::Network => decimal(name.strip_prefix("eth")?),
    }
}

fn disk(name: &str) -> Option<u32> {
    let (prefix, rest) = ["xvd", "sd", "hd"].iter().find_map(|prefix| Some((*prefix, name.strip_prefix(prefix)?)))?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let partition = match &rest[letters.len()..] {
        "" => 0,
        digits => decimal(digits).filter(|partition| *partition > 0)?,
    };
    if letters.is_empty() || letters.len() > 2 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    // a..z, then aa..zz: bijective in base 26.
    let disk = letters.bytes().fold(0, |disk, byte| disk * 26 + u32::from(byte - b'a') + 1) - 1;
    match prefix {
        "xvd" if disk < 16 && partition < 16 => Some(XVD << 8 | disk << 4 | partition),
        "xvd" if partition < 256 => Some(EXTENDED | disk << 8 | partition),
        "sd" if disk < 16 && partition < 16 => Some(SD << 8 | disk << 4 | partition),
        "hd" if disk < 4 && partition < 64 => Some(HD[disk as usize / 2] << 8 | (disk % 2) << 6 | partition),
        _ => None,
    }
}

/// A number without anything around it, and without zeros before it.
pub fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_the_numbers_that_linux_expects() {
        let cases = [
            ("xvda", Some(51712)),
            ("xvda1", Some(51713)),
            ("xvdb", Some(51728)),
            ("xvdp15", Some(202 << 8 | 0xff)),
            ("xvdq", Some(1 << 28 | 16 << 8)),
            ("xvda16", Some(1 << 28 | 16)),
            ("xvdaa", Some(1 << 28 | 26 << 8)),
            ("sdb3", Some(8 << 8 | 0x13)),
            ("hda", Some(3 << 8)),
            ("hdd1", Some(22 << 8 | 65)),
            ("hde", None),
            ("sdq", None),
            ("xvd", None),
            ("xvd1", None),
            ("xvda0", None),
            ("xvda01", None),
            ("xvdA", None),
            ("xvdaaa", None),
            ("xvda256", None),
            ("vda", None),
            ("xvda99999999999", None),
        ];
        for (name, expected) in cases {
            assert_eq!(number(name, Class::Block), expected, "{name}");
        }
        assert_eq!(number("eth12", Class::Network), Some(12));
        assert_eq!(number("eth", Class::Network), None);
        assert_eq!(number("eth+1", Class::Network), None);
    }
}
