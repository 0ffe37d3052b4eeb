//! The core's own panic report: noticed in its output, and its addresses turned into names and lines.

use std::path::Path;

/// How the first line of a report begins.
const MARK: &str = "CORE PANIC";
/// First address of the core (code model "kernel": the upper 2 GiB).
const CORE_BASE: u64 = 0xffff_ffff_8000_0000;

/// Whether the core has reported a panic.
pub fn has_panicked(output: &[u8]) -> bool {
    output.windows(MARK.len()).any(|window| window == MARK.as_bytes())
}

/// The report in `output`, with the place in the source after each address that lies in the core.
pub fn report(output: &str, core: &Path) -> String {
    let from = output.find(MARK).map_or(0, |mark| output[..mark].rfind('\n').map_or(0, |newline| newline + 1));
    let loader = addr2line::Loader::new(core).ok();
    let mut report = String::new();
    for line in output[from..].lines() {
        report.push_str(line);
        if let Some(loader) = &loader {
            for address in addresses(line) {
                // A return address points behind its call.
                if let Some(place) = place(loader, address.saturating_sub(1)) {
                    report.push_str(&format!("\n        {address:#x} is in {place}"));
                }
            }
        }
        report.push('\n');
    }
    report
}

fn addresses(line: &str) -> impl Iterator<Item = u64> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric());
    let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok();
    words.filter(|word| word.len() >= 16).filter_map(number).filter(|&address| address >= CORE_BASE)
}

fn place(loader: &addr2line::Loader, address: u64) -> Option<String> {
    let symbol = loader.find_symbol(address).map(|name| format!("{:#}", rustc_demangle::demangle(name)));
    let location = loader.find_location(address).ok().flatten();
    let source = location.and_then(|location| Some(format!("{}:{}", location.file?, location.line?)));
    match (symbol, source) {
        (None, None) => None,
        (symbol, None) => symbol,
        (symbol, Some(source)) => Some(format!("{} ({source})", symbol.unwrap_or_else(|| "?".into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_core_are_found_in_any_dress() {
        let line = "  2: 0xffffffff80201234 ffffffff80205678, cr2=0x0000000000001000 0xffff";
        assert_eq!(addresses(line).collect::<Vec<_>>(), [0xffff_ffff_8020_1234, 0xffff_ffff_8020_5678]);
    }

    #[test]
    fn the_report_starts_at_its_mark() {
        let output = format!("boot\nhello\n[0.1] {MARK} on CPU 1: why\nrip=0\n");
        assert!(has_panicked(output.as_bytes()));
        assert!(!has_panicked(b"all is well"));
        let report = report(&output, Path::new("/nonexistent"));
        assert!(report.starts_with("[0.1]") && report.ends_with("rip=0\n"));
    }
}
