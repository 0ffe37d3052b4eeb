//! docs/hypercalls.md, made from the declarations.

use std::fmt::Write;
use std::fs;

use anyhow::Result;
use protocol::declaration::{DECLARATIONS, Declaration, Kind};
use protocol::error::Error;

use crate::workspace;

const FILE: &str = "docs/hypercalls.md";

const INTRODUCTION: &str = "# Hypercalls

Made from `protocol/src/hypercall.rs` by `cargo xtask check --fix`; change the declarations, not this file.

Calling convention (`syscall`): number in RAX; arguments in RDI, RSI, RDX, R10, R8; result in RAX: a value below 2^63, or an
error as its negated number. RBX, RBP, RSP, R12 to R15, the x87 control word and MXCSR survive; every other register is zero
afterwards, except RCX and R11, which hold RIP and RFLAGS. A refused call changes nothing. A number that is not in this list
gives `NoSuchCall`.
";

/// Whether the file says what the declarations say; with `fix` it is made so.
pub fn problems(fix: bool) -> Result<Vec<String>> {
    let path = workspace::root().join(FILE);
    let wanted = document();
    if fs::read_to_string(&path).is_ok_and(|found| found == wanted) {
        return Ok(Vec::new());
    }
    if fix {
        fs::write(&path, wanted)?;
        println!("{FILE} rewritten");
        return Ok(Vec::new());
    }
    Ok(vec![format!("{FILE} differs from the declarations; run `cargo xtask check --fix`")])
}

fn document() -> String {
    let mut out = INTRODUCTION.to_string();
    for declaration in DECLARATIONS {
        section(&mut out, declaration);
    }
    out += "\n## Errors\n\n| name | number | meaning |\n|---|---|---|\n";
    for &error in Error::ALL {
        let _ = writeln!(out, "| `{error:?}` | {} | {} |", error as i32, plain(error.text()));
    }
    out
}

fn section(out: &mut String, declaration: &Declaration) {
    let argument = |(name, kind, right): &(&str, Kind, &str)| match *right {
        "" => format!("{name}: {kind:?}"),
        right => format!("{name}: {kind:?}({right})"),
    };
    let arguments: Vec<_> = declaration.arguments.iter().map(argument).collect();
    let _ = writeln!(out, "\n## {} {}\n", declaration.number, declaration.name);
    let _ = writeln!(out, "`{}({})`\n\n{}", declaration.name, arguments.join(", "), plain(declaration.text));
    let mut errors: Vec<Error> = declaration.arguments.iter().flat_map(|(_, kind, _)| kind.errors()).copied().collect();
    errors.extend(declaration.errors);
    let mut names: Vec<_> = errors.iter().map(|error| format!("`{error:?}`")).collect();
    names.sort();
    names.dedup();
    if !names.is_empty() {
        let _ = writeln!(out, "\nErrors: {}.", names.join(", "));
    }
}

/// Documentation text without the marks that only rustdoc reads.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`").replace("crate::", "");
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declaration_and_error_has_its_place() {
        let document = document();
        for declaration in DECLARATIONS {
            assert!(document.contains(&format!("## {} {}\n", declaration.number, declaration.name)));
        }
        assert!(document.contains("| `NoSuchCall` | 38 |"));
        assert!(!document.contains("[`"));
    }
}
