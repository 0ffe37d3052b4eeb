//! Links in the documents: the file is there, and the heading too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

use crate::workspace;

/// Every link that leads nowhere.
pub fn problems() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in documents()? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for link in links(&text) {
            if let Err(why) = follow(&file, &link) {
                let name = file.strip_prefix(workspace::root()).unwrap_or(&file);
                problems.push(format!("{}: the link to {link} {why}", name.display()));
            }
        }
    }
    Ok(problems)
}

fn documents() -> Result<Vec<PathBuf>> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(workspace::root())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(path);
        }
    }
    for folder in super::folders()? {
        documents.extend(workspace::files(&folder, &["md"])?);
    }
    Ok(documents)
}

fn follow(from: &Path, link: &str) -> Result<(), &'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { from.to_path_buf() } else { from.with_file_name("").join(path) };
    if !target.exists() {
        return Err("leads to no file");
    }
    if anchor.is_empty() || target.extension().is_none_or(|extension| extension != "md") {
        return Ok(());
    }
    let text = fs::read_to_string(&target).map_err(|_| "cannot be read")?;
    if anchors(&text).contains(anchor) { Ok(()) } else { Err("leads to no heading") }
}

fn links(text: &str) -> Vec<String> {
    let destination = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.to_string()),
        _ => None,
    };
    Parser::new(text).filter_map(destination).collect()
}

/// The anchors of the headings, as the usual code hosts make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&heading.take().unwrap_or_default());
                let numbered = (1..).map(|number| format!("{slug}-{number}"));
                let free = std::iter::once(slug.clone()).chain(numbered).find(|name| !anchors.contains(name));
                anchors.extend(free);
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            _ => {}
        }
    }
    anchors
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_made_like_the_code_hosts_make_them() {
        let anchors = anchors("# The core, `now`\n\n## A\n\n## A\n\n```\n# not a heading\n```\n");
        assert_eq!(anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "a-1", "the-core-now"]);
    }

    #[test]
    fn links_inside_code_are_no_links() {
        assert_eq!(links("[a](b.md#c) `[x](y)` ![p](q.png)\n\n    [z](z)\n"), ["b.md#c", "q.png"]);
    }

    #[test]
    fn a_link_must_lead_somewhere() {
        let from = workspace::root().join("xtask/nothing.md");
        assert!(follow(&from, "Cargo.toml").is_ok());
        assert!(follow(&from, "https://example.org/#x").is_ok());
        assert!(follow(&from, "../no-such-file").is_err());
    }
}
