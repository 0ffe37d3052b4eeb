//! Lists of CPUs and affinities, in the syntax of xl: `0-3,^1`, `all`.

use alloc::format;
use alloc::string::String;

use protocol::system::MAX_CPUS;

/// CPUs a bit each; 0 is any.
pub type Mask = u64;

/// Parses a list of CPUs.
pub fn mask(text: &str) -> Result<Mask, String> {
    let mut set = 0;
    for part in text.split(',').map(str::trim) {
        let (part, remove) = match part.strip_prefix('^') {
            Some(rest) => (rest, true),
            None => (part, false),
        };
        let bits = match part {
            "all" => Mask::MAX,
            _ => range(part)?,
        };
        if remove { set &= !bits } else { set |= bits }
    }
    match set {
        0 => Err(format!("`{}` leaves no CPU to run on", super::reader::shown(text))),
        Mask::MAX => Ok(0),
        _ => Ok(set),
    }
}

fn range(text: &str) -> Result<Mask, String> {
    let number = |text: &str| {
        let cpu = text.parse::<u32>().ok().filter(|&cpu| (cpu as usize) < MAX_CPUS);
        cpu.ok_or_else(|| format!("`{}` is no CPU from 0 to {}", super::reader::shown(text), MAX_CPUS - 1))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(format!("{first}-{last} runs backwards"));
    }
    Ok((Mask::MAX >> (63 - (last - first))) << first)
}

/// A mask in the syntax it was written in, as ranges.
pub fn text(mask: Mask) -> String {
    if mask == 0 || mask == Mask::MAX {
        return "all".into();
    }
    let mut out = String::new();
    let mut cpu = 0;
    while cpu < 64 {
        if mask >> cpu & 1 == 0 {
            cpu += 1;
            continue;
        }
        let run = (mask >> cpu).trailing_ones();
        let separator = if out.is_empty() { "" } else { "," };
        out += &match run {
            1 => format!("{separator}{cpu}"),
            _ => format!("{separator}{cpu}-{}", cpu + run - 1),
        };
        cpu += run;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_as_in_the_manual_of_xl() {
        assert_eq!(mask("all"), Ok(0));
        assert_eq!(mask("0-3,^1"), Ok(0b1101));
        assert_eq!(mask("2,3"), Ok(0b1100));
        assert_eq!(mask("0-63"), Ok(0));
        assert_eq!(mask("all,^0"), Ok(Mask::MAX - 1));
        assert_eq!(mask("63"), Ok(1 << 63));
        for bad in ["", "1-0", "64", "0-", "-1", "^0", "x", "0,,1", "nodes:0", "99999999999999999999"] {
            assert!(mask(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_mask_survives_its_text(bits in 1_u64..u64::MAX) {
            prop_assert_eq!(mask(&text(bits)), Ok(bits));
        }
    }
}
