//! The nodes.
//!
//! A tree is copied on write: a copy of one costs nothing, and shares with it what neither has changed since. That is what
//! transactions are made of. Each change leaves its number, counted through the store's whole life, with the node that it changed, so
//! that it can be seen whether two trees show the same of a node. What belongs to the guest is counted.

use alloc::sync::Arc;

use litemap::LiteMap;

use super::path::Path;
use super::permissions::Permissions;

/// Bytes that a node costs beside its name and value, roughly.
const NODE_COST: usize = 128;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its value.
    pub value: Arc<[u8]>,
    /// Who may do what with it.
    pub permissions: Permissions,
    /// What is below it, as a list: most nodes have few.
    pub children: LiteMap<Arc<str>, Arc<Node>>,
    /// Number of the last change of its value and permissions.
    pub changed: u64,
    /// Number of the last change of the names below it.
    pub listed: u64,
}

impl Node {
    fn new(permissions: Permissions, stamp: u64) -> Node {
        let (value, children) = (Arc::default(), LiteMap::new());
        Node { value, permissions, children, changed: stamp, listed: stamp }
    }
}

/// What a guest uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nodes.
    pub nodes: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Usage {
    fn of(name: &str, node: &Node) -> Usage {
        Usage { nodes: 1, bytes: NODE_COST + name.len() + node.value.len() + 4 * node.permissions.entries() }
    }

    fn add(&mut self, other: Usage) {
        self.nodes += other.nodes;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Usage) {
        self.nodes = self.nodes.saturating_sub(other.nodes);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    /// What would be used with a value of `length` bytes at `path`, made by the guest.
    fn of_new(names: &[&str], permissions: &Permissions, length: usize) -> Usage {
        let each = NODE_COST + 4 * permissions.entries();
        let text: usize = names.iter().map(|name| name.len()).sum();
        Usage { nodes: names.len(), bytes: names.len() * each + text + length }
    }
}

/// Who changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The monitor. What it makes has the permissions of the directory it is in.
    Host,
    /// The guest. What it makes belongs to it.
    Guest,
}

/// What is done to a node.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is made if it is not there.
    Make,
    /// It has a value.
    Write(Arc<[u8]>),
    /// It is removed with all that is below it.
    Remove,
    /// Others may do other things with it.
    Permit(Permissions),
}

/// A tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Node>,
    guest: u16,
    usage: Usage,
}

impl Tree {
    /// An empty one, of which the nodes of `guest` are counted.
    pub fn new(guest: u16, permissions: Permissions) -> Tree {
        Tree { root: Arc::new(Node::new(permissions, 0)), guest, usage: Usage::default() }
    }

    /// What the guest uses.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether nothing was changed in one of two copies.
    pub fn is_same(&self, other: &Tree) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// A node.
    pub fn find(&self, path: &Path) -> Option<&Node> {
        path.names().try_fold(&*self.root, |node, name| node.children.get(name).map(|child| &**child))
    }

    /// The node at the path or the nearest one above it, and how many names lead to it.
    pub fn nearest(&self, path: &Path) -> (&Node, usize) {
        let (mut node, mut depth) = (&*self.root, 0);
        for name in path.names() {
            let Some(child) = node.children.get(name) else { break };
            (node, depth) = (child, depth + 1);
        }
        (node, depth)
    }

    /// What the guest would use after `change`.
    pub fn usage_after(&self, path: &Path, change: &Change) -> Usage {
        let mut usage = self.usage;
        let (node, depth) = self.nearest(path);
        let missing: heapless::Vec<&str, { super::path::DEPTH_MAX }> = path.names().skip(depth).collect();
        let mine = node.permissions.owner() == self.guest;
        let (entries, length) = (node.permissions.entries(), node.value.len());
        match change {
            Change::Write(value) if !missing.is_empty() => {
                usage.add(Usage::of_new(&missing, &node.permissions, value.len()));
            }
            Change::Make if !missing.is_empty() => usage.add(Usage::of_new(&missing, &node.permissions, 0)),
            Change::Write(value) if mine => usage.bytes = (usage.bytes + value.len()).saturating_sub(length),
            Change::Permit(list) if mine && missing.is_empty() => {
                usage.bytes = (usage.bytes + 4 * list.entries()).saturating_sub(4 * entries);
            }
            _ => {}
        }
        usage
    }

    /// Changes a node, and makes it and those above it if they are not there, unless only permissions change. `stamp` is the number
    /// of the change.
    pub fn change(&mut self, path: &Path, change: Change, by: Side, stamp: u64) {
        match change {
            Change::Remove => self.remove(path, stamp),
            Change::Make => self.edit(path, Some(by), stamp, |_| {}),
            Change::Write(value) => self.edit(path, Some(by), stamp, |node| {
                (node.value, node.changed) = (value, stamp);
            }),
            Change::Permit(permissions) => self.edit(path, None, stamp, |node| {
                (node.permissions, node.changed) = (permissions, stamp);
            }),
        }
    }

