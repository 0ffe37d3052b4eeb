//! A file in guest memory, read from its beginning to its end.

use protocol::arguments::GuestFile;

use super::{LoadError, SharedMemory};

/// Bytes fetched at a time.
const CHUNK: usize = 16 << 10;

/// What is left of a file.
pub struct Reader<'a, 'm> {
    memory: &'a SharedMemory<'m>,
    /// Of the bytes that were not fetched yet.
    address: u64,
    left: u64,
    chunk: alloc::boxed::Box<[u8]>,
    /// The part of `chunk` that was fetched and not taken.
    from: usize,
    to: usize,
}

impl<'a, 'm> Reader<'a, 'm> {
    /// Of this part of memory.
    pub fn new(memory: &'a SharedMemory<'m>, file: GuestFile) -> Reader<'a, 'm> {
        let chunk = alloc::vec![0; CHUNK].into_boxed_slice();
        Reader { memory, address: file.address, left: file.length, chunk, from: 0, to: 0 }
    }

    /// Bytes that can be had at once; none at the end of the file.
    pub fn peek(&mut self) -> Result<&[u8], LoadError> {
        if self.from == self.to {
            let count = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
            self.memory.borrow().read(self.address, &mut self.chunk[..count]).map_err(|_| LoadError::Missing)?;
            (self.from, self.to) = (0, count);
            self.address += count as u64;
            self.left -= count as u64;
        }
        Ok(&self.chunk[self.from..self.to])
    }

    /// Takes `count` of what `peek` gave.
    pub fn skip(&mut self, count: usize) {
        self.from = (self.from + count).min(self.to);
    }

    /// Takes some bytes, as many as are at hand and `out` holds.
    pub fn some(&mut self, out: &mut [u8]) -> Result<usize, LoadError> {
        let bytes = self.peek()?;
        let count = bytes.len().min(out.len());
        out[..count].copy_from_slice(&bytes[..count]);
        self.skip(count);
        Ok(count)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, LoadError> {
        let byte = *self.peek()?.first().ok_or(LoadError::Truncated)?;
        self.skip(1);
        Ok(byte)
    }

    /// The next bytes, as many as `out` has.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<(), LoadError> {
        out.iter_mut().try_for_each(|byte| self.byte().map(|read| *byte = read))
    }

    /// The next little-endian number.
    pub fn u32(&mut self) -> Result<u32, LoadError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The last four bytes that are left: at the end of the payload of a bzImage stands how much it is when it is expanded.
    pub fn last_u32(&self) -> Result<u32, LoadError> {
        let end = self.address.saturating_add(self.left);
        let mut bytes = [0; 4];
        self.memory.borrow().read(end.saturating_sub(4), &mut bytes).map_err(|_| LoadError::Missing)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Whether all was taken.
    pub fn at_end(&mut self) -> Result<bool, LoadError> {
        Ok(self.peek()?.is_empty())
    }
}
