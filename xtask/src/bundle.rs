//! The boot bundle: one ustar archive with the first domain, all images and the configurations.
//!
//! The same bytes for the same inputs: times, owners and order are fixed, so a rebuild that changed nothing changes nothing.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Package};

/// An entry: its name in the archive, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Contents.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// An entry with these contents.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Entry {
        Entry { name: name.into(), bytes: bytes.into() }
    }

    /// An entry with the contents of a file.
    pub fn file(name: impl Into<String>, path: &Path) -> Result<Entry> {
        let bytes = fs::read(path).with_context(|| format!("{} (run `cargo xtask build`)", path.display()))?;
        Ok(Entry::new(name, bytes))
    }
}

/// The entries of a bundle whose first domain is the program `first`: it, every image and every configuration in images/.
pub fn standard(packages: &[Package], first: &str) -> Result<Vec<Entry>> {
    let mut entries = vec![Entry::file(workspace::FIRST_DOMAIN, &workspace::domain_elf(first))?];
    for package in workspace::image_packages(packages) {
        for bin in package.bins() {
            entries.push(Entry::file(format!("images/{bin}"), &workspace::domain_elf(bin))?);
        }
    }
    for folder in ["auto", "config"] {
        entries.extend(configurations(folder)?);
    }
    Ok(entries)
}

fn configurations(folder: &str) -> Result<Vec<Entry>> {
    let path = workspace::root().join("images").join(folder);
    let Ok(listing) = fs::read_dir(&path) else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().map(|file| Entry::file(format!("{folder}/{}", file_name(file)), file)).collect()
}

/// The last part of a path as text.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Writes the archive. A later entry of the same name replaces the earlier one.
pub fn write(path: &Path, entries: &[Entry]) -> Result<()> {
    let bytes = archive(entries)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Renamed into place, from a name of this process's own: a machine that boots from the former bundle keeps reading it,
    // and several may be built at once.
    let temporary = path.with_extension(format!("tar.{}", std::process::id()));
    fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        if entries[index + 1..].iter().any(|later| later.name == entry.name) {
            continue;
        }
        if entry.name.len() > 100 {
            bail!("the name {} does not fit in the archive", entry.name);
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(0o444);
        header.set_mtime(0);
        builder.append_data(&mut header, &entry.name, entry.bytes.as_slice())?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_archive_holds_each_name_once_and_the_last_one_wins() {
        let entries =
            [Entry::new("dom0", *b"one"), Entry::new("auto/a.toml", *b"x"), Entry::new("dom0", vec![7; 1000])];
        let bytes = archive(&entries).unwrap();
        assert_eq!(bytes, archive(&entries).unwrap());
        let mut read = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            found.push(Entry::new(entry.path().unwrap().to_string_lossy(), contents));
        }
        assert_eq!(found, [entries[1].clone(), entries[2].clone()]);
    }
}
