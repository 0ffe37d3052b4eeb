//! LZ4 in the legacy frame, as `lz4 -l` writes it and Linux uses it, a piece at a time.
//!
//! A block of it expands to 8 MiB, so a decoder of whole blocks would need twice as much memory as a monitor has: this one
//! keeps the 64 KiB that matches can reach back.

use alloc::vec::Vec;

use super::LoadError;
use super::file::Reader;

/// First bytes of a frame.
pub const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// How far back a match can reach, in bytes.
const WINDOW: usize = 64 << 10;
/// What a block may expand to, in bytes.
const BLOCK_MAX: u64 = 8 << 20;

/// The last bytes of what a block expanded to, and those that the sink has not seen.
struct Output<'s> {
    bytes: Vec<u8>,
    /// Bytes at the beginning that the sink has.
    given: usize,
    /// Bytes of this block so far.
    block: u64,
    sink: &'s mut dyn FnMut(&[u8]) -> Result<(), LoadError>,
}

impl Output<'_> {
    fn grow(&mut self, count: usize) -> Result<(), LoadError> {
        self.block += count as u64;
        if self.block > BLOCK_MAX {
            return Err(LoadError::Damaged);
        }
        if self.bytes.len() >= 2 * WINDOW {
            self.give()?;
            self.bytes.drain(..self.given - WINDOW);
            self.given = WINDOW;
        }
        Ok(())
    }

    fn give(&mut self) -> Result<(), LoadError> {
        (self.sink)(&self.bytes[self.given..])?;
        self.given = self.bytes.len();
        Ok(())
    }

    fn literals(&mut self, input: &mut Block<'_, '_, '_>, mut count: usize) -> Result<(), LoadError> {
        while count > 0 {
            let now = count.min(WINDOW);
            self.grow(now)?;
            let mut left = now;
            while left > 0 {
                left -= input.take(left, |bytes| self.bytes.extend_from_slice(bytes))?;
            }
            count -= now;
        }
        Ok(())
    }

    fn repeat(&mut self, distance: usize, mut count: usize) -> Result<(), LoadError> {
        if distance == 0 || distance as u64 > self.block {
            return Err(LoadError::Damaged);
        }
        while count > 0 {
            // What is repeated may reach into what is being written: then it is written in pieces.
            let now = count.min(distance);
            self.grow(now)?;
            let from = self.bytes.len() - distance;
            self.bytes.extend_from_within(from..from + now);
            count -= now;
        }
        Ok(())
    }
}

/// The compressed bytes of one block.
struct Block<'r, 'a, 'm> {
    reader: &'r mut Reader<'a, 'm>,
    left: usize,
}

impl Block<'_, '_, '_> {
    fn take(&mut self, most: usize, act: impl FnOnce(&[u8])) -> Result<usize, LoadError> {
        let bytes = self.reader.peek()?;
        let count = most.min(self.left).min(bytes.len());
        if count == 0 {
            return Err(LoadError::Truncated);
        }
        act(&bytes[..count]);
        self.reader.skip(count);
        self.left -= count;
        Ok(count)
    }

    fn byte(&mut self) -> Result<usize, LoadError> {
        let mut byte = 0;
        self.take(1, |bytes| byte = bytes[0])?;
        Ok(byte.into())
    }

    /// A length whose first four bits were `nibble`.
    fn length(&mut self, nibble: usize) -> Result<usize, LoadError> {
        if nibble < 15 {
            return Ok(nibble);
        }
        let mut length = nibble;
        loop {
            let more = self.byte()?;
            length += more;
            if length as u64 > BLOCK_MAX {
                return Err(LoadError::Damaged);
            }
            if more != 255 {
                return Ok(length);
            }
        }
    }
}

/// Expands the frame that begins, behind its magic number, where the reader stands.
pub fn expand(
    reader: &mut Reader<'_, '_>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut output = Output { bytes: Vec::with_capacity(3 * WINDOW), given: 0, block: 0, sink };
    while !reader.at_end()? {
        let size = reader.u32()?;
        if size.to_le_bytes() == MAGIC {
            continue;
        }
        // What follows the last block is the length of it all, which no block has.
        if reader.at_end()? {
            break;
        }
        output.block = 0;
        let mut block = Block { reader, left: size as usize };
        while block.left > 0 {
            let token = block.byte()?;
            let count = block.length(token >> 4)?;
            output.literals(&mut block, count)?;
            if block.left > 0 {
                let distance = block.byte()? | block.byte()? << 8;
                let count = block.length(token & 15)? + 4;
                output.repeat(distance, count)?;
            }
        }
    }
    output.give()
}
