//! Writing an image to a device, and reading it back from the device itself.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, OFlags};

use crate::disk::MIB;

/// Bytes handed over at once: enough for flash memory to be fast.
const CHUNK: usize = 4 << 20;
/// Bytes after which what was written is waited for, so that progress is that of the device and not of memory.
const SYNC_EVERY: u64 = 32 * MIB;
/// Alignment of what is read without the cache: that of the largest sectors.
const ALIGNMENT: usize = 4096;
/// At the end of a device: where a partition table has its second copy.
const TAIL: u64 = MIB;

/// Opens a device for writing, if nobody uses it: the kernel refuses it otherwise.
pub fn open(device: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(OFlags::EXCL.bits() as i32).open(device);
    opened.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => " (run it as root, or with sudo)",
            ErrorKind::ResourceBusy => " (somebody uses it)",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot open {} for writing{hint}", device.display()))
    })
}

/// Copies `image` to the beginning of `device`, which has `size` bytes; `progress` is told how many are there.
pub fn write(image: &mut File, device: &mut File, size: u64, mut progress: impl FnMut(u64)) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let (mut written, mut synced) = (0, 0);
    loop {
        let count = fill(image, &mut buffer).context("cannot read the image")?;
        device.write_all(&buffer[..count]).with_context(|| format!("cannot write at byte {written}"))?;
        written += count as u64;
        if written - synced >= SYNC_EVERY || (count < CHUNK && written != synced) {
            device.sync_data().with_context(|| format!("what was written before byte {written} is lost"))?;
            synced = written;
            progress(written);
        }
        if count < CHUNK {
            break;
        }
    }
    // The former partition table's second copy would be found there.
    let tail = size.saturating_sub(TAIL).max(written);
    device.seek(SeekFrom::Start(tail))?;
    buffer[..TAIL as usize].fill(0);
    let length = usize::try_from(size.saturating_sub(tail))?;
    device.write_all(&buffer[..length]).context("cannot write the end of the device")?;
    device.sync_all().context("the device does not confirm what was written")?;
    Ok(())
}

/// Reads `device` and compares it with `image`.
pub fn compare(image: &mut File, device: &Path, mut progress: impl FnMut(u64)) -> Result<()> {
    image.seek(SeekFrom::Start(0))?;
    let mut written = open_uncached(device)?;
    let mut expected = vec![0; CHUNK];
    // What is read without the cache goes to aligned memory.
    let mut memory = vec![0; CHUNK + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let mut compared = 0;
    loop {
        let wanted = fill(image, &mut expected).context("cannot read the image")?;
        let found = memory.get_mut(start..start + CHUNK).context("no aligned memory")?;
        let count = fill(&mut written, found).with_context(|| format!("cannot read back at byte {compared}"))?;
        // Whole first: one by one takes longer than reading.
        if count < wanted || found[..wanted] != expected[..wanted] {
            let equal = (0..wanted.min(count)).take_while(|&at| found[at] == expected[at]).count();
            let at = compared + equal as u64;
            bail!("the device does not hold what was written, first at byte {at}: it is broken");
        }
        compared += wanted as u64;
        if wanted != 0 {
            progress(compared);
        }
        if wanted < CHUNK {
            return Ok(());
        }
    }
}

/// Opens a device so that what is read comes from it and not from memory.
fn open_uncached(device: &Path) -> Result<File> {
    let open = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(device);
    let file = match open(OFlags::DIRECT) {
        // Not every file system can do that.
        Err(error) if error.kind() == ErrorKind::InvalidInput => open(OFlags::empty()),
        opened => opened,
    };
    let file = file.with_context(|| format!("cannot open {} for reading", device.display()))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).context("cannot drop what is cached of the device")?;
    Ok(file)
}

/// Reads until the buffer is full or there is no more; gives the number of bytes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/flash-tests");
            let folder = folder.join(format!("{test}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
            fs::write(self.0.join(name), contents).unwrap();
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Two chunks and a half.
    fn image() -> Vec<u8> {
        (0..5 * CHUNK / 2).map(|at| (at / 7) as u8 | 1).collect()
    }

    #[test]
    fn the_image_arrives_and_the_rest_stays() {
        let folder = Folder::new("arrives");
        let bytes = image();
        let (source, target) = (folder.file("image", &bytes), folder.file("device", &vec![7; 4 * CHUNK]));
        let mut told = Vec::new();
        let mut source = File::open(source).unwrap();
        write(&mut source, &mut open(&target).unwrap(), 4 * CHUNK as u64, |at| told.push(at)).unwrap();
        assert_eq!(told.last(), Some(&(bytes.len() as u64)));
        compare(&mut source, &target, |_| {}).unwrap();
        let found = fs::read(&target).unwrap();
        assert!(found.len() == 4 * CHUNK && found.starts_with(&bytes));
        let tail = 4 * CHUNK - TAIL as usize;
        assert!(found[bytes.len()..tail].iter().all(|&byte| byte == 7) && found[tail..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn an_image_that_fills_the_device_is_not_overwritten_at_its_end() {
        let folder = Folder::new("full");
        let bytes = image();
        let (source, target) = (folder.file("image", &bytes), folder.file("device", &vec![7; bytes.len()]));
        let mut source = File::open(source).unwrap();
        write(&mut source, &mut open(&target).unwrap(), bytes.len() as u64, |_| {}).unwrap();
        assert!(fs::read(&target).unwrap() == bytes);
    }

    #[test]
    fn what_the_device_lost_is_found() {
        let folder = Folder::new("lost");
        let bytes = image();
        let mut source = File::open(folder.file("image", &bytes)).unwrap();
        for at in [0, CHUNK + 5, bytes.len() - 1] {
            let mut broken = bytes.clone();
            broken[at] ^= 0x80;
            let error = compare(&mut source, &folder.file("device", &broken), |_| {}).unwrap_err().to_string();
            assert!(error.contains(&format!("first at byte {at}:")), "{error}");
        }
        let short = folder.file("device", &bytes[..CHUNK + 100]);
        let error = compare(&mut source, &short, |_| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("first at byte {}:", CHUNK + 100)), "{error}");
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_named() {
        assert!(open(Path::new("/nonexistent/sdb")).unwrap_err().to_string().contains("/nonexistent/sdb"));
    }
}
