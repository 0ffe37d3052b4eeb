//! A split virtqueue (Virtio 1.2, section 2.7), driver's side.
//!
//! Descriptors of a chain are taken from a free list that lives in private memory: what the device writes into the queue can name a
//! chain, but never lead the driver along it.

use core::cell::Cell;

use protocol::ring::Shared;

/// Memory that a device reaches too.
pub trait Dma: Shared {
    /// Reads 2 bytes at an even offset, acquire.
    fn load_u16(&self, offset: usize) -> u16;
    /// Writes 2 bytes at an even offset, release.
    fn store_u16(&self, offset: usize, value: u16);
    /// The address the device uses for the byte at `offset`. Contiguous over the whole area.
    fn device_address(&self, offset: usize) -> u64;
}

/// Largest queue, in descriptors; a power of two.
pub const SIZE_MAX: usize = 256;

/// Where the descriptor table lies in a queue's area, and the bytes of a descriptor.
const DESCRIPTORS: usize = 0;
const DESCRIPTOR: usize = 16;
/// Descriptor flag: the chain goes on.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
const DEVICE_WRITES: u16 = 2;
/// In the available ring: no interrupt, please.
const NO_INTERRUPT: u16 = 1;
/// In the used ring: no notification, please.
const NO_NOTIFY: u16 = 1;

/// A piece of memory for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Device address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it; else it reads it.
    pub device_writes: bool,
}

/// The device broke the rules of the queue: it has to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// It used more chains than are under way.
    UsedIndex {
        /// What it wrote.
        found: u16,
        /// What the driver had seen.
        own: u16,
    },
    /// It used a chain that is not under way.
    NotOurs {
        /// The descriptor it named.
        head: u32,
    },
}

/// Where the parts of a queue of `size` descriptors lie in its area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Descriptor table.
    pub descriptors: usize,
    /// Available ring.
    pub available: usize,
    /// Used ring.
    pub used: usize,
    /// Bytes in all.
    pub bytes: usize,
}

/// Lays a queue out.
pub const fn places(size: u16) -> Places {
    let size = size as usize;
    let available = DESCRIPTORS + size * DESCRIPTOR;
    let used = (available + 6 + size * 2).next_multiple_of(64);
    Places { descriptors: DESCRIPTORS, available, used, bytes: used + 6 + size * 8 }
}

/// A chain that the device has.
#[derive(Clone, Copy, Debug)]
struct UnderWay<T> {
    tag: T,
    length: u16,
    last: u8,
}

/// A queue whose chains carry a tag of type `T`.
#[derive(Debug)]
pub struct Queue<T> {
    size: u16,
    places: Places,
    /// Per descriptor: the next one of the free list or of its chain.
    next: [u8; SIZE_MAX],
    /// Per descriptor: the chain that begins there.
    chains: [Option<UnderWay<T>>; SIZE_MAX],
    free: u8,
    free_count: u16,
    available: u16,
    announced: Cell<u16>,
    used: u16,
}

impl<T: Copy> Queue<T> {
    /// An empty queue of `size` descriptors (a power of two up to [`SIZE_MAX`]) over zeroed memory.
    pub fn new(size: u16) -> Option<Queue<T>> {
        if !size.is_power_of_two() || size as usize > SIZE_MAX {
            return None;
        }
        Some(Queue {
            size,
            places: places(size),
            next: core::array::from_fn(|at| (at as u8).wrapping_add(1)),
            chains: [None; SIZE_MAX],
            free: 0,
            free_count: size,
            available: 0,
            announced: Cell::new(0),
            used: 0,
        })
    }

    /// Descriptors that are free.
    pub const fn room(&self) -> usize {
        self.free_count as usize
    }

    /// Chains under way.
    pub fn in_flight(&self) -> usize {
        self.chains.iter().flatten().count()
    }

    /// Adds a chain without telling the device; `false` if it does not fit.
    pub fn add(&mut self, memory: &impl Dma, buffers: &[Buffer], tag: T) -> bool {
        let Some((last, others)) = buffers.split_last() else { return false };
        let Some(mut chain) = self.begin(memory) else { return false };
        let fits = others.iter().all(|&buffer| chain.push(buffer));
        if fits {
            chain.end(*last, tag);
        }
        fits
    }

    /// Begins a chain, which counts once it has an end; `None` if no descriptor is free.
    #[inline(always)]
    pub fn begin<'q, D: Dma>(&'q mut self, memory: &'q D) -> Option<Chain<'q, T, D>> {
        (self.free_count > 0).then_some(Chain { at: self.free, length: 0, queue: self, memory })
    }

