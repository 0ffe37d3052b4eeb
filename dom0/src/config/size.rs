//! Sizes of memory as people write them: MiB, or with a unit.

use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

/// Most frames that can be asked for: 16 TiB, far beyond what a machine of this kind holds.
pub const PAGES_MAX: u64 = 1 << (44 - PAGE_SHIFT);

/// Digits after the point that count.
const DECIMALS: u32 = 6;

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// It is no number with a unit.
    Syntax,
    /// It is zero, or more than [`PAGES_MAX`].
    Range,
}

/// Frames that a text like `36`, `4.5`, `64K`, `36M` or `1.5G` asks for, rounded up; without a unit in MiB.
pub fn pages(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let shift = match unit.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        "" if unit.is_empty() => 20,
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(SizeError::Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(SizeError::Syntax);
    }
    let scale = 10_u128.pow(DECIMALS);
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SizeError::Range)? };
    let millionths = fraction.bytes().chain(core::iter::repeat(b'0')).take(DECIMALS as usize);
    let fraction = millionths.fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    let scaled = whole.checked_mul(scale).and_then(|number| (number + fraction).checked_mul(1 << shift));
    let pages = scaled.ok_or(SizeError::Range)?.div_ceil(scale * u128::from(PAGE_SIZE));
    match u64::try_from(pages) {
        Ok(pages @ 1..=PAGES_MAX) => Ok(pages),
        _ => Err(SizeError::Range),
    }
}

/// Frames as MiB with one decimal, or as KiB if they are few, for a person; never shown smaller than it is.
pub fn mib(pages: u64) -> alloc::string::String {
    if pages < (1 << 20) / PAGE_SIZE {
        return alloc::format!("{} KiB", pages * (PAGE_SIZE >> 10));
    }
    let tenths = (u128::from(pages) * u128::from(PAGE_SIZE) * 10).div_ceil(1 << 20);
    alloc::format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, expected) in [
            ("36", 36 * 256),
            ("4.5", 1152),
            ("64K", 16),
            ("1", 256),
            ("36M", 36 * 256),
            ("36 MiB", 36 * 256),
            ("1.5G", 384 * 1024),
            ("0.000001", 1),
            ("4097b", 2),
            ("16T", PAGES_MAX),
        ] {
            assert_eq!(pages(text), Ok(expected), "{text}");
        }
        for text in ["", ".", "M", "1.2.3", "-1", "1e3", "4 Q", "0x10", "ⅷ"] {
            assert_eq!(pages(text), Err(SizeError::Syntax), "{text}");
        }
        for text in ["0", "0.0", "17T", "99999999999999999999999999999999999999999"] {
            assert_eq!(pages(text), Err(SizeError::Range), "{text}");
        }
        assert_eq!(mib(1331), "5.2 MiB");
        assert_eq!(mib(255), "1020 KiB");
        assert_eq!(mib(256), "1.0 MiB");
    }

    proptest! {
        #[test]
        fn whole_kibibytes_are_exact(kib in 1_u64..1 << 30) {
            prop_assert_eq!(pages(&std::format!("{kib}K")), Ok(kib.div_ceil(4)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = pages(&text);
        }
    }
}
