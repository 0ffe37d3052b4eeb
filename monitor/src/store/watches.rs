//! What the guest wants to hear of, and what it has not heard yet.
//!
//! An event names the node that changed, in the form in which the watch was set; if a node above the watched one was removed, it
//! names the watched one. What waits to be heard is bounded: beyond that, a watch has one event left, for its own path, which says
//! that there is something to look at.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::message::Refusal;
use super::path::Path;

/// Longest token, in bytes. Linux has 16; with the longest path it must fit into a message.
pub const TOKEN_MAX: usize = 256;
/// Bytes of the names of events that wait, beyond which no more have names of their own, and what each costs beside, roughly.
const EVENTS_MAX: usize = 32 << 10;
/// See [`EVENTS_MAX`].
const EVENT_COST: usize = 32;
/// Bytes that a watch costs beside its path and token, roughly.
const WATCH_COST: usize = 64;

#[derive(Clone, Debug)]
struct Watch {
    id: u32,
    path: Path,
    token: String,
    /// It was set with a path below the guest's own directory, and that left out.
    relative: bool,
    /// An event that stands for all that did not find room waits.
    summed_up: bool,
}

impl Watch {
    fn cost(&self) -> usize {
        WATCH_COST + self.path.as_str().len() + self.token.len()
    }
}

/// All watches of a guest.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    list: Vec<Watch>,
    /// Which watch, and which node.
    waiting: VecDeque<(u32, Path)>,
    /// What these cost.
    waiting_bytes: usize,
    last: u32,
    bytes: usize,
}

impl Watches {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets a watch; it has its first event at once.
    pub fn set(&mut self, path: Path, token: &str, relative: bool) -> Result<(), Refusal> {
        if token.len() > TOKEN_MAX {
            return Err(Refusal::TooBig);
        }
        if self.position(&path, token).is_some() {
            return Err(Refusal::Exists);
        }
        self.last = self.last.wrapping_add(1);
        let watch = Watch { id: self.last, path: path.clone(), token: token.into(), relative, summed_up: false };
        self.bytes += watch.cost();
        self.list.push(watch);
        self.waiting_bytes += event_cost(&path);
        self.waiting.push_back((self.last, path));
        Ok(())
    }

    /// Takes a watch away, and what it has waiting.
    pub fn unset(&mut self, path: &Path, token: &str) -> Result<(), Refusal> {
        let watch = self.list.remove(self.position(path, token).ok_or(Refusal::Missing)?);
        self.bytes -= watch.cost();
        self.waiting.retain(|(id, _)| *id != watch.id);
        self.waiting_bytes = self.waiting.iter().map(|(_, path)| event_cost(path)).sum();
        Ok(())
    }

    /// Whether one of them was set for this node.
    pub fn names(&self, path: &Path) -> bool {
        self.list.iter().any(|watch| watch.path == *path)
    }

    fn position(&self, path: &Path, token: &str) -> Option<usize> {
        self.list.iter().position(|watch| watch.path == *path && watch.token == token)
    }

    /// A node has changed, or was removed with all below it.
    pub fn fire(&mut self, changed: &Path, removed: bool) {
        for watch in &mut self.list {
            let named = if changed.is_within(&watch.path) {
                changed
            } else if removed && watch.path.is_within(changed) {
                &watch.path
            } else {
                continue;
            };
            let event = match self.waiting_bytes < EVENTS_MAX {
                true => named.clone(),
                false if watch.summed_up => continue,
                false => {
                    watch.summed_up = true;
                    watch.path.clone()
                }
            };
            self.waiting_bytes += event_cost(&event);
            self.waiting.push_back((watch.id, event));
        }
    }

    /// The next event: the path as the guest, whose own directory is `home`, wants to see it, and the token.
    pub fn next_event(&mut self, home: &Path) -> Option<(String, &str)> {
        let (id, path) = self.waiting.pop_front()?;
        self.waiting_bytes -= event_cost(&path);
        // Of a watch that is gone nothing waits.
        let watch = self.list.iter_mut().find(|watch| watch.id == id)?;
        watch.summed_up &= path != watch.path;
        let below = if watch.relative { path.below(home) } else { None };
        Some((below.unwrap_or(path.as_str()).into(), &watch.token))
    }
}

fn event_cost(path: &Path) -> usize {
    EVENT_COST + path.as_str().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::new(text).unwrap()
    }

    fn events(watches: &mut Watches) -> Vec<(String, String)> {
        let home = path("/home");
        core::iter::from_fn(|| watches.next_event(&home).map(|(path, token)| (path, token.into()))).collect()
    }

    fn event(path: &str, token: &str) -> (String, String) {
        (path.into(), token.into())
    }

    #[test]
    fn events_name_what_changed_in_the_form_of_the_watch() {
        let mut watches = Watches::default();
        watches.set(path("/home/device"), "r", true).unwrap();
        watches.set(path("/home/device"), "a", false).unwrap();
        assert_eq!(events(&mut watches), [event("device", "r"), event("/home/device", "a")]);
        watches.fire(&path("/home/device/vbd/1/state"), false);
        assert_eq!(events(&mut watches), [event("device/vbd/1/state", "r"), event("/home/device/vbd/1/state", "a")]);
        watches.fire(&path("/home"), false);
        watches.fire(&path("/home/devices"), true);
        assert_eq!(events(&mut watches), []);
        watches.fire(&path("/home"), true);
        assert_eq!(events(&mut watches), [event("device", "r"), event("/home/device", "a")]);
    }

    #[test]
    fn watches_are_told_apart_by_path_and_token() {
        let mut watches = Watches::default();
        watches.set(path("/a"), "1", false).unwrap();
        watches.set(path("/a"), "2", false).unwrap();
        assert_eq!(watches.set(path("/a"), "1", true), Err(Refusal::Exists));
        assert_eq!(watches.unset(&path("/b"), "1"), Err(Refusal::Missing));
        watches.unset(&path("/a"), "1").unwrap();
        assert_eq!(events(&mut watches), [event("/a", "2")], "what waited went with the watch");
        watches.unset(&path("/a"), "2").unwrap();
        assert_eq!(watches.bytes(), 0);
        assert_eq!(watches.set(path("/a"), &"x".repeat(TOKEN_MAX + 1), false), Err(Refusal::TooBig));
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_missed() {
        let mut watches = Watches::default();
        watches.set(path("/a"), "1", false).unwrap();
        watches.set(path("/a/b"), "2", false).unwrap();
        events(&mut watches);
        for _ in 0..EVENTS_MAX {
            watches.fire(&path("/a/b/c"), false);
        }
        assert!(watches.waiting_bytes <= EVENTS_MAX + 3 * event_cost(&path("/a/b/c")));
        let mut all = events(&mut watches);
        let last = all.len() - 2;
        all[last..].sort();
        assert_eq!(all[last..], [event("/a", "1"), event("/a/b", "2")]);
        assert_eq!(watches.waiting_bytes, 0);
    }
}
