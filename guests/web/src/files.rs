//! Files of a FAT partition, by path.
//!
//! `embedded-sdmmc` reads the file system. It wants a disk with a partition table, and ours is the partition: a table that
//! says so is put in front. It cannot wait, either: whatever it does is tried, and when a block was not in memory, tried again
//! once it is. Each open file has a file system of its own, which makes trying again as simple as that.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::ops::ControlFlow;

use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, Error, LfnBuffer, Mode, RawDirectory, RawFile, ShortFileName, TimeSource,
    Timestamp, VolumeIdx, VolumeManager,
};
use unikernel::frontend::block::Failure;

use crate::cache::Cache;

/// Bytes of the longest name: 255 UTF-16 units, in UTF-8.
const NAME_MAX: usize = 255 * 3;

/// Sectors, as many as can be had at once.
pub trait Sectors {
    /// Copies a sector out, if that can be done at once.
    fn read(&self, sector: u64, out: &mut [u8]) -> bool;
    /// How many there are.
    fn count(&self) -> u64;
}

impl Sectors for Rc<Cache> {
    fn read(&self, sector: u64, out: &mut [u8]) -> bool {
        Cache::read(self, sector, out)
    }

    fn count(&self) -> u64 {
        self.sectors()
    }
}

/// A block that cannot be had at once, or is to be written.
#[derive(Debug)]
pub struct NotNow;

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not in memory")
    }
}

impl core::error::Error for NotNow {}

/// The partition behind a partition table of one entry, which takes block 0: all else is one block further.
#[derive(Debug)]
pub struct Partition<S>(S);

/// The table: FAT32 from block 1 on, as `fdisk` would write it.
fn table(blocks: u32) -> [u8; 512] {
    let mut table = [0; 512];
    table[446 + 4] = 0x0c;
    table[446 + 8..446 + 12].copy_from_slice(&1u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&blocks.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

impl<S: Sectors> BlockDevice for Partition<S> {
    type Error = NotNow;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), NotNow> {
        for (block, index) in blocks.iter_mut().zip(u64::from(start.0)..) {
            match index.checked_sub(1) {
                None => **block = table(u32::try_from(self.0.count()).unwrap_or(u32::MAX)),
                Some(sector) => {
                    if sector >= self.0.count() || !self.0.read(sector, &mut **block) {
                        return Err(NotNow);
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), NotNow> {
        Err(NotNow)
    }

    fn num_blocks(&self) -> Result<BlockCount, NotNow> {
        Ok(BlockCount(u32::try_from(self.0.count() + 1).unwrap_or(u32::MAX)))
    }
}

/// Nothing is written, so no time is needed.
#[derive(Debug)]
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 0, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}

/// One directory of a path is open at a time, and its parent while it is being opened.
type Volume<S> = VolumeManager<Partition<S>, NoTime, 2, 1, 1>;

/// What is at a path.
pub enum Found<S: Sectors> {
    /// A file.
    File(Box<File<S>>),
    /// A directory.
    Directory,
    /// Nothing.
    Nothing,
}

/// An open file.
pub struct File<S: Sectors> {
    volume: Volume<S>,
    file: RawFile,
    length: u32,
    position: Cell<u32>,
}

impl<S: Sectors> File<S> {
    /// Bytes it has.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Reads on; gives the bytes read, 0 at the end. Does not move on if it fails.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Error<NotNow>> {
        self.volume.file_seek_from_start(self.file, self.position.get())?;
        let read = self.volume.read(self.file, buffer)?;
        self.position.set(self.position.get() + read as u32);
        Ok(read)
    }
}

/// Looks a path up. Names are compared as FAT does, without regard to the case of Latin letters.
pub fn find<S: Sectors>(sectors: S, path: &str) -> Result<Found<S>, Error<NotNow>> {
    let volume: Volume<S> = VolumeManager::new_with_limits(Partition(sectors), NoTime, 1);
    let root = volume.open_raw_volume(VolumeIdx(0))?;
    let mut directory = volume.open_root_dir(root)?;
    let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        let Some((short, is_directory)) = entry(&volume, directory, name)? else { return Ok(Found::Nothing) };
        if is_directory {
            let inner = volume.open_dir(directory, short)?;
            volume.close_dir(directory)?;
            directory = inner;
        } else if names.peek().is_some() {
            return Ok(Found::Nothing);
        } else {
            let file = volume.open_file_in_dir(directory, short, Mode::ReadOnly)?;
            let length = volume.file_length(file)?;
            return Ok(Found::File(Box::new(File { volume, file, length, position: Cell::new(0) })));
        }
    }
    Ok(Found::Directory)
}

/// The entry with this name: what it is called for short, and whether it is a directory.
fn entry<S: Sectors>(
    volume: &Volume<S>,
    directory: RawDirectory,
    name: &str,
) -> Result<Option<(ShortFileName, bool)>, Error<NotNow>> {
    let mut storage = [0; NAME_MAX];
    let mut found = None;
    volume.iterate_dir_lfn(directory, &mut LfnBuffer::new(&mut storage), |entry, long| {
        let (base, extension) = (entry.name.base_name(), entry.name.extension());
        let short = match extension {
            [] => name.as_bytes().eq_ignore_ascii_case(base),
            _ => name.rsplit_once('.').is_some_and(|(own, own_extension)| {
                own.as_bytes().eq_ignore_ascii_case(base) && own_extension.as_bytes().eq_ignore_ascii_case(extension)
            }),
        };
        let usable = !entry.attributes.is_volume();
        if usable && (short || long.is_some_and(|long| long.eq_ignore_ascii_case(name))) {
            found = Some((entry.name, entry.attributes.is_directory()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Trouble {
    /// The disk.
    Disk(Failure),
    /// What is on it.
    Format(Error<NotNow>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Disk(failure) => failure.fmt(f),
            Trouble::Format(error) => write!(f, "file system: {error}"),
        }
    }
}

/// Tries something until everything it needs is in memory.
pub async fn complete<T>(
    cache: &Rc<Cache>,
    mut attempt: impl FnMut() -> Result<T, Error<NotNow>>,
) -> Result<T, Trouble> {
    loop {
        cache.missed();
        let outcome = attempt();
        // The outcome of an attempt that missed a block says nothing, whatever it is.
        match cache.missed() {
            None => return outcome.map_err(Trouble::Format),
            Some(number) => cache.fetch(number).await.map_err(Trouble::Disk)?,
        }
    }
}

#[cfg(test)]
mod tests;
