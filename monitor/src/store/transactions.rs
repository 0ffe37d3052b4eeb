//! Transactions: a copy of the tree for each, and what it depends on.
//!
//! A transaction sees the tree as it was when it began. At its end what it changed is done to the tree as it is then, all or
//! nothing, unless something that it looked at or changed is not the same any more: the guest has to try again. What others did
//! elsewhere is no conflict.

use alloc::collections::{BTreeMap, BTreeSet};

use super::message::Refusal;
use super::path::Path;
use super::tree::{Change, Side, Tree};

/// Bytes that a path costs that is remembered, beside itself, roughly.
const PATH_COST: usize = 64;

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Whether there is a node, its value, who may do what with it.
    Node,
    /// The names below it.
    List,
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The tree as it was.
    base: Tree,
    /// The tree as the transaction sees it.
    pub tree: Tree,
    looked: BTreeSet<(Path, Look)>,
    /// What was changed, and whether what had been there was removed first.
    changed: BTreeMap<Path, bool>,
    bytes: usize,
}

impl Transaction {
    /// Begins with the tree as it is.
    pub fn new(tree: &Tree) -> Transaction {
        let (base, tree) = (tree.clone(), tree.clone());
        Transaction { base, tree, looked: BTreeSet::new(), changed: BTreeMap::new(), bytes: 0 }
    }

    /// Bytes it takes beside the tree as it is now: what it remembers, what it made, and the tree as it was, if that is another one.
    pub fn bytes(&self, now: &Tree) -> usize {
        let made = self.tree.usage().bytes.saturating_sub(self.base.usage().bytes);
        let held = if self.base.is_same(now) { 0 } else { self.base.usage().bytes };
        self.bytes + made + held
    }

    /// Remembers what was looked at.
    pub fn look(&mut self, path: &Path, look: Look) {
        if self.looked.insert((path.clone(), look)) {
            self.bytes += PATH_COST + path.as_str().len();
        }
    }

    /// Remembers what has to be known for making a node: that it is not there, nor what is missing above it, and who may do
    /// what with the nearest node that is.
    pub fn look_upwards(&mut self, path: &Path) {
        let mut next = Some(path.clone());
        while let Some(path) = next {
            self.look(&path, Look::Node);
            next = if self.tree.find(&path).is_some() { None } else { path.parent() };
        }
    }

    /// Changes the tree as the transaction sees it.
    pub fn change(&mut self, path: &Path, change: Change, stamp: u64) {
        if matches!(change, Change::Remove) {
            let below = self.changed.range(path.clone()..).map(|(path, _)| path);
            let inside: alloc::vec::Vec<Path> = below.filter(|other| other.is_within(path)).cloned().collect();
            inside.iter().for_each(|path| self.forget(path));
            if self.base.find(path).is_some() {
                self.note(path, true);
            }
        } else {
            self.note_made(path);
        }
        self.tree.change(path, change, Side::Guest, stamp);
    }

    /// Notes a node that is changed, and those above it that are made with it: they may stay when it does not.
    fn note_made(&mut self, path: &Path) {
        let mut next = Some(path.clone());
        while let Some(path) = next {
            if !self.changed.contains_key(&path) {
                self.note(&path, false);
            }
            let parent = if self.tree.find(&path).is_some() { None } else { path.parent() };
            next = parent.filter(|parent| self.tree.find(parent).is_none());
        }
    }

    fn note(&mut self, path: &Path, removed: bool) {
        self.bytes += PATH_COST + path.as_str().len();
        self.changed.insert(path.clone(), removed);
    }

    fn forget(&mut self, path: &Path) {
        if self.changed.remove(path).is_some() {
            self.bytes -= PATH_COST + path.as_str().len();
        }
    }

    /// Whether it changed nothing. It then has seen the tree as it was at one moment, which is all it could ask for.
    pub fn is_idle(&self) -> bool {
        self.changed.is_empty()
    }

    /// Does to `tree` what the transaction did; gives the tree after it, and what was changed (and whether it was removed).
    pub fn commit(self, tree: &Tree, stamp: u64) -> Result<(Tree, BTreeMap<Path, bool>), Refusal> {
        let seen = |tree: &Tree, path: &Path, look: Look| {
            tree.find(path).map(|node| if look == Look::Node { node.changed } else { node.listed })
        };
        if self.looked.iter().any(|(path, look)| seen(&self.base, path, *look) != seen(tree, path, *look)) {
            return Err(Refusal::Again);
        }
        let mut after = tree.clone();
        // A directory comes before what is in it.
        for (path, &removed) in &self.changed {
            if removed {
                after.change(path, Change::Remove, Side::Guest, stamp);
            }
            if let Some(node) = self.tree.find(path) {
                after.change(path, Change::Write(node.value.clone()), Side::Guest, stamp);
                after.change(path, Change::Permit(node.permissions.clone()), Side::Guest, stamp);
            }
        }
        Ok((after, self.changed))
    }
}
