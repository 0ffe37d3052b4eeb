//! From the target of a request to the path of a file.

use alloc::string::String;
use alloc::vec::Vec;

/// The path that a target names, without its query; `None` if it is none. `.`, `..`, empty names and what FAT cannot hold are
/// no names.
pub fn path(target: &str) -> Option<String> {
    let target = target.split(['?', '#']).next()?;
    let rooted = match target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/')?..],
        None => target,
    };
    let decoded = decode(rooted.strip_prefix('/')?)?;
    let names = decoded.strip_suffix('/').unwrap_or(&decoded);
    let sound = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\\', ':', '*', '"', '<', '>', '|']);
    let sound = decoded.is_empty() || names.split('/').all(sound);
    (sound && !decoded.contains(|c: char| c.is_control())).then_some(decoded)
}

/// Replaces `%xx`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_are_paths_or_refused() {
        for (target, expected) in [
            ("/", Some("")),
            ("/a/b.txt?x=/..", Some("a/b.txt")),
            ("/a%20b/", Some("a b/")),
            ("http://host/x", Some("x")),
            ("http://host", None),
            ("/../x", None),
            ("/a/./b", None),
            ("/a//b", None),
            ("//", None),
            ("/%2e%2e/x", None),
            ("/a%2f..%2fb", None),
            ("/a%00", None),
            ("/a\\b", None),
            ("/a%2", None),
            ("/a%zz", None),
            ("/%ff", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(path(target).as_deref(), expected, "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(target in "[/.%a-f0-9\\\\]{0,30}") {
            if let Some(path) = path(&target) {
                prop_assert!(!path.starts_with('/') && path.split('/').all(|name| name != ".." && name != "."));
            }
        }
    }
}