    /// Finds a node, made if there is somebody who makes it, and changes it.
    fn edit(&mut self, path: &Path, by: Option<Side>, stamp: u64, edit: impl FnOnce(&mut Node)) {
        if by.is_none() && self.find(path).is_none() {
            return;
        }
        let (guest, mut last) = (self.guest, "");
        let mut node = Arc::make_mut(&mut self.root);
        for name in path.names() {
            if let (Some(by), false) = (by, node.children.contains_key(name)) {
                let permissions = match by {
                    Side::Host => node.permissions.clone(),
                    Side::Guest => node.permissions.inherited(guest),
                };
                let made = Node::new(permissions, stamp);
                if made.permissions.owner() == guest {
                    self.usage.add(Usage::of(name, &made));
                }
                node.listed = stamp;
                node.children.insert(name.into(), Arc::new(made));
            }
            let Some(child) = node.children.get_mut(name) else { return };
            (node, last) = (Arc::make_mut(child), name);
        }
        // The root belongs to nobody who is counted.
        let counted = |node: &Node| node.permissions.owner() == guest && !last.is_empty();
        if counted(node) {
            self.usage.remove(Usage::of(last, node));
        }
        edit(node);
        if counted(node) {
            self.usage.add(Usage::of(last, node));
        }
    }

    fn remove(&mut self, path: &Path, stamp: u64) {
        if self.find(path).is_none() {
            return;
        }
        let mut node = Arc::make_mut(&mut self.root);
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                if let Some(removed) = node.children.remove(name) {
                    node.listed = stamp;
                    count(&mut self.usage, name, &removed, self.guest);
                }
                return;
            }
            let Some(child) = node.children.get_mut(name) else { return };
            node = Arc::make_mut(child);
        }
    }
}

/// Takes from `usage` what a removed part of the tree held. Its depth is that of paths at most.
fn count(usage: &mut Usage, name: &str, node: &Node, guest: u16) {
    if node.permissions.owner() == guest {
        usage.remove(Usage::of(name, node));
    }
    for (name, child) in &node.children {
        count(usage, name, child, guest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::permissions::Right;
    use super::*;
    use proptest::prelude::*;

    const GUEST: u16 = 7;

    fn path(text: &str) -> Path {
        Path::new(text).unwrap()
    }

    fn tree() -> Tree {
        Tree::new(GUEST, Permissions::new(0, Right::None))
    }

    fn write(value: &[u8]) -> Change {
        Change::Write(value.into())
    }

    #[test]
    fn a_copy_keeps_what_it_saw() {
        let mut tree = tree();
        tree.change(&path("/a/b"), write(b"1"), Side::Guest, 1);
        let copy = tree.clone();
        tree.change(&path("/a/b"), write(b"2"), Side::Guest, 2);
        tree.change(&path("/a/c"), write(b"3"), Side::Guest, 3);
        let seen = copy.find(&path("/a/b")).unwrap();
        assert_eq!((&*seen.value, seen.changed), (b"1".as_slice(), 1));
        assert!(copy.find(&path("/a/c")).is_none());
        let (old, new) = (copy.find(&path("/a")).unwrap(), tree.find(&path("/a")).unwrap());
        assert_eq!((old.changed, old.listed), (1, 1));
        assert_eq!((new.changed, new.listed), (1, 3), "a new name is a change of the list, not of the value");
    }

    #[test]
    fn the_root_cannot_be_removed() {
        let mut tree = tree();
        tree.change(&path("/a"), Change::Make, Side::Host, 1);
        tree.change(&path("/"), Change::Remove, Side::Host, 2);
        assert!(tree.find(&path("/a")).is_some());
    }

    fn counted(name: &str, node: &Node) -> Usage {
        let mut usage = Usage::default();
        if node.permissions.owner() == GUEST {
            usage.add(Usage::of(name, node));
        }
        node.children.iter().for_each(|(name, child)| usage.add(counted(name, child)));
        usage
    }

    proptest! {
        /// What is counted is what is there, and what was foretold is what came.
        #[test]
        fn usage_is_exact(steps in prop::collection::vec((0..6u8, "/[ab](/[ab]){0,3}", 0..40usize, any::<bool>()), 1..60)) {
            let mut tree = tree();
            for (stamp, (what, text, length, guest)) in steps.into_iter().enumerate() {
                let (by, owner) = if guest { (Side::Guest, GUEST) } else { (Side::Host, 0) };
                let change = match what {
                    0 => Change::Remove,
                    1 => Change::Make,
                    2 => Change::Permit(Permissions::new(owner, Right::Read).but(3, Right::None)),
                    _ => write(&alloc::vec![b'x'; length]),
                };
                let foretold = tree.usage_after(&path(&text), &change);
                let certain = guest && matches!(change, Change::Make | Change::Write(_));
                tree.change(&path(&text), change, by, stamp as u64);
                prop_assert_eq!(tree.usage, counted("", &tree.root));
                prop_assert!(!certain || foretold == tree.usage);
            }
        }
    }
}
