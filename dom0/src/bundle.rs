//! The boot bundle: the files that came with the core, in one ustar archive that stays in memory.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use tar_no_std::TarArchiveRef;

/// The files by path.
#[derive(Clone, Debug, Default)]
pub struct Bundle<'b> {
    files: Vec<(String, &'b [u8])>,
}

impl<'b> Bundle<'b> {
    /// Reads the table of contents. Entries with names that are no text are left out.
    pub fn new(bytes: &'b [u8]) -> Result<Bundle<'b>, String> {
        let archive = TarArchiveRef::new(bytes).map_err(|error| format!("the boot bundle is damaged: {error}"))?;
        let file = |entry: tar_no_std::ArchiveEntry<'b>| {
            let path = entry.filename().as_str().ok()?.trim_start_matches("./").to_owned();
            Some((path, entry.data()))
        };
        Ok(Bundle { files: archive.entries().filter_map(file).collect() })
    }

    /// A bundle of these files.
    pub fn of(files: &[(&str, &'b [u8])]) -> Bundle<'b> {
        Bundle { files: files.iter().map(|(path, bytes)| (path.to_string(), *bytes)).collect() }
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&'b [u8]> {
        self.files.iter().find(|(name, _)| name == path).map(|(_, bytes)| *bytes)
    }

    /// The names in `folder` that end with `suffix`, without both, sorted.
    pub fn names(&self, folder: &str, suffix: &str) -> Vec<&str> {
        let stem = |path| {
            let rest = str::strip_prefix(path, folder)?.strip_prefix('/')?;
            rest.strip_suffix(suffix).filter(|stem| !stem.is_empty() && !stem.contains('/'))
        };
        let mut names: Vec<&str> = self.files.iter().filter_map(|(path, _)| stem(path.as_str())).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_and_folders_listed() {
        let bundle = Bundle::of(&[
            ("dom0", b"elf"),
            ("config/spin.toml", b""),
            ("config/hello.toml", b"memory = 4"),
            ("config/deep/x.toml", b""),
            ("config/notes.txt", b""),
        ]);
        assert_eq!(bundle.file("config/hello.toml"), Some(&b"memory = 4"[..]));
        assert_eq!(bundle.file("hello"), None);
        assert_eq!(bundle.names("config", ".toml"), ["hello", "spin"]);
        assert!(bundle.names("auto", ".toml").is_empty());
    }

    #[test]
    fn damage_is_refused_with_a_reason() {
        for bytes in [&b""[..], &[0; 100], &[1; 2048]] {
            assert!(Bundle::new(bytes).unwrap_err().contains("damaged"));
        }
    }
}
