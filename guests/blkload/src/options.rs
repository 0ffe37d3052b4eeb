//! What the command line says.

use alloc::string::{String, ToString};

use load::words;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reads, writes, flushes and discards anywhere.
    Random,
    /// The whole part is written from end to end, then read, and so on.
    Seq,
    /// It is written once; then it is read anywhere.
    Read,
    /// Reads of 4 KiB are counted in instructions.
    Bench,
}

/// What a read has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// What the last write issued before it left.
    Strict,
    /// That, or what any write left that was under way at the same time.
    Relaxed,
}

/// What is done when the disk is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// That is an error.
    Fail,
    /// The load waits until it is there again, and goes on.
    Wait,
}

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The disk.
    pub device: String,
    /// After so many seconds nothing more is issued; 0 is never.
    pub seconds: u64,
    /// After so many requests nothing more is issued; 0 is never.
    pub requests: u64,
    /// Requests in flight at all times.
    pub depth: usize,
    /// Sectors that are used, from the beginning of the disk.
    pub sectors: u64,
    /// What is done.
    pub mode: Mode,
    /// What a read has to find.
    pub check: Check,
    /// What is done when the disk is taken away.
    pub gone: Gone,
    /// Decides every choice.
    pub seed: u64,
    /// Seconds between two reports.
    pub report: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: "xvda".to_string(),
            seconds: 10,
            requests: 0,
            depth: 32,
            sectors: 32768,
            mode: Mode::Random,
            check: Check::Strict,
            gone: Gone::Fail,
            seed: 1,
            report: 1,
        }
    }
}

impl Options {
    /// Reads the words of the command line.
    pub fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Options, String> {
        let mut options = Options::default();
        words::each(words, |word| {
            match word.key {
                "device" => options.device = word.value.to_string(),
                "seconds" => options.seconds = word.number()?,
                "requests" => options.requests = word.number()?,
                "depth" => options.depth = word.number()?.clamp(1, 256) as usize,
                "sectors" => options.sectors = word.number()?,
                "seed" => options.seed = word.number()?,
                "report" => options.report = word.number()?.max(1),
                "mode" => options.mode = word.one_of(&MODES)?,
                "check" => options.check = word.one_of(&[("strict", Check::Strict), ("relaxed", Check::Relaxed)])?,
                "gone" => options.gone = word.one_of(&[("fail", Gone::Fail), ("wait", Gone::Wait)])?,
                _ => return word.unknown(),
            }
            Ok(())
        })?;
        Ok(options)
    }
}

const MODES: [(&str, Mode); 4] =
    [("random", Mode::Random), ("seq", Mode::Seq), ("read", Mode::Read), ("bench", Mode::Bench)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_or_refused() {
        let read = |line: &str| Options::from_words(line.split_ascii_whitespace());
        assert_eq!(read(""), Ok(Options::default()));
        let some = Options {
            depth: 8,
            mode: Mode::Seq,
            check: Check::Relaxed,
            device: "xvdb".into(),
            gone: Gone::Wait,
            ..Options::default()
        };
        assert_eq!(read("depth=8 mode=seq check=relaxed device=xvdb gone=wait solo"), Ok(some));
        for wrong in ["depth=x", "mode=fast", "check=", "speed=1"] {
            assert!(read(wrong).unwrap_err().contains(wrong.split_once('=').unwrap().0), "{wrong}");
        }
    }
}
