//! Ranges of I/O ports, in hexadecimal as xl.cfg has them: `1f0-1f7`, or a single one, `3f6`.

use alloc::format;
use alloc::string::String;

use super::reader::shown;

/// A range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Range {
    /// The first port.
    pub first: u16,
    /// How many, at least one.
    pub count: u16,
}

impl Range {
    const fn last(self) -> u16 {
        self.first + (self.count - 1)
    }

    /// Whether both have a port in common.
    pub const fn meets(self, other: Range) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }
}

impl core::fmt::Display for Range {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.count {
            1 => write!(f, "{:x}", self.first),
            _ => write!(f, "{:x}-{:x}", self.first, self.last()),
        }
    }
}

/// Parses one entry of `ioports`.
pub fn parse(text: &str) -> Result<Range, String> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(text, 16).ok().filter(|_| digits)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let count = port(first).zip(port(last)).and_then(|(first, last)| last.checked_sub(first)?.checked_add(1));
    port(first)
        .zip(count)
        .map(|(first, count)| Range { first, count })
        .ok_or_else(|| format!("`{}` is no range of I/O ports", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn ranges_and_single_ports() {
        assert_eq!(parse("1f0-1f7"), Ok(Range { first: 0x1f0, count: 8 }));
        assert_eq!(parse("3f6"), Ok(Range { first: 0x3f6, count: 1 }));
        for bad in ["", "-", "1f7-1f0", "1f0-", "10000", "0-ffff", "+1", "1f0-1f7-1f8", "port"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_meet_where_they_share_a_port() {
        let range = |text| parse(text).unwrap();
        assert!(range("1f0-1f7").meets(range("1f7")) && range("1f4").meets(range("1f0-1f7")));
        assert!(!range("1f0-1f7").meets(range("1f8-1ff")) && !range("3f6").meets(range("3f5")));
        assert!(range("1-ffff").meets(range("ffff")));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_understood(first: u16, count in 1_u16..) {
            prop_assume!(u32::from(first) + u32::from(count) <= 1 << 16);
            let range = Range { first, count };
            prop_assert_eq!(parse(&range.to_string()), Ok(range));
        }
    }
}
