//! Disk images, made without tools of the system: a partition table, file systems, and what lies in them.
//!
//! The same recipe gives the same bytes: names, times and identifiers are fixed. The identifier of a disk is the fingerprint of its
//! recipe, so an image that is there says by itself whether it is up to date.

pub mod content;
pub mod fat;
pub mod gpt;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::disk::content::Page;
use crate::disk::gpt::{Kind, Partition};
use crate::{process, workspace};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// One MiB.
pub const MIB: u64 = 1 << 20;
/// Partition with the pages of the guest `web`.
pub const WEB: &str = "web";
/// Partition that load tests may overwrite.
pub const SCRATCH: &str = "scratch";
/// Another one, for tests that need two.
pub const SCRATCH2: &str = "scratch2";

/// Size of the file system with the pages: their largest file, and some room.
const WEB_SIZE: u64 = 96 * MIB;
/// Cluster of that file system: large, so that a file is read in few pieces.
const WEB_CLUSTER: u32 = 16 * 1024;
/// Size of the scratch partition: larger than any cache on the way, small enough to be read through in a test.
const SCRATCH_SIZE: u64 = 128 * MIB;
/// Size of the second one.
const SCRATCH2_SIZE: u64 = 16 * MIB;
/// To be raised whenever the same inputs give another image.
const RECIPE: u8 = 1;
/// Zeros of this length and alignment are left out of an image file.
const HOLE: usize = 64 * 1024;

/// Identifies what a disk was made of.
pub type Fingerprint = [u8; 16];

/// The data partitions of every medium; `pages` only if they are needed, since making them takes a second.
pub fn data_partitions(pages: Option<&[Page]>) -> Result<Vec<Partition>> {
    let web = match pages {
        Some(pages) => fat::file_system(WEB_SIZE, WEB_CLUSTER, "BULKHEAD", pages)?,
        None => Vec::new(),
    };
    Ok(vec![
        Partition { name: WEB, kind: Kind::Data, size: WEB_SIZE, contents: web },
        Partition { name: SCRATCH, kind: Kind::Linux, size: SCRATCH_SIZE, contents: Vec::new() },
        Partition { name: SCRATCH2, kind: Kind::Linux, size: SCRATCH2_SIZE, contents: Vec::new() },
    ])
}

/// Makes the machine's disk, unless it is there and up to date.
pub fn make_standard() -> Result<()> {
    let path = workspace::disk();
    let sources = content::sources()?;
    let print = fingerprint(&data_partitions(None)?, sources.iter().map(|page| (page.name.as_str(), &page.bytes[..])));
    if gpt::fingerprint(&path).is_some_and(|found| found == print) {
        return Ok(());
    }
    process::step(format_args!("making {}", workspace::short(&path)));
    let pages = content::complete(sources);
    write(&path, &gpt::disk(print, &data_partitions(Some(&pages))?, None)?)
}

/// Fingerprint of a medium with these partitions, made of these named inputs.
pub fn fingerprint<'i>(partitions: &[Partition], inputs: impl IntoIterator<Item = (&'i str, &'i [u8])>) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update([RECIPE]);
    for partition in partitions {
        hash.update(format!("{}:{:?}:{};", partition.name, partition.kind, partition.size));
    }
    for (name, bytes) in inputs {
        hash.update(format!("{name}:{};", bytes.len()));
        hash.update(bytes);
    }
    let mut print = Fingerprint::default();
    print.copy_from_slice(&hash.finalize()[..16]);
    print
}

/// Contents of a medium: pieces at their offsets, and the size of the whole. The rest is zeros.
pub struct Contents {
    /// Offset and bytes; in the order of their offsets.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Size in bytes.
    pub size: u64,
}

/// Writes a medium into a file with holes for zeros.
pub fn write(path: &Path, contents: &Contents) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Renamed into place, from a name of this process's own: a machine that has the former image keeps it, and several may
    // be made at once.
    let temporary = path.with_extension(format!("part.{}", std::process::id()));
    let written = write_sparse(&temporary, contents).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_sparse(path: &Path, contents: &Contents) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.set_len(contents.size)?;
    for (offset, bytes) in &contents.pieces {
        for (block, at) in bytes.chunks(HOLE).zip((*offset..).step_by(HOLE)) {
            if block.iter().any(|&byte| byte != 0) {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(block)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_depends_on_everything() {
        let partitions = data_partitions(None).unwrap();
        let print = fingerprint(&partitions, [("a", &b"bc"[..])]);
        assert_eq!(print, fingerprint(&partitions, [("a", &b"bc"[..])]));
        assert_ne!(print, fingerprint(&partitions, [("ab", &b"c"[..])]));
        assert_ne!(print, fingerprint(&partitions[1..], [("a", &b"bc"[..])]));
    }

    #[test]
    fn an_image_has_holes_where_nothing_is() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("bulkhead-disk-{}.img", std::process::id()));
        let contents = Contents { pieces: vec![(8 * MIB, vec![7; 5]), (9 * MIB, vec![0; HOLE])], size: 16 * MIB };
        write(&path, &contents).unwrap();
        let (bytes, stored) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().blocks() * SECTOR);
        fs::remove_file(&path).unwrap();
        assert_eq!(bytes.len() as u64, 16 * MIB);
        assert_eq!((bytes[8 * MIB as usize], bytes[8 * MIB as usize + 5]), (7, 0));
        assert!(stored < MIB, "{stored}");
    }
}
