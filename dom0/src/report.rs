//! The death of a domain, written so that a person can read it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::domain::{DeathReport, MESSAGE_MAX, Reason};

use crate::symbols::Symbols;

/// Names of the general registers, in the order of the report.
const REGISTERS: [&str; 16] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Exceptions by vector (Intel SDM volume 3, table 6-1).
const EXCEPTIONS: [&str; 20] = [
    "division error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "illegal instruction",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid task state",
    "segment not present",
    "stack segment fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD floating-point error",
];

/// Vector of the page fault, whose report has an address and an error code with a meaning.
const PAGE_FAULT: u64 = 14;

/// The reason of a death.
pub fn reason(death: &DeathReport) -> Reason {
    Reason::from_number(death.reason).unwrap_or(Reason::None)
}

/// One line that says why a domain is dead.
pub fn summary(death: &DeathReport) -> String {
    match reason(death) {
        Reason::None => "is not dead".to_string(),
        Reason::Shutdown => format!("shut down with code {}", death.code),
        Reason::Reboot => "asks to be rebooted".to_string(),
        Reason::Panic => format!("panicked on vCPU {}: {}", death.vcpu, message(death)),
        Reason::Killed => "was killed".to_string(),
        Reason::Fault => {
            let fault = fault(death);
            let article = if fault.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
            format!("died on vCPU {} of {article} {fault}", death.vcpu)
        }
    }
}

/// The whole report: why, where, registers, backtrace. Clean ends have only the first line.
pub fn lines(name: &str, death: &DeathReport, symbols: &Symbols<'_>) -> Vec<String> {
    let mut lines = alloc::vec![format!("{name} {}", summary(death))];
    if !matches!(reason(death), Reason::Fault | Reason::Panic) {
        return lines;
    }
    lines.push(format!("  at {}, rflags {:#x}", symbols.describe(death.rip), death.rflags));
    for (names, values) in REGISTERS.chunks(4).zip(death.registers.chunks(4)) {
        let row: Vec<String> =
            names.iter().zip(values).map(|(name, value)| format!("{name:>3} {value:016x}")).collect();
        lines.push(format!("  {}", row.join("  ")));
    }
    for address in death.backtrace.iter().take_while(|&&address| address != 0) {
        // A return address belongs to the call before it, which may be the last instruction of its function.
        let name = symbols.name(address.saturating_sub(1));
        let call = name.map_or_else(|| format!("{address:#x}"), |name| format!("{address:#x} {name}"));
        lines.push(format!("  called from {call}"));
    }
    lines
}

fn fault(death: &DeathReport) -> String {
    let name = EXCEPTIONS.get(death.vector as usize).copied().unwrap_or("unknown exception");
    if death.vector != PAGE_FAULT {
        return format!("{name} (vector {}, error code {:#x})", death.vector, death.error);
    }
    let bit = |bit: u32| death.error >> bit & 1 != 0;
    let access = match (bit(4), bit(1)) {
        (true, _) => "execution",
        (_, true) => "write",
        _ => "read",
    };
    let why = if bit(0) { "which is protected" } else { "where nothing is mapped" };
    format!("{name}: {access} at {:#x}, {why}{}", death.address, stack_hint(death.address))
}

/// Whether the address is where a stack runs out: below the stack, but in the area of a vCPU.
fn stack_hint(address: u64) -> &'static str {
    use protocol::layout::{GRANT_WINDOW, VCPU_AREAS};
    if (VCPU_AREAS..GRANT_WINDOW).contains(&address) { " (a stack overflow?)" } else { "" }
}

/// What the domain said, made safe to show.
fn message(death: &DeathReport) -> String {
    let length = (death.message_length as usize).min(MESSAGE_MAX);
    let text = String::from_utf8_lossy(death.message.get(..length).unwrap_or_default());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(reason: Reason) -> DeathReport {
        DeathReport { reason: reason as u32, ..DeathReport::default() }
    }

    #[test]
    fn a_page_fault_says_what_was_tried() {
        let mut death = report(Reason::Fault);
        death.vector = 14;
        death.error = 0b110;
        death.address = 0xdead_b000;
        death.rip = 0x40_1000;
        death.backtrace[0] = 0x40_2000;
        let lines = lines("fault", &death, &Symbols::default());
        assert_eq!(lines[0], "fault died on vCPU 0 of a page fault: write at 0xdeadb000, where nothing is mapped");
        assert_eq!(lines[1], "  at 0x401000, rflags 0x0");
        assert!(lines[2].starts_with("  rax 0000000000000000  rbx"));
        assert_eq!(lines[6], "  called from 0x402000");
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn nothing_a_domain_says_can_break_the_report() {
        let mut death = report(Reason::Panic);
        death.message_length = u64::MAX;
        death.message = [0x1b; MESSAGE_MAX];
        death.vector = u64::MAX;
        let line = summary(&death);
        assert!(!line.contains('\x1b'));
        death.reason = 77;
        assert_eq!(summary(&death), "is not dead");
        death.reason = Reason::Fault as u32;
        assert!(summary(&death).contains("unknown exception"));
        death.vector = 6;
        assert!(summary(&death).contains("of an illegal instruction"));
    }

    #[test]
    fn a_clean_end_is_one_line() {
        let mut death = report(Reason::Shutdown);
        death.code = 3;
        assert_eq!(lines("hello", &death, &Symbols::default()), ["hello shut down with code 3"]);
    }
}
