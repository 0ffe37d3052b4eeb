//! Rules for every source file that no lint of the compiler covers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};

use crate::workspace;

/// Lines a file may have.
const LONGEST: usize = 800;
/// The only places where `unsafe` may stand: the shell of the core, and the run time that every domain links.
const UNSAFE_ALLOWED: [&str; 2] = ["microkernel/src/machine/", "unikernel/src/"];

/// Every file that breaks a rule.
pub fn problems() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for folder in super::folders()? {
        for file in workspace::files(&folder, &["rs"])? {
            let name = file.strip_prefix(workspace::root()).unwrap_or(&file);
            if name.components().any(|part| part.as_os_str() == "target") {
                continue;
            }
            let source = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            problems.extend(problems_of(name, &source));
        }
    }
    Ok(problems)
}

fn problems_of(file: &Path, source: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(format!("{}: {text}", file.display()));
    if !source.starts_with("//! ") {
        problem("does not begin with `//!`: say what the file is for".into());
    }
    let length = source.lines().count();
    if length > LONGEST {
        problem(format!("has {length} lines; {LONGEST} is the limit"));
    }
    let allowed = UNSAFE_ALLOWED.iter().any(|folder| file.starts_with(folder));
    match source.parse::<TokenStream>() {
        Ok(tokens) if !allowed => {
            if let Some(line) = unsafe_line(tokens) {
                problem(format!("line {line} says `unsafe`, which only {} may", UNSAFE_ALLOWED.join(" and ")));
            }
        }
        Ok(_) => {}
        Err(error) => problem(format!("cannot be read as Rust: {error}")),
    }
    problems
}

/// The first line with the word `unsafe` in code.
fn unsafe_line(tokens: TokenStream) -> Option<usize> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) if word == "unsafe" => Some(word.span().start().line),
        TokenTree::Group(group) => unsafe_line(group.stream()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_bites() {
        let problems = |name: &str, source: &str| problems_of(Path::new(name), source).len();
        assert_eq!(problems("dom0/src/lib.rs", "//! Doc.\nfn f() {}\n"), 0);
        assert_eq!(problems("dom0/src/lib.rs", "fn f() {}\n"), 1);
        assert_eq!(problems("dom0/src/lib.rs", "//! Doc.\nfn f() { unsafe { g() } }\n"), 1);
        assert_eq!(problems("microkernel/src/machine/a.rs", "//! Doc.\nfn f() { unsafe { g() } }\n"), 0);
        assert_eq!(problems("microkernel/src/a.rs", "//! Doc.\n#[unsafe(no_mangle)]\nfn f() {}\n"), 1);
        assert_eq!(problems("dom0/src/lib.rs", "//! The word unsafe.\n// unsafe\nconst A: &str = \"unsafe\";\n"), 0);
        assert_eq!(problems("a.rs", &format!("//! Doc.\n{}", "fn f() {}\n".repeat(LONGEST))), 1);
    }
}