    /// Shows the device all chains added; `true` if it wants to be notified.
    #[must_use]
    pub fn publish(&self, memory: &impl Dma) -> bool {
        if self.announced.replace(self.available) == self.available {
            return false;
        }
        memory.store_u16(self.places.available + 2, self.available);
        memory.fence();
        memory.load_u16(self.places.used) & NO_NOTIFY == 0
    }

    /// Takes a chain the device is done with: its tag, and how many bytes the device says it wrote.
    pub fn take(&mut self, memory: &impl Dma) -> Result<Option<(T, u32)>, DeviceError> {
        let found = memory.load_u16(self.places.used + 2);
        let done = found.wrapping_sub(self.used);
        if done == 0 {
            return Ok(None);
        }
        if done > self.size - self.free_count {
            return Err(DeviceError::UsedIndex { found, own: self.used });
        }
        let at = self.places.used + 4 + (self.used & (self.size - 1)) as usize * 8;
        let (head, written) = (memory.load_u32(at), memory.load_u32(at + 4));
        let chain = self.chains.get_mut(head as usize).and_then(Option::take);
        let UnderWay { tag, length, last } = chain.ok_or(DeviceError::NotOurs { head })?;
        self.next[last as usize] = self.free;
        self.free = head as u8;
        self.free_count += length;
        self.used = self.used.wrapping_add(1);
        Ok(Some((tag, written)))
    }

    /// Whether [`Queue::take`] would give a chain.
    pub fn is_done(&self, memory: &impl Dma) -> bool {
        memory.load_u16(self.places.used + 2) != self.used
    }

    /// Asks the device for no interrupts.
    pub fn disarm(&self, memory: &impl Dma) {
        memory.store_u16(self.places.available, NO_INTERRUPT);
    }

    /// Asks the device for an interrupt, and looks once more: `true` if something is done already, so do not sleep.
    pub fn rearm(&self, memory: &impl Dma) -> bool {
        memory.store_u16(self.places.available, 0);
        memory.fence();
        self.is_done(memory)
    }
}

/// A chain that is being added. The device does not see it, and dropping it leaves nothing behind.
pub struct Chain<'q, T, D> {
    queue: &'q mut Queue<T>,
    memory: &'q D,
    /// Where the next buffer goes.
    at: u8,
    length: u16,
}

