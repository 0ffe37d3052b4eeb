//! The verb `sizes`: how large the core is, by the same count on every machine.
//!
//! Counted are the lines of the core and of the protocol modules that it uses; its third-party crates stand beside. What is
//! there for virtual machines only has a budget apart, because a machine without guests does not need it.

pub mod count;
mod crates;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::workspace;
use count::Count;

/// Lines at which the core without virtual machines is too large, and `cargo xtask check` fails.
const BUDGET_WITHOUT_MACHINES: usize = 5_500;
/// Lines at which the whole is.
const BUDGET: usize = 8_000;
/// How a folder or a file is called that is there for virtual machines only.
const MACHINES: &str = "vm";

/// Count the lines of the core against its budget
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show what changed since FILE, which an earlier `sizes --json` wrote
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// Sizes of everything counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Lines by file, relative to the top of the workspace.
    pub files: BTreeMap<String, usize>,
    /// Those that are not there for virtual machines only.
    #[serde(default)]
    pub without_machines: Part,
    /// All of them.
    #[serde(default)]
    pub whole: Part,
    /// Lines of each third-party crate that is linked into the core, by `name version`.
    pub third_party: BTreeMap<String, usize>,
}

/// A part of the core against its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Lines.
    pub lines: usize,
    /// Lines at which it is too large.
    pub budget: usize,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Part { lines, budget } = *self;
        let side = if self.over() { "OVER" } else { "under" };
        write!(f, "{lines}, {} {side} the budget of {budget}", lines.abs_diff(budget))
    }
}

impl Part {
    fn over(self) -> bool {
        self.lines >= self.budget
    }
}

/// Prints the sizes. The status is 1 if the core has reached a budget.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let sizes = measure()?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&sizes)?);
    } else {
        print!("{}", table(&sizes));
    }
    if let Some(file) = &arguments.compare {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let before: Sizes = serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
        print!("{}", comparison(&before, &sizes));
    }
    Ok(u8::from(!sizes.problems().is_empty()))
}

