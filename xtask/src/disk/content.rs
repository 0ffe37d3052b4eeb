//! What the guest `web` serves: the files of images/web, one large file, and the checksums of all of them.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::MIB;
use crate::workspace;

/// Name of the large file.
pub const BIG: &str = "big.bin";
/// Its size.
pub const BIG_SIZE: u64 = 64 * MIB;
/// Name of the file with the checksums.
pub const SUMS: &str = "SHA256SUMS";

/// A file to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its path below the root, with `/`.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Page {
    /// A file with these contents.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Page {
        Page { name: name.into(), bytes: bytes.into() }
    }
}

/// The files of images/web, sorted.
pub fn sources() -> Result<Vec<Page>> {
    let root = workspace::root().join("images").join("web");
    let page = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        Ok(Page { name, bytes })
    };
    workspace::all_files(&root)?.into_iter().map(page).collect()
}

/// Adds the large file and the checksums.
pub fn complete(mut pages: Vec<Page>) -> Vec<Page> {
    pages.push(Page::new(BIG, pseudo_random(BIG_SIZE)));
    let sums = pages.iter().fold(String::new(), |mut sums, page| {
        for byte in Sha256::digest(&page.bytes) {
            let _ = write!(sums, "{byte:02x}");
        }
        let _ = writeln!(sums, "  {}", page.name);
        sums
    });
    pages.push(Page::new(SUMS, sums));
    pages
}

/// Bytes that no two places share, so that a block in a wrong place is noticed: SplitMix64, which needs no more than a counter.
fn pseudo_random(length: u64) -> Vec<u8> {
    let word = |index: u64| {
        let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    (1..=length / 8).flat_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_those_of_the_files() {
        let pages = complete(vec![Page::new("empty", *b"")]);
        let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
        assert_eq!(names, ["empty", BIG, SUMS]);
        let sums = String::from_utf8(pages[2].bytes.clone()).unwrap();
        // The well-known digest of nothing.
        assert!(sums.starts_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty\n"));
        assert_eq!(sums.lines().count(), 2);
        assert_eq!(pages[1].bytes.len() as u64, BIG_SIZE);
    }

    #[test]
    fn the_random_bytes_are_those_of_the_published_generator() {
        // First output of SplitMix64 seeded with 0.
        assert_eq!(pseudo_random(8), 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }

    #[test]
    fn there_is_a_page_to_serve() {
        assert!(sources().unwrap().iter().any(|page| page.name == "index.html"));
    }
}
