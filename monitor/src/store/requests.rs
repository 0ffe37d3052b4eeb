//! What the guest asks for: each request judged, carried out, and answered.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::message::{Header, PAYLOAD_MAX, Refusal, exactly, kind, path_and_value, strings};
use super::path::Path;
use super::permissions::{Permissions, Right};
use super::transactions::{Look, Transaction};
use super::tree::{Change, Node, Side, Tree, Usage};
use super::{Store, home_of, quota};

/// What is said when there is nothing to say.
const DONE: &[u8] = b"OK\0";

impl Store {
    /// Answers a request.
    pub(super) fn answer(&mut self, header: Header, payload: &[u8]) -> (Header, Vec<u8>) {
        match self.carry_out(header, payload) {
            Ok(answer) => (header, answer),
            Err(refusal) => {
                let text = format!("{}\0", refusal.name());
                (Header { kind: kind::ERROR, ..header }, text.into_bytes())
            }
        }
    }

    fn carry_out(&mut self, header: Header, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let tx = header.transaction;
        if tx != 0 && !self.transactions.contains_key(&tx) {
            return Err(Refusal::Missing);
        }
        match header.kind {
            kind::READ => {
                let path = self.path(payload)?;
                Ok(self.look(tx, &path, Look::Node)?.value.to_vec())
            }
            kind::DIRECTORY => {
                let path = self.path(payload)?;
                let list = listing(self.look(tx, &path, Look::List)?);
                if list.len() > PAYLOAD_MAX { Err(Refusal::TooBig) } else { Ok(list) }
            }
            kind::DIRECTORY_PART => {
                let [path, offset] = exactly(payload)?;
                let path = Path::of_guest(path, &self.home)?;
                let offset = offset.parse().map_err(|_| Refusal::Invalid)?;
                part(self.look(tx, &path, Look::List)?, offset)
            }
            kind::GET_PERMS => {
                let path = self.path(payload)?;
                Ok(self.look(tx, &path, Look::Node)?.permissions.encode().into_bytes())
            }
            kind::WRITE => {
                let (path, value) = path_and_value(payload)?;
                let path = Path::of_guest(path, &self.home)?;
                self.change(tx, &path, Change::Write(value.into()))
            }
            kind::MKDIR => self.change(tx, &self.path(payload)?, Change::Make),
            kind::RM => self.change(tx, &self.path(payload)?, Change::Remove),
            kind::SET_PERMS => {
                let mut list = strings(payload)?;
                let path = Path::of_guest(list.next().ok_or(Refusal::Invalid)?, &self.home)?;
                self.change(tx, &path, Change::Permit(Permissions::parse(list)?))
            }
            kind::WATCH => {
                let [text, token] = exactly(payload)?;
                let path = Path::to_watch(text, &self.home)?;
                if self.watches.count() >= quota::WATCHES {
                    return Err(Refusal::TooBig);
                }
                self.afford(text.len() + token.len())?;
                self.watches.set(path, token, !text.starts_with(['/', '@']))?;
                Ok(DONE.into())
            }
            kind::UNWATCH => {
                let [text, token] = exactly(payload)?;
                self.watches.unset(&Path::to_watch(text, &self.home)?, token)?;
                Ok(DONE.into())
            }
            kind::RESET_WATCHES => {
                self.forget();
                Ok(DONE.into())
            }
            kind::TRANSACTION_START if tx != 0 => Err(Refusal::TooMany),
            kind::TRANSACTION_START => self.begin(),
            kind::TRANSACTION_END => {
                let commit = match exactly(payload)? {
                    ["T"] => true,
                    ["F"] => false,
                    _ => return Err(Refusal::Invalid),
                };
                self.end(tx, commit)
            }
            kind::GET_DOMAIN_PATH => {
                let [id] = exactly(payload)?;
                Ok(format!("{}\0", home_of(id.parse().map_err(|_| Refusal::Invalid)?)).into_bytes())
            }
            kind::INTRODUCE | kind::RELEASE | kind::IS_DOMAIN_INTRODUCED | kind::RESUME | kind::SET_TARGET => {
                Err(Refusal::Denied)
            }
            _ => Err(Refusal::Unknown),
        }
    }

    /// A payload that is a path.
    fn path(&self, payload: &[u8]) -> Result<Path, Refusal> {
        let [text] = exactly(payload)?;
        Path::of_guest(text, &self.home)
    }