impl Sizes {
    /// Both parts with their names.
    pub fn parts(&self) -> [(&'static str, Part); 2] {
        [("core without virtual machines", self.without_machines), ("whole core", self.whole)]
    }

    /// The budgets that are reached, in words.
    pub fn problems(&self) -> Vec<String> {
        let over = self.parts().into_iter().filter(|(_, part)| part.over());
        over.map(|(name, part)| format!("{name}: {part}; see `cargo xtask sizes`")).collect()
    }
}

/// Counts everything.
pub fn measure() -> Result<Sizes> {
    let root = workspace::root();
    let mut files = BTreeMap::new();
    let mut protocol = BTreeSet::new();
    for (file, count) in folder(&root.join("microkernel/src"), &["protocol"])? {
        protocol.extend(count.mentions);
        files.insert(relative(&root, &file), count.lines);
    }
    let modules = folder(&root.join("protocol/src"), &["crate"])?;
    for (file, lines) in used(&root.join("protocol/src"), &modules, protocol) {
        files.insert(relative(&root, &file), lines);
    }
    let third_party = crates::third_party()?;
    let common = files.iter().filter(|(file, _)| !is_for_machines(file)).map(|(_, lines)| lines);
    let without_machines = Part { lines: common.sum(), budget: BUDGET_WITHOUT_MACHINES };
    let whole = Part { lines: files.values().sum(), budget: BUDGET };
    Ok(Sizes { files, without_machines, whole, third_party })
}

/// Whether a file is there for virtual machines only.
fn is_for_machines(file: &str) -> bool {
    Path::new(file).with_extension("").iter().any(|part| part == MACHINES)
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}

/// Counts of all files of a crate that exist outside tests.
fn folder(path: &Path, roots: &[&str]) -> Result<BTreeMap<PathBuf, Count>> {
    let mut counts = BTreeMap::new();
    let mut test_files = BTreeSet::new();
    for file in workspace::files(path, &["rs", "s", "S"])? {
        let source = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let count = if file.extension().is_some_and(|extension| extension == "rs") {
            count::rust(&source, roots).with_context(|| format!("{}", file.display()))?
        } else {
            Count { lines: count::assembly(&source), ..Count::default() }
        };
        for module in &count.test_modules {
            test_files.extend(module_files(&file, module));
        }
        counts.insert(file, count);
    }
    counts.retain(|file, _| !test_files.iter().any(|test: &PathBuf| file == test || file.starts_with(test)));
    Ok(counts)
}

/// Where the module `name`, declared in `file`, may lie: a file, or a folder.
fn module_files(file: &Path, name: &str) -> [PathBuf; 2] {
    let stem = file.file_stem().unwrap_or_default();
    let folder = match stem.to_str() {
        Some("lib" | "main" | "mod") => file.with_file_name(""),
        _ => file.with_extension(""),
    };
    [folder.join(name).with_extension("rs"), folder.join(name)]
}

/// The files of the modules named, of those they name in turn, and of the crate's top.
fn used(source: &Path, files: &BTreeMap<PathBuf, Count>, mut wanted: BTreeSet<String>) -> BTreeMap<PathBuf, usize> {
    let mut used = BTreeMap::new();
    wanted.insert("lib".into());
    loop {
        let before = used.len();
        for (file, count) in files {
            let Ok(inside) = file.strip_prefix(source) else { continue };
            let module = inside.iter().next().map(|first| Path::new(first).with_extension(""));
            let named = module.is_some_and(|module| wanted.contains(&*module.to_string_lossy()));
            if named && used.insert(file.clone(), count.lines).is_none() {
                wanted.extend(count.mentions.iter().cloned());
            }
        }
        if used.len() == before {
            return used;
        }
    }
}

fn table(sizes: &Sizes) -> String {
    let mut out = String::from("lines of the core (no blank lines, comments, tests)\n\n");
    for (file, lines) in &sizes.files {
        out += &format!("{lines:>7}  {file}\n");
    }
    out += "\n";
    for (name, part) in sizes.parts() {
        out += &format!("{name}: {part}\n");
    }
    out += "\nthird-party crates linked into it, counted likewise\n\n";
    for (name, lines) in &sizes.third_party {
        out += &format!("{lines:>7}  {name}\n");
    }
    out
}

fn comparison(before: &Sizes, now: &Sizes) -> String {
    let mut out = String::from("\nchanges\n\n");
    let names: BTreeSet<_> = before.files.keys().chain(now.files.keys()).collect();
    for name in names {
        let lines = |sizes: &Sizes| sizes.files.get(name).copied().unwrap_or(0) as i64;
        let change = lines(now) - lines(before);
        if change != 0 {
            out += &format!("{change:>+7}  {name}\n");
        }
    }
    out + &format!("{:>+7}  total\n", now.whole.lines as i64 - before.whole.lines as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_used_modules_and_what_they_use_count() {
        let count = |lines, mentions: &[&str]| Count {
            lines,
            mentions: mentions.iter().map(|mention| mention.to_string()).collect(),
            ..Count::default()
        };
        let files = BTreeMap::from([
            (PathBuf::from("src/lib.rs"), count(1, &[])),
            (PathBuf::from("src/grant.rs"), count(10, &["error"])),
            (PathBuf::from("src/error.rs"), count(100, &[])),
            (PathBuf::from("src/ring/mod.rs"), count(1000, &[])),
            (PathBuf::from("src/ring/byte.rs"), count(1000, &[])),
        ]);
        let sum = |wanted: &[&str]| {
            let wanted = wanted.iter().map(|name| name.to_string()).collect();
            used(Path::new("src"), &files, wanted).values().sum::<usize>()
        };
        assert_eq!(sum(&["grant"]), 111);
        assert_eq!(sum(&["ring"]), 2001);
    }

    #[test]
    fn a_comparison_names_what_changed() {
        let sizes = |a, b| Sizes {
            files: BTreeMap::from([("a.rs".into(), a), ("b.rs".into(), b)]),
            whole: Part { lines: a + b, budget: 0 },
            ..Sizes::default()
        };
        let text = comparison(&sizes(1, 2), &sizes(4, 2));
        assert!(text.contains("+3  a.rs") && text.contains("+3  total") && !text.contains("b.rs"), "{text}");
    }

    #[test]
    fn what_is_for_virtual_machines_is_called_so() {
        for file in ["microkernel/src/vm/mod.rs", "microkernel/src/machine/vm/svm.s", "protocol/src/vm.rs"] {
            assert!(is_for_machines(file), "{file}");
        }
        assert!(!is_for_machines("microkernel/src/machine/entry.s") && !is_for_machines("protocol/src/vmx.rs"));
    }

    #[test]
    fn each_budget_counts_by_itself() {
        let (small, large) = (Part { lines: 1, budget: 2 }, Part { lines: 2, budget: 2 });
        let problems = |without_machines, whole| Sizes { without_machines, whole, ..Sizes::default() }.problems();
        assert!(problems(small, small).is_empty());
        assert!(problems(large, small)[0].contains("without virtual machines: 2, 0 OVER the budget of 2"));
        assert!(problems(small, large)[0].contains("whole core: 2"));
    }

    #[test]
    fn test_modules_lie_beside_or_below() {
        assert_eq!(module_files(Path::new("src/lib.rs"), "m")[0], Path::new("src/m.rs"));
        assert_eq!(module_files(Path::new("src/a.rs"), "m")[1], Path::new("src/a/m"));
    }
}
