//! What a domain printed while nobody looked: the last so many bytes.

use alloc::vec::Vec;

/// Bytes kept for each connection; two hundred lines or so.
pub const SIZE: usize = 16 * 1024;

/// A bounded queue of bytes that drops the oldest.
#[derive(Debug)]
pub struct Backlog {
    /// [`SIZE`] bytes, reserved when the connection is made so that no output can make the domain run out of memory.
    bytes: Vec<u8>,
    start: usize,
    used: usize,
    dropped: u64,
}

impl Backlog {
    /// An empty one; `None` without memory for it.
    pub fn new() -> Option<Backlog> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(SIZE).ok()?;
        bytes.resize(SIZE, 0);
        Some(Backlog { bytes, start: 0, used: 0, dropped: 0 })
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that were dropped and not yet told of.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The same, told of now.
    pub fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }

    /// Adds bytes, at most [`SIZE`] at a time; the oldest make room.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(SIZE)];
        let excess = (self.used + bytes.len()).saturating_sub(SIZE);
        self.start = (self.start + excess) % SIZE;
        self.used -= excess;
        self.dropped += excess as u64;
        let at = (self.start + self.used) % SIZE;
        let first = bytes.len().min(SIZE - at);
        self.bytes[at..at + first].copy_from_slice(&bytes[..first]);
        self.bytes[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.used += bytes.len();
    }

    /// Takes the oldest bytes; gives their number.
    pub fn pop(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.used);
        let first = count.min(SIZE - self.start);
        out[..first].copy_from_slice(&self.bytes[self.start..self.start + first]);
        out[first..count].copy_from_slice(&self.bytes[..count - first]);
        self.start = (self.start + count) % SIZE;
        self.used -= count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Compared with a queue that drops from the front.
        #[test]
        fn keeps_the_newest(steps in prop::collection::vec((prop::bool::ANY, 0usize..9000), 0..60)) {
            let mut backlog = Backlog::new().unwrap();
            let (mut model, mut dropped, mut next) = (VecDeque::new(), 0u64, 0u8);
            for (push, count) in steps {
                if push {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    backlog.push(&bytes);
                    model.extend(bytes);
                    while model.len() > SIZE {
                        model.pop_front();
                        dropped += 1;
                    }
                } else {
                    let mut out = std::vec![0; count];
                    let taken = backlog.pop(&mut out);
                    let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                    prop_assert_eq!(&out[..taken], &expected[..]);
                }
                prop_assert_eq!(backlog.is_empty(), model.is_empty());
            }
            prop_assert_eq!(backlog.take_dropped(), dropped);
            prop_assert_eq!(backlog.take_dropped(), 0);
        }
    }
}
