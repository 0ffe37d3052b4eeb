//! Files written by another implementation, found and read through sectors that are missing at first.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Cursor, Write};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};

use super::*;

/// A disk of which each sector is had only when it is asked for the second time.
#[derive(Clone)]
struct Slow {
    bytes: Rc<Vec<u8>>,
    here: Rc<RefCell<BTreeSet<u64>>>,
    missed: Rc<Cell<bool>>,
}

impl Sectors for Slow {
    fn read(&self, sector: u64, out: &mut [u8]) -> bool {
        let missing = self.here.borrow_mut().insert(sector);
        self.missed.set(self.missed.get() || missing);
        out.copy_from_slice(&self.bytes[sector as usize * 512..][..512]);
        if missing {
            out.fill(0);
        }
        !missing
    }

    fn count(&self) -> u64 {
        self.bytes.len() as u64 / 512
    }
}

impl Slow {
    /// What [`complete`] does.
    fn complete<T>(&self, mut attempt: impl FnMut() -> Result<T, Error<NotNow>>) -> Result<T, Error<NotNow>> {
        loop {
            self.missed.set(false);
            let outcome = attempt();
            if !self.missed.get() {
                return outcome;
            }
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ ((at >> 8) * 31)) as u8).collect()
}

fn disk(kind: FatType, size: usize) -> Slow {
    let mut cursor = Cursor::new(vec![0; size]);
    format_volume(&mut cursor, FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(512)).unwrap();
    {
        let system = FileSystem::new(&mut cursor, FsOptions::new()).unwrap();
        let root = system.root_dir();
        root.create_dir("Some Folder").unwrap().create_dir("deep").unwrap();
        // Two files written in turns lie in pieces.
        let (mut one, mut two) =
            (root.create_file("index.html").unwrap(), root.create_file("Some Folder/deep/A long name.txt").unwrap());
        for (first, second) in pattern(100_000).chunks(700).zip(pattern(100_000).chunks(700)) {
            one.write_all(first).unwrap();
            two.write_all(second).unwrap();
        }
        root.create_file("empty").unwrap();
    }
    Slow { bytes: Rc::new(cursor.into_inner()), here: Rc::default(), missed: Rc::default() }
}

fn read(disk: &Slow, path: &str) -> Option<Vec<u8>> {
    let Found::File(file) = disk.complete(|| find(disk.clone(), path)).unwrap() else { return None };
    let (mut whole, mut piece) = (Vec::new(), vec![0; 3000]);
    loop {
        match disk.complete(|| file.read(&mut piece)).unwrap() {
            0 => break,
            count => whole.extend_from_slice(&piece[..count]),
        }
    }
    assert_eq!(whole.len(), file.length() as usize);
    Some(whole)
}

#[test]
fn files_are_found_by_name_and_read_to_the_end() {
    for (kind, size) in [(FatType::Fat16, 4 << 20), (FatType::Fat32, 40 << 20)] {
        let disk = disk(kind, size);
        for path in ["index.html", "INDEX.HTML", "some folder/DEEP/a long name.txt", "Some Folder/deep/ALONGN~1.TXT"] {
            assert_eq!(read(&disk, path), Some(pattern(100_000)), "{path}");
        }
        assert_eq!(read(&disk, "empty"), Some(vec![]));
        for nothing in ["nothing", "index.html/x", "Some Folder/deep/x", "index.htm", "index"] {
            let found = disk.complete(|| find(disk.clone(), nothing)).unwrap();
            assert!(matches!(found, Found::Nothing), "{nothing}");
        }
        for folder in ["", "Some Folder", "some folder/deep"] {
            assert!(matches!(disk.complete(|| find(disk.clone(), folder)), Ok(Found::Directory)));
        }
    }
}

#[test]
fn what_is_no_file_system_is_an_error() {
    let noise = Slow { bytes: Rc::new(pattern(1 << 20)), here: Rc::default(), missed: Rc::default() };
    assert!(noise.complete(|| find(noise.clone(), "x")).is_err());
    let nothing = Slow { bytes: Rc::new(vec![0; 512]), here: Rc::default(), missed: Rc::default() };
    assert!(nothing.complete(|| find(nothing.clone(), "x")).is_err());
}
