//! Sorted lists over a fixed set of nodes: run queues and timers.
//!
//! A vCPU is in one list at the most - it waits for a CPU or for a time, never for both - so one node each is enough. Lists are
//! rings through a node of their own, so that neither insertion nor removal has an edge to look after.

use super::{MAX_CPUS, MAX_VCPUS, VcpuId};
use crate::table::Table;

/// Nodes: of the vCPUs, then of the lists themselves.
const NODES: usize = (MAX_VCPUS + 2 + MAX_CPUS).next_power_of_two();

#[derive(Clone, Copy)]
struct Node {
    key: u64,
    next: u16,
    /// Itself while in no list, as `next`.
    before: u16,
}

/// A list, by its own node.
#[derive(Clone, Copy)]
pub struct List(u16);

/// The vCPUs of a class that wait for a CPU, by virtual time.
pub const fn queue(class: u8) -> List {
    List(MAX_VCPUS as u16 + (class & 1) as u16)
}

/// The vCPUs whose deadline `cpu` looks after, by deadline.
pub const fn timers(cpu: usize) -> List {
    List((MAX_VCPUS + 2 + cpu % MAX_CPUS) as u16)
}

/// All nodes.
pub struct Lists(Table<Node, NODES>);

impl Lists {
    pub const fn new() -> Self {
        let mut nodes = [Node { key: 0, next: 0, before: 0 }; NODES];
        let mut at = 0;
        while at < NODES {
            (nodes[at].next, nodes[at].before) = (at as u16, at as u16);
            at += 1;
        }
        Lists(Table(nodes))
    }

    /// Inserts behind all that have the same key or a smaller one.
    #[inline(always)]
    pub fn insert(&mut self, List(list): List, VcpuId(id): VcpuId, key: u64) {
        let mut before = self.0[list].before;
        while before != list && self.0[before].key > key {
            before = self.0[before].before;
        }
        let next = core::mem::replace(&mut self.0[before].next, id);
        self.0[next].before = id;
        self.0[id] = Node { key, next, before };
    }

    /// Takes a vCPU out of the list it is in, if it is in one.
    #[inline]
    pub fn remove(&mut self, VcpuId(id): VcpuId) {
        let Node { next, before, .. } = self.0[id];
        self.0[before].next = next;
        self.0[next].before = before;
        (self.0[id].next, self.0[id].before) = (id, id);
    }

    /// Whether anybody waits for a CPU.
    #[inline]
    pub fn contended(&self) -> bool {
        let waits = |List(queue): List| self.0[queue].next != queue;
        waits(queue(0)) | waits(queue(1))
    }

    /// The members with their keys, smallest first.
    #[inline]
    pub fn members(&self, List(list): List) -> impl Iterator<Item = (VcpuId, u64)> {
        let mut at = list;
        core::iter::from_fn(move || {
            at = self.0[at].next;
            (at != list).then(|| (VcpuId(at), self.0[at].key))
        })
    }
}
