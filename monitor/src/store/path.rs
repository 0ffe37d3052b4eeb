//! Paths of the store.
//!
//! A path is checked once, where it comes in, and is absolute from then on; whether a guest wrote it relative to its own
//! directory matters only for what it is told of a watch. The rules are those of Xen's `is_valid_nodename`, and one more: a bound on the
//! depth, because a tree is walked by recursion where parts of it are dropped.

use alloc::format;
use alloc::sync::Arc;
use core::fmt;

use super::message::Refusal;

/// Longest absolute path, in bytes.
pub const ABSOLUTE_MAX: usize = 3072;
/// Longest relative path, in bytes.
pub const RELATIVE_MAX: usize = 2048;
/// Most names in a path. The longest that anybody uses have ten.
pub const DEPTH_MAX: usize = 32;

/// An absolute path, or the name of a special watch (`@...`), which lies below nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Arc<str>);

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Path {
    /// The path that `text` says, which is absolute.
    pub fn new(text: &str) -> Result<Path, Refusal> {
        let names = text.strip_prefix('/').ok_or(Refusal::Invalid)?;
        if text.len() > ABSOLUTE_MAX || !(names.is_empty() || names.split('/').all(is_name)) {
            return Err(Refusal::Invalid);
        }
        if names.split('/').count() > DEPTH_MAX {
            return Err(Refusal::NoSpace);
        }
        Ok(Path(text.into()))
    }

    /// A path of the monitor's own making. What is none leads nowhere.
    pub fn plain(text: &str) -> Path {
        debug_assert!(Path::new(text).is_ok(), "{text} is no path");
        Path::new(text).unwrap_or_else(|_| Path("/".into()))
    }

    /// The path that a guest wrote, `home` being its own directory.
    pub fn of_guest(text: &str, home: &Path) -> Result<Path, Refusal> {
        if text.starts_with('/') {
            return Path::new(text);
        }
        if text.len() > RELATIVE_MAX {
            return Err(Refusal::Invalid);
        }
        Path::new(&format!("{home}/{text}"))
    }

    /// What a guest wants to watch: a path, or the name of something that happens to domains.
    pub fn to_watch(text: &str, home: &Path) -> Result<Path, Refusal> {
        match text.strip_prefix('@') {
            Some(name) if text.len() <= RELATIVE_MAX && is_name(name) => Ok(Path(text.into())),
            Some(_) => Err(Refusal::Invalid),
            None => Path::of_guest(text, home),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names, from the root.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Whether it is `other` or lies below it.
    pub fn is_within(&self, other: &Path) -> bool {
        self.below(other).is_some()
    }

    /// Its text below `other`, empty if they are the same; `None` if it does not lie there.
    pub fn below(&self, other: &Path) -> Option<&str> {
        match (self.0.strip_prefix(&*other.0)?, &*other.0) {
            (rest, "/") => Some(rest),
            ("", _) => Some(""),
            (rest, _) => rest.strip_prefix('/'),
        }
    }

    /// The directory it is in; `None` for the root.
    pub fn parent(&self) -> Option<Path> {
        let (parent, name) = self.0.rsplit_once('/')?;
        match (parent, name) {
            ("", "") => None,
            ("", _) => Some(Path("/".into())),
            (parent, _) => Some(Path(parent.into())),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn path(text: &str) -> Path {
        Path::new(text).unwrap()
    }

    #[test]
    fn only_clean_paths_are_taken() {
        for good in ["/", "/a", "/local/domain/1/device/vbd/51712", "/A-z_0@9"] {
            assert_eq!(path(good).as_str(), good);
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/a b", "/a\u{e9}", "/a.b", "/../a"] {
            assert_eq!(Path::new(bad), Err(Refusal::Invalid), "{bad}");
        }
        assert!(Path::new(&format!("/{}", "x".repeat(ABSOLUTE_MAX - 1))).is_ok());
        assert_eq!(Path::new(&format!("/{}", "x".repeat(ABSOLUTE_MAX))), Err(Refusal::Invalid));
        let deep: String = "/a".repeat(DEPTH_MAX);
        assert_eq!((Path::new(&deep).is_ok(), Path::new(&(deep + "/a"))), (true, Err(Refusal::NoSpace)));
    }

    #[test]
    fn below_ends_at_names() {
        assert_eq!(path("/a/b/c").below(&path("/a")), Some("b/c"));
        assert_eq!(path("/a").below(&path("/a")), Some(""));
        assert_eq!(path("/a").below(&path("/")), Some("a"));
        assert_eq!(path("/ab").below(&path("/a")), None);
        assert_eq!(path("/a").below(&path("/a/b")), None);
    }

    #[test]
    fn parents_end_at_the_root() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(path("/")));
        assert_eq!(path("/").parent(), None);
    }

    #[test]
    fn guests_may_leave_their_own_directory_out() {
        let home = path("/local/domain/1");
        assert_eq!(Path::of_guest("device/vbd", &home), Ok(path("/local/domain/1/device/vbd")));
        assert_eq!(Path::of_guest("/vm", &home), Ok(path("/vm")));
        assert_eq!(Path::of_guest("", &home), Err(Refusal::Invalid));
        let special = Path::to_watch("@releaseDomain", &home).unwrap();
        assert!(!special.is_within(&path("/")));
    }
}