    /// Whether the guest can have so many bytes more.
    fn afford(&self, bytes: usize) -> Result<(), Refusal> {
        if self.tree.usage().bytes + self.beside() + bytes > quota::BYTES { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    /// A node that the guest may read.
    fn look(&mut self, tx: u32, path: &Path, look: Look) -> Result<&Node, Refusal> {
        if tx != 0 {
            self.afford(path.as_str().len())?;
        }
        let tree = match self.transactions.get_mut(&tx) {
            Some(transaction) => {
                transaction.look_upwards(path);
                transaction.look(path, look);
                &transaction.tree
            }
            None => &self.tree,
        };
        may(tree, self.guest, path, Right::Read)
    }

    fn change(&mut self, tx: u32, path: &Path, change: Change) -> Result<Vec<u8>, Refusal> {
        let (guest, beside) = (self.guest, self.beside());
        if tx != 0 {
            self.afford(2 * path.as_str().len())?;
        }
        let mut transaction = self.transactions.get_mut(&tx);
        if let Some(transaction) = &mut transaction {
            // What is refused depends on it, too.
            transaction.look_upwards(path);
        }
        let tree = transaction.as_ref().map_or(&self.tree, |transaction| &transaction.tree);
        let wanted = judge(tree, guest, path, &change)?;
        let after = tree.usage_after(path, &change);
        if wanted && grows(after, tree.usage(), beside) {
            return Err(Refusal::NoSpace);
        }
        let removed = matches!(change, Change::Remove);
        self.stamp += 1;
        match transaction {
            _ if !wanted => {}
            Some(transaction) => transaction.change(path, change, self.stamp),
            None => {
                self.tree.change(path, change, Side::Guest, self.stamp);
                self.fire(path, removed, Side::Guest);
            }
        }
        Ok(DONE.into())
    }

    fn begin(&mut self) -> Result<Vec<u8>, Refusal> {
        if self.transactions.len() >= quota::TRANSACTIONS {
            return Err(Refusal::TooMany);
        }
        // There are far fewer than numbers.
        loop {
            self.last_transaction = self.last_transaction.wrapping_add(1).max(1);
            if !self.transactions.contains_key(&self.last_transaction) {
                break;
            }
        }
        self.transactions.insert(self.last_transaction, Transaction::new(&self.tree));
        Ok(format!("{}\0", self.last_transaction).into_bytes())
    }

    fn end(&mut self, tx: u32, commit: bool) -> Result<Vec<u8>, Refusal> {
        let transaction = self.transactions.remove(&tx).ok_or(Refusal::Missing)?;
        if commit && !transaction.is_idle() {
            self.stamp += 1;
            let (tree, changed) = transaction.commit(&self.tree, self.stamp)?;
            if grows(tree.usage(), self.tree.usage(), self.beside()) {
                return Err(Refusal::NoSpace);
            }
            self.tree = tree;
            for (path, removed) in changed {
                self.fire(&path, removed, Side::Guest);
            }
        }
        Ok(DONE.into())
    }
}

/// Whether the guest would come to use more than it may, `beside` being what it holds beside its nodes.
fn grows(after: Usage, before: Usage, beside: usize) -> bool {
    let too_many = after.nodes > before.nodes && after.nodes > quota::NODES;
    too_many || (after.bytes > before.bytes && after.bytes + beside > quota::BYTES)
}

/// A node with which the guest may do this. That there is none is said only to who may read where it would be.
fn may<'t>(tree: &'t Tree, guest: u16, path: &Path, right: Right) -> Result<&'t Node, Refusal> {
    let (node, depth) = tree.nearest(path);
    let found = depth == path.names().count();
    match node.permissions.allow(guest, right) {
        true if found => Ok(node),
        true => Err(Refusal::Missing),
        false => Err(Refusal::Denied),
    }
}

/// Whether the guest may make a change; `false` if there is nothing to do.
fn judge(tree: &Tree, guest: u16, path: &Path, change: &Change) -> Result<bool, Refusal> {
    let found = may(tree, guest, path, Right::Write);
    match change {
        // What is missing is made where the guest may write.
        Change::Write(_) | Change::Make if found.as_ref().is_err_and(|refusal| *refusal == Refusal::Missing) => {
            Ok(true)
        }
        Change::Make => found.map(|_| false),
        Change::Write(_) => found.map(|_| true),
        Change::Remove => {
            let parent = path.parent().ok_or(Refusal::Invalid)?;
            match found {
                Err(Refusal::Missing) if tree.find(&parent).is_some() => Ok(false),
                other => other.map(|_| true),
            }
        }
        Change::Permit(list) => {
            let node = found?;
            if node.permissions.owner() != guest {
                return Err(Refusal::Denied);
            }
            if list.owner() != guest {
                return Err(Refusal::NotPermitted);
            }
            Ok(true)
        }
    }
}

/// The names below a node.
fn listing(node: &Node) -> Vec<u8> {
    let mut list = Vec::new();
    for name in node.children.keys() {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    list
}

/// As many names as fit, from an offset in the whole list; before them the number of the list's last change, after the last
/// one of all an empty one.
fn part(node: &Node, offset: usize) -> Result<Vec<u8>, Refusal> {
    let mut answer = node.listed.to_string().into_bytes();
    answer.push(0);
    let mut at = 0;
    for name in node.children.keys() {
        if at >= offset {
            if answer.len() + name.len() + 2 > PAYLOAD_MAX {
                return Ok(answer);
            }
            answer.extend_from_slice(name.as_bytes());
            answer.push(0);
        }
        at += name.len() + 1;
        if at > offset && at - name.len() - 1 < offset {
            // In the middle of a name.
            return Err(Refusal::Invalid);
        }
    }
    answer.push(0);
    Ok(answer)
}
