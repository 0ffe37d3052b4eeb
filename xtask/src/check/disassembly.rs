//! The machine code of the core, decoded and searched for what its rules for the processor's state do not cover.
//!
//! The core saves the SSE registers when it is entered and nothing else, and interrupts use the stack it runs on. So an
//! instruction that touches the upper halves of the vector registers (VEX, EVEX), the x87 or MMX registers would corrupt a
//! domain's state unseen, and data below the stack pointer would be overwritten.

use std::fs;

use anyhow::{Context, Result};
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, EncodingKind, Formatter, Instruction, IntelFormatter, Mnemonic, Register,
};
use object::{Object, ObjectSection, SectionKind};

use crate::{build, process, workspace};

/// Code that runs in 32-bit mode, before any Rust: not decoded here.
const BOOT_SECTION: &str = ".boot";

/// Instructions that a function may use all the same: the function, the mnemonic, and why.
const ALLOWED: [(&str, Mnemonic, &str); 1] =
    [("leave_by_call", Mnemonic::Vzeroall, "a hypercall leaves nothing of the core in the vector registers")];

/// Builds the core and gives every instruction that breaks a rule.
pub fn problems() -> Result<Vec<String>> {
    process::run(build::core_cargo("build").arg("--quiet"))?;
    let path = workspace::core_elf();
    let elf = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = decode(&elf)?;
    println!("{} instructions of the core decoded", found.count);
    Ok(found.problems)
}

struct Found {
    count: usize,
    problems: Vec<String>,
}

fn decode(elf: &[u8]) -> Result<Found> {
    let file = object::File::parse(elf).context("the core is no ELF file")?;
    let symbols = file.symbol_map();
    let mut found = Found { count: 0, problems: Vec::new() };
    for section in file.sections() {
        if section.kind() != SectionKind::Text || section.name().is_ok_and(|name| name.starts_with(BOOT_SECTION)) {
            continue;
        }
        for instruction in &mut Decoder::with_ip(64, section.data()?, section.address(), DecoderOptions::NONE) {
            found.count += 1;
            let Some(objection) = objection(&instruction) else { continue };
            let symbol = symbols.before(instruction.ip()).map_or("?", |symbol| symbol.name());
            let function = format!("{:#}", rustc_demangle::demangle(symbol));
            if !ALLOWED.iter().any(|(name, mnemonic, _)| *name == function && *mnemonic == instruction.mnemonic()) {
                let text = show(&instruction);
                found.problems.push(format!("{:#x} in {function}: `{text}` {objection}", instruction.ip()));
            }
        }
    }
    Ok(found)
}

fn show(instruction: &Instruction) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(instruction, &mut text);
    text
}

/// What is wrong with an instruction.
fn objection(instruction: &Instruction) -> Option<&'static str> {
    if instruction.is_invalid() {
        return Some("is no instruction");
    }
    if instruction.encoding() != EncodingKind::Legacy {
        return Some("touches the upper halves of vector registers");
    }
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    if instruction.cpuid_features().iter().any(|feature| x87.contains(feature)) || uses(instruction, Register::is_st) {
        return Some("touches the x87 state");
    }
    if instruction.cpuid_features().contains(&CpuidFeature::MMX) || uses(instruction, Register::is_mm) {
        return Some("touches the MMX state");
    }
    let below_stack = instruction.memory_base() == Register::RSP && (instruction.memory_displacement64() as i64) < 0;
    let address_only = matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop);
    (below_stack && !address_only).then_some("uses memory below the stack pointer")
}

fn uses(instruction: &Instruction, class: impl Fn(Register) -> bool) -> bool {
    (0..instruction.op_count()).any(|operand| class(instruction.op_register(operand)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Option<&'static str> {
        objection(&Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode())
    }

    #[test]
    fn ordinary_and_sse_code_is_fine() {
        for bytes in [
            &b"\x48\x89\xd8"[..],    // mov rax, rbx
            b"\x0f\x10\x04\x24",     // movups xmm0, [rsp]
            b"\x0f\xae\x21",         // xsave [rcx]
            b"\x0f\xae\x14\x24",     // ldmxcsr [rsp]
            b"\x48\x8d\x64\x24\xf8", // lea rsp, [rsp-8]
            b"\x48\x89\x44\x24\x08", // mov [rsp+8], rax
            b"\x41\x57",             // push r15
            b"\x0f\x1f\x44\x00\x00", // nop [rax+rax]
        ] {
            assert_eq!(first(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn every_rule_bites() {
        for (bytes, part) in [
            (&b"\xc5\xf8\x10\x00"[..], "upper"), // vmovups xmm0, [rax]
            (b"\xd9\xe8", "x87"),                // fld1
            (b"\xdb\xe3", "x87"),                // fninit
            (b"\x0f\x6f\x00", "MMX"),            // movq mm0, [rax]
            (b"\x0f\x77", "MMX"),                // emms
            (b"\x0f\x2a\xc0", "MMX"),            // cvtpi2ps xmm0, mm0
            (b"\x48\x89\x44\x24\xf8", "below"),  // mov [rsp-8], rax
            (b"\x06", "no instruction"),
        ] {
            assert!(first(bytes).is_some_and(|objection| objection.contains(part)), "{bytes:x?}: {:?}", first(bytes));
        }
    }
}
