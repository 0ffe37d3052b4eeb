//! Free frames, in a way that keeps those of one large page together.
//!
//! A block is 512 frames that can be a large page. Single frames come from the list of those that were given back, so no block
//! is broken while there are others; when the last frame of a block is given back, all of them leave the list for the one of
//! whole blocks. So that a domain finds the blocks that its maker counted on, they can be promised to it.

use core::ops::Range;

use crate::frames::{END, Frames, Info, Kind};
use crate::prelude::*;

/// Frames of a block.
pub const BLOCK: u32 = 512;
/// In the first frame of a whole block, instead of how many are in the list: nobody had it yet, and it is not scrubbed.
const UNTOUCHED: u16 = u16::MAX;

/// Frames that are nobody's.
pub struct Free {
    /// List of single frames. Each names the next in the frame table, and the one before it, but for the first, in itself.
    list: Frame,
    /// List of whole blocks, by their first frames.
    blocks: Frame,
    /// The rest of the block that was broken last, and whether it still has to be scrubbed.
    broken: (Range<u32>, bool),
    /// Whole blocks.
    whole: u32,
    /// Of those, how many are promised.
    promised: u32,
}

impl Free {
    /// No frames.
    pub const NONE: Free = Free { list: END, blocks: END, broken: (0..0, false), whole: 0, promised: 0 };
}

/// The first frame of a block.
const fn first(frame: Frame) -> Frame {
    Frame(frame.0 & !(BLOCK - 1))
}

impl Frames {
    /// Takes over frames that nobody had yet; those at its ends that are no block are scrubbed at once.
    pub(crate) fn add(&mut self, m: &impl Memory, mut range: Range<u32>) {
        while !range.is_empty() {
            let whole = range.end.is_multiple_of(BLOCK) && range.len() >= BLOCK as usize;
            range.end -= if whole { BLOCK } else { 1 };
            let frame = Frame(range.end);
            if whole {
                self.push(m, frame, UNTOUCHED);
            } else {
                m.zero(frame);
                self.give(m, frame);
            }
        }
    }

    /// Adds a whole block.
    fn push(&mut self, m: &impl Memory, block: Frame, free: u16) {
        let count = core::mem::replace(&mut self.free.blocks, block).0;
        self.set(m, block, Info { count, free, ..self.info(m, block) });
        self.free.whole += 1;
    }

    /// Takes a whole block; gives its frames, and whether they have to be scrubbed.
    fn pop(&mut self, m: &impl Memory) -> Option<(Range<u32>, bool)> {
        let block = self.free.blocks;
        if block == END {
            return None;
        }
        let info = self.info(m, block);
        self.set(m, block, Info { free: 0, ..info });
        self.free.blocks = Frame(info.count);
        self.free.whole -= 1;
        Some((block.0..block.0 + BLOCK, info.free == UNTOUCHED))
    }

    /// Takes a scrubbed frame that nobody has.
    pub(crate) fn take_free(&mut self, m: &impl Memory) -> Option<Frame> {
        let frame = self.free.list;
        if frame != END {
            self.unlink(m, frame);
            return Some(frame);
        }
        if self.free.broken.0.is_empty() {
            self.free.broken = self.pop(m)?;
        }
        let frame = self.free.broken.0.next().map(Frame)?;
        if self.free.broken.1 {
            m.zero(frame);
        }
        Some(frame)
    }

    /// Adds a scrubbed frame that nobody has any more.
    pub(crate) fn give(&mut self, m: &impl Memory, frame: Frame) {
        let next = core::mem::replace(&mut self.free.list, frame);
        let info = self.info(m, frame);
        self.set(m, frame, Info { count: next.0, kind: Kind::FREE, ..info });
        if next != END {
            m.store(next.at(0), frame.0.into());
        }
        if self.tally(m, frame, 1) == BLOCK as u16 {
            let block = first(frame);
            (block.0..block.0 + BLOCK).for_each(|frame| self.unlink(m, Frame(frame)));
            self.push(m, block, 0);
            let (promised, left) = &mut self.accounts[info.owner].blocks;
            if left < promised {
                *left += 1;
                self.free.promised += 1;
                self.bound_promise(info.owner);
            }
        }
    }

    /// Takes a frame out of the list.
    fn unlink(&mut self, m: &impl Memory, frame: Frame) {
        let next = Frame(self.info(m, frame).count);
        let before = m.load(frame.at(0));
        if self.free.list == frame {
            self.free.list = next;
        } else {
            let before = Frame(before as u32);
            self.set(m, before, Info { count: next.0, ..self.info(m, before) });
        }
        if next != END {
            m.store(next.at(0), before);
        }
        m.store(frame.at(0), 0);
        self.tally(m, frame, -1);
    }

    /// Counts frames of a block that are in the list.
    fn tally(&self, m: &impl Memory, frame: Frame, more: i16) -> u16 {
        let info = self.info(m, first(frame));
        let free = info.free.wrapping_add_signed(more);
        self.set(m, first(frame), Info { free, ..info });
        free
    }

    /// Takes a whole block for `owner`, zeroed, if there is one that is not promised to others; gives its first frame.
    pub(crate) fn take_block(&mut self, m: &impl Memory, owner: Slot) -> Option<Frame> {
        let left = &mut self.accounts[owner].blocks.1;
        if *left > 0 {
            *left -= 1;
            self.free.promised -= 1;
        } else if self.free.whole <= self.free.promised {
            return None;
        }
        let (frames, dirty) = self.pop(m)?;
        for frame in frames.clone().map(Frame) {
            if dirty {
                m.zero(frame);
            }
            self.charge(m, frame, owner, Kind::MEMORY);
        }
        Some(Frame(frames.start))
    }

    /// Promises blocks to a domain, out of the frames that are set aside for it.
    pub(crate) fn promise(&mut self, owner: Slot, blocks: u32) -> Result<()> {
        if blocks > self.free.whole - self.free.promised || blocks as u64 * BLOCK as u64 > self.available(owner) {
            return Err(Error::NoMemory);
        }
        self.accounts[owner].blocks = (blocks, blocks);
        self.free.promised += blocks;
        Ok(())
    }

    /// A domain can take fewer frames than before: what is promised to it goes no further. So there are always as many whole
    /// blocks as are promised, because frames are counted before they are taken.
    #[inline]
    pub(crate) fn bound_promise(&mut self, owner: Slot) {
        let (available, account) = (self.available(owner) as u32, &mut self.accounts[owner]);
        let (promised, left) = account.blocks;
        if promised > 0 {
            account.blocks = (promised.min(account.set_aside / BLOCK), left.min(available / BLOCK));
            self.free.promised -= left - account.blocks.1;
        }
    }
}

#[cfg(test)]
mod tests;
