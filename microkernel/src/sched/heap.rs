//! A binary heap of vCPUs that knows where each of them is, so that any can leave it.
//!
//! The keys lie in the entities, one for the run queues and one for the timers: a vCPU can be in one heap of each sort.

use super::VcpuId;
use super::entity::Entities;

/// Sort of heap: ordered by virtual time.
pub const RUN: usize = 0;
/// Sort of heap: ordered by the time at which something is due.
pub const TIMER: usize = 1;

/// Position of a vCPU that is in no heap of this sort.
pub const NOWHERE: u16 = u16::MAX;

const MASK: usize = super::MAX_VCPUS - 1;

/// What a heap needs to know about a member.
#[derive(Clone, Copy)]
pub struct Node {
    pub key: u64,
    pub at: u16,
}

/// Members with the smallest key first. `SORT` is [`RUN`] or [`TIMER`].
pub struct Heap<const SORT: usize> {
    len: u16,
    slots: [u16; super::MAX_VCPUS],
}

impl<const SORT: usize> Heap<SORT> {
    pub const fn new() -> Self {
        Heap { len: 0, slots: [0; super::MAX_VCPUS] }
    }

    pub fn head(&self) -> Option<VcpuId> {
        (self.len > 0).then_some(VcpuId(self.slots[0]))
    }

    /// All members, in no order that means anything.
    pub fn members(&self) -> impl Iterator<Item = VcpuId> {
        self.slots.iter().take(self.len as usize).map(|&id| VcpuId(id))
    }

    #[inline]
    pub fn push(&mut self, entities: &mut Entities, id: VcpuId) {
        let at = self.len as usize;
        self.len += 1;
        if at == 0 { self.set(entities, 0, id) } else { self.settle(entities, at, id) }
    }

    #[inline]
    pub fn remove(&mut self, entities: &mut Entities, id: VcpuId) {
        let at = core::mem::replace(&mut entities[id].node[SORT].at, NOWHERE) as usize;
        self.len -= 1;
        let hole_at_end = at == self.len as usize;
        if !hole_at_end {
            self.settle(entities, at, VcpuId(self.slots[self.len as usize & MASK]));
        }
    }

    /// Puts `id` where it belongs on the path through the free slot `at`.
    fn settle(&mut self, entities: &mut Entities, mut at: usize, id: VcpuId) {
        let key = entities[id].node[SORT].key;
        let len = self.len as usize;
        while at > 0 {
            let parent = (at - 1) / 2;
            let above = VcpuId(self.slots[parent & MASK]);
            if entities[above].node[SORT].key <= key {
                break;
            }
            self.set(entities, at, above);
            at = parent;
        }
        while 2 * at + 1 < len {
            let mut child = 2 * at + 1;
            let mut below = VcpuId(self.slots[child & MASK]);
            if child + 1 < len {
                let other = VcpuId(self.slots[(child + 1) & MASK]);
                if entities[other].node[SORT].key < entities[below].node[SORT].key {
                    (child, below) = (child + 1, other);
                }
            }
            if key <= entities[below].node[SORT].key {
                break;
            }
            self.set(entities, at, below);
            at = child;
        }
        self.set(entities, at, id);
    }

    fn set(&mut self, entities: &mut Entities, at: usize, id: VcpuId) {
        self.slots[at & MASK] = id.0;
        entities[id].node[SORT].at = at as u16;
    }
}
