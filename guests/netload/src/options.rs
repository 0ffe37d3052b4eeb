//! What the command line says.

use alloc::string::{String, ToString};

use load::words;

use crate::frame::{SIZE_MAX, SIZE_MIN};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Frames are sent and checked.
    Load,
    /// Frames are sent to the guest in the next mode, for measurements.
    Send,
    /// Their answers.
    Receive,
    /// Frames are sent to the wire, for measurements.
    Flood,
}

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The network interface.
    pub interface: String,
    /// After so many seconds nothing more is sent; 0 is never.
    pub seconds: u64,
    /// Bytes of the largest frame.
    pub size: usize,
    /// Frames that may be under way.
    pub depth: u64,
    /// Whether anything is sent unasked.
    pub send: bool,
    /// Seconds between two reports.
    pub report: u64,
    /// What is done.
    pub mode: Mode,
    /// Frames to be sent in a measurement.
    pub frames: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            interface: "eth0".to_string(),
            seconds: 10,
            size: SIZE_MAX,
            depth: 64,
            send: true,
            report: 1,
            mode: Mode::Load,
            frames: 1,
        }
    }
}

impl Options {
    /// Reads the words of the command line.
    pub fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Options, String> {
        let mut options = Options::default();
        words::each(words, |word| {
            match word.key {
                "interface" => options.interface = word.value.to_string(),
                "seconds" => options.seconds = word.number()?,
                "size" => options.size = (word.number()? as usize).clamp(SIZE_MIN, SIZE_MAX),
                "depth" => options.depth = word.number()?.max(1),
                "send" => options.send = word.one_of(&[("yes", true), ("no", false)])?,
                "mode" => options.mode = word.one_of(&MODES)?,
                "frames" => options.frames = word.number()?,
                "report" => options.report = word.number()?.max(1),
                _ => return word.unknown(),
            }
            Ok(())
        })?;
        Ok(options)
    }
}

const MODES: [(&str, Mode); 4] =
    [("load", Mode::Load), ("send", Mode::Send), ("receive", Mode::Receive), ("flood", Mode::Flood)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_or_refused() {
        let read = |line: &str| Options::from_words(line.split_ascii_whitespace());
        assert_eq!(read(""), Ok(Options::default()));
        assert_eq!(read("size=1 send=no"), Ok(Options { size: SIZE_MIN, send: false, ..Options::default() }));
        assert!(read("depth=x").is_err() && read("speed=9").is_err());
    }
}