impl<T: Copy, D: Dma> Chain<'_, T, D> {
    /// A number below the queue's size that no other chain under way has.
    pub const fn place(&self) -> u8 {
        self.queue.free
    }

    /// Adds a buffer that is not the last; `false` if there is no room for it and the last one.
    #[inline(always)]
    #[must_use]
    pub fn push(&mut self, buffer: Buffer) -> bool {
        let fits = self.length + 1 < self.queue.free_count;
        if fits {
            let next = self.queue.next[self.at as usize];
            self.write(buffer, NEXT, next);
            self.at = next;
            self.length += 1;
        }
        fits
    }

    /// Adds the last buffer, and the chain to the queue.
    #[inline(always)]
    pub fn end(self, buffer: Buffer, tag: T) {
        self.write(buffer, 0, 0);
        let Chain { queue, memory, at: last, length } = self;
        let (head, length) = (queue.free, length + 1);
        queue.free = queue.next[last as usize];
        queue.free_count -= length;
        queue.chains[head as usize] = Some(UnderWay { tag, length, last });
        let slot = queue.available & (queue.size - 1);
        memory.store_u16(queue.places.available + 4 + slot as usize * 2, head.into());
        queue.available = queue.available.wrapping_add(1);
    }

    #[inline(always)]
    fn write(&self, buffer: Buffer, flags: u16, next: u8) {
        let flags = flags | if buffer.device_writes { DEVICE_WRITES } else { 0 };
        let rest = u64::from(buffer.length) | u64::from(flags) << 32 | u64::from(next) << 48;
        let mut raw = [0; DESCRIPTOR];
        raw[..8].copy_from_slice(&buffer.address.to_le_bytes());
        raw[8..].copy_from_slice(&rest.to_le_bytes());
        self.memory.write(DESCRIPTORS + self.at as usize * DESCRIPTOR, &raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    struct Area(RefCell<Vec<u8>>);

    impl Area {
        fn half(&self, at: usize) -> u16 {
            u16::from_le_bytes(self.0.borrow()[at..at + 2].try_into().unwrap())
        }
        fn set(&self, at: usize, bytes: &[u8]) {
            self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl Shared for Area {
        fn load_u32(&self, offset: usize) -> u32 {
            u32::from_le_bytes(self.0.borrow()[offset..offset + 4].try_into().unwrap())
        }
        fn store_u32(&self, offset: usize, value: u32) {
            self.set(offset, &value.to_le_bytes());
        }
        fn read(&self, offset: usize, out: &mut [u8]) {
            out.copy_from_slice(&self.0.borrow()[offset..offset + out.len()]);
        }
        fn write(&self, offset: usize, bytes: &[u8]) {
            self.set(offset, bytes);
        }
        fn fence(&self) {}
    }

    impl Dma for Area {
        fn load_u16(&self, offset: usize) -> u16 {
            self.half(offset)
        }
        fn store_u16(&self, offset: usize, value: u16) {
            self.set(offset, &value.to_le_bytes());
        }
        fn device_address(&self, offset: usize) -> u64 {
            0x10_0000 + offset as u64
        }
    }

    const SIZE: u16 = 8;

    fn fresh() -> (Area, Queue<u32>) {
        (Area(RefCell::new(std::vec![0; places(SIZE).bytes])), Queue::new(SIZE).unwrap())
    }

    /// Address, length and direction of each buffer.
    type Chain = Vec<(u64, u32, u16)>;

    /// The device's view: follows every chain it was shown, and can complete them in any order.
    #[derive(Default)]
    struct Device {
        seen: u16,
        used: u16,
        chains: Vec<(u16, Chain)>,
    }

    impl Device {
        fn look(&mut self, area: &Area) {
            let places = places(SIZE);
            while self.seen != area.half(places.available + 2) {
                let head = area.half(places.available + 4 + (self.seen % SIZE) as usize * 2);
                let (mut at, mut chain) = (head, Vec::new());
                loop {
                    let base = at as usize * 16;
                    let address = u64::from_le_bytes(area.0.borrow()[base..base + 8].try_into().unwrap());
                    let flags = area.half(base + 12);
                    chain.push((address, area.load_u32(base + 8), flags & DEVICE_WRITES));
                    at = area.half(base + 14);
                    if flags & NEXT == 0 {
                        break;
                    }
                }
                self.chains.push((head, chain));
                self.seen = self.seen.wrapping_add(1);
            }
        }

        fn complete(&mut self, area: &Area, pick: usize) -> Chain {
            let (head, chain) = self.chains.remove(pick);
            let slot = places(SIZE).used + 4 + (self.used % SIZE) as usize * 8;
            area.set(slot, &(head as u32).to_le_bytes());
            area.set(slot + 4, &(chain.len() as u32).to_le_bytes());
            self.used = self.used.wrapping_add(1);
            area.store_u16(places(SIZE).used + 2, self.used);
            chain
        }
    }

    proptest! {
        #[test]
        fn chains_arrive_whole_and_come_back_once(steps in prop::collection::vec((0u8..4, 1usize..5, any::<prop::sample::Index>()), 1..300)) {
            let (area, mut queue) = fresh();
            let (mut device, mut sent, mut tag) = (Device::default(), BTreeMap::new(), 0u32);
            let mut completed = Vec::new();
            for (step, length, pick) in steps {
                match step {
                    0 | 1 => {
                        let buffers: Vec<Buffer> = (0..length)
                            .map(|i| Buffer { address: tag as u64 * 100 + i as u64, length: i as u32, device_writes: i % 2 == 1 })
                            .collect();
                        let room = queue.room();
                        prop_assert_eq!(queue.add(&area, &buffers, tag), length <= room);
                        if length <= room {
                            sent.insert(tag, buffers);
                        }
                        tag += 1;
                    }
                    2 => {
                        let _ = queue.publish(&area);
                        device.look(&area);
                        if !device.chains.is_empty() {
                            let pick = pick.index(device.chains.len());
                            completed.push(device.complete(&area, pick));
                        }
                    }
                    _ => {
                        if let Some((tag, written)) = queue.take(&area).unwrap() {
                            let chain = completed.remove(0);
                            let buffers = sent.remove(&tag).unwrap();
                            prop_assert_eq!(written as usize, buffers.len());
                            let wanted: Vec<_> = buffers.iter()
                                .map(|b| (b.address, b.length, if b.device_writes { DEVICE_WRITES } else { 0 })).collect();
                            prop_assert_eq!(chain, wanted);
                        }
                    }
                }
                let held: usize = sent.values().map(Vec::len).sum();
                prop_assert_eq!(held + queue.room(), SIZE as usize);
            }
        }
    }

    #[test]
    fn a_lying_device_is_named() {
        let buffer = Buffer { address: 0, length: 1, device_writes: false };
        let (area, mut queue) = fresh();
        assert!(queue.add(&area, &[buffer], 1));
        assert!(queue.publish(&area) && !queue.publish(&area));
        area.store_u16(places(SIZE).used + 2, 5);
        assert_eq!(queue.take(&area), Err(DeviceError::UsedIndex { found: 5, own: 0 }));
        area.store_u16(places(SIZE).used + 2, 1);
        for head in [3, 8, 300, u32::MAX] {
            area.set(places(SIZE).used + 4, &head.to_le_bytes());
            assert_eq!(queue.take(&area), Err(DeviceError::NotOurs { head }));
        }
    }
}
