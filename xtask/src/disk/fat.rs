//! FAT file systems, in memory.

use std::io::{Cursor, Write};

use anyhow::{Context, Result, bail};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider, format_volume};

use super::content::Page;

/// Serial number of every volume; a fixed one, like everything else.
const VOLUME_ID: u32 = 0xb01c_4ead;

/// The time of every file: the first that FAT can say.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// A FAT16 file system of `size` bytes that holds `files`; folders in their names are made. `cluster` is in bytes; FAT16 has 4085 to
/// 65524 of them.
pub fn file_system(size: u64, cluster: u32, label: &str, files: &[Page]) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; usize::try_from(size)?]);
    let mut label_field = [b' '; 11];
    if label.len() > label_field.len() {
        bail!("the label {label} is longer than 11 characters");
    }
    label_field[..label.len()].copy_from_slice(label.as_bytes());
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat16).bytes_per_cluster(cluster);
    format_volume(&mut disk, options.volume_label(label_field).volume_id(VOLUME_ID)).context("a FAT file system")?;
    disk.set_position(0);
    let system = FileSystem::new(&mut disk, FsOptions::new().time_provider(&Epoch))?;
    for file in files {
        add(&system, file).with_context(|| format!("{} does not fit in the file system", file.name))?;
    }
    system.unmount()?;
    Ok(disk.into_inner())
}

fn add(system: &FileSystem<&mut Cursor<Vec<u8>>>, page: &Page) -> Result<()> {
    for (end, _) in page.name.match_indices('/') {
        system.root_dir().create_dir(&page.name[..end])?;
    }
    let mut file = system.root_dir().create_file(&page.name)?;
    file.write_all(&page.bytes)?;
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::MIB;
    use super::*;
    use std::io::Read;

    const CLUSTER: u32 = 16 * 1024;

    #[test]
    fn files_are_found_again_and_the_bytes_are_always_the_same() {
        let files = [Page::new("index.html", *b"<html>"), Page::new("a/b/long file name", vec![3; 100_000])];
        let bytes = file_system(80 * MIB, CLUSTER, "LABEL", &files).unwrap();
        assert!(bytes == file_system(80 * MIB, CLUSTER, "LABEL", &files).unwrap());
        let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        assert_eq!((system.fat_type(), system.volume_label().as_str()), (FatType::Fat16, "LABEL"));
        for file in files {
            let mut found = Vec::new();
            system.root_dir().open_file(&file.name).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == file.bytes, "{}", file.name);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(file_system(80 * MIB, CLUSTER, "LABEL", &[Page::new("big", vec![1; 80 << 20])]).is_err());
        assert!(file_system(80 * MIB, CLUSTER, "MUCH TOO LONG", &[]).is_err());
    }
}
