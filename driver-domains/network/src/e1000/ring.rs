//! A ring of descriptors in their oldest format (82540EM manual, sections 3.2.3 and 3.3.3).
//!
//! Which buffer a descriptor holds is remembered here: what the device writes into the ring can end a turn of it, but never lead
//! to another buffer.

use alloc::boxed::Box;

use super::FRAMES;
use crate::wire::Buffers;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;
/// In the last word of a descriptor: the device is done with it.
const DONE: u32 = 1;

/// A ring. One descriptor is always free: a full ring would look like an empty one.
#[derive(Debug)]
pub struct Ring {
    /// Where it lies in the driver's memory.
    base: usize,
    /// The descriptors between `head` and `tail` are with the device.
    head: usize,
    tail: usize,
    /// The buffers that they hold.
    buffers: Box<[u32; FRAMES]>,
}

/// A buffer that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Where it lies.
    pub at: u32,
    /// Bytes that the device wrote, if it did, as it says.
    pub length: u16,
    /// What the device says about it: status, then errors.
    pub says: u16,
}

impl Ring {
    /// An empty ring at `base`.
    pub fn new(base: usize) -> Ring {
        Ring { base, head: 0, tail: 0, buffers: Box::new([0; FRAMES]) }
    }

    /// Buffers with the device.
    pub const fn used(&self) -> usize {
        (self.tail + FRAMES - self.head) % FRAMES
    }

    /// Empties it: the device has forgotten it.
    pub fn clear(&mut self) {
        (self.head, self.tail) = (0, 0);
    }

    /// The first descriptor that is not with the device, which is what the device is told.
    pub const fn tail(&self) -> u32 {
        self.tail as u32
    }

    /// Adds a buffer at `at`, of `length` bytes, with a command; `false` if there is no room.
    pub fn add<D: Buffers>(&mut self, memory: &D, at: u32, length: u16, command: u8) -> bool {
        if self.used() == FRAMES - 1 {
            return false;
        }
        let descriptor = self.base + self.tail * DESCRIPTOR;
        let address = memory.device_address(at as usize);
        memory.store_u32(descriptor, address as u32);
        memory.store_u32(descriptor + 4, (address >> 32) as u32);
        memory.store_u32(descriptor + 8, u32::from(length) | u32::from(command) << 24);
        memory.store_u32(descriptor + 12, 0);
        self.buffers[self.tail] = at;
        self.tail = (self.tail + 1) % FRAMES;
        true
    }

    /// Whether the device is done with the oldest.
    pub fn is_done<D: Buffers>(&self, memory: &D) -> bool {
        self.used() > 0 && memory.load_u32(self.base + self.head * DESCRIPTOR + 12) & DONE != 0
    }

    /// Takes the oldest back, if the device is done with it.
    pub fn take<D: Buffers>(&mut self, memory: &D) -> Option<Done> {
        if !self.is_done(memory) {
            return None;
        }
        let descriptor = self.base + self.head * DESCRIPTOR;
        let (length, says) = (memory.load_u32(descriptor + 8) as u16, memory.load_u32(descriptor + 12) as u16);
        let at = self.buffers[self.head];
        self.head = (self.head + 1) % FRAMES;
        Some(Done { at, length, says })
    }
}
