//! A stream of bytes in one direction, over one area with a producer and a consumer index.
//!
//! Both the control channel and the two halves of a console ring are of this shape; [`Place`] says where in the page the
//! parts lie. Indexes run freely and wrap at 2^32; sizes are powers of two.

use super::{Shared, Violation, used};

/// Where a byte ring lies in its page. `size` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of the data.
    pub data: usize,
    /// Bytes of data.
    pub size: u32,
    /// Offset of the consumer index.
    pub consumer: usize,
    /// Offset of the producer index.
    pub producer: usize,
}

/// The ring of a control page ([`crate::layout::CONTROL_IN`], [`crate::layout::CONTROL_OUT`]).
pub const CONTROL: Place = Place { data: 2048, size: 2048, consumer: 0, producer: 64 };

/// The end that writes.
#[derive(Debug)]
pub struct Producer {
    place: Place,
    produced: u32,
}

impl Producer {
    /// The writing end. It continues at the index the page shows: only for a page that nobody else wrote, or a fresh one.
    pub fn attach(place: Place, page: &impl Shared) -> Producer {
        Producer { place, produced: page.load_u32(place.producer) }
    }

    /// Bytes that fit now.
    pub fn room(&self, page: &impl Shared) -> Result<u32, Violation> {
        let consumed = page.load_u32(self.place.consumer);
        let size = self.place.size;
        match used(self.produced, consumed, size) {
            Some(used) => Ok(size - used),
            None => Err(Violation::IndexJump { found: consumed, own: self.produced, size }),
        }
    }

    /// Writes as much of `bytes` as fits, publishes it, and gives the number of bytes written.
    pub fn write(&mut self, page: &impl Shared, bytes: &[u8]) -> Result<usize, Violation> {
        let count = bytes.len().min(self.room(page)? as usize);
        let (place, start) = (self.place, self.produced);
        let at = (start & (place.size - 1)) as usize;
        let first = count.min(place.size as usize - at);
        page.write(place.data + at, &bytes[..first]);
        page.write(place.data, &bytes[first..count]);
        self.produced = start.wrapping_add(count as u32);
        page.store_u32(place.producer, self.produced);
        Ok(count)
    }
}

/// The end that reads.
#[derive(Debug)]
pub struct Consumer {
    place: Place,
    consumed: u32,
}

impl Consumer {
    /// The reading end, continuing at the index the page shows.
    pub fn attach(place: Place, page: &impl Shared) -> Consumer {
        Consumer { place, consumed: page.load_u32(place.consumer) }
    }

    /// Bytes that can be read now.
    pub fn available(&self, page: &impl Shared) -> Result<u32, Violation> {
        let produced = page.load_u32(self.place.producer);
        let size = self.place.size;
        used(produced, self.consumed, size).ok_or(Violation::IndexJump { found: produced, own: self.consumed, size })
    }

    /// Copies up to `out.len()` bytes without consuming them; gives the number.
    pub fn peek(&self, page: &impl Shared, out: &mut [u8]) -> Result<usize, Violation> {
        let count = out.len().min(self.available(page)? as usize);
        let place = self.place;
        let at = (self.consumed & (place.size - 1)) as usize;
        let first = count.min(place.size as usize - at);
        let (head, tail) = out[..count].split_at_mut(first);
        page.read(place.data + at, head);
        page.read(place.data, tail);
        Ok(count)
    }

    /// Consumes `count` bytes that a peek gave.
    pub fn consume(&mut self, page: &impl Shared, count: usize) {
        self.consumed = self.consumed.wrapping_add(count as u32);
        page.store_u32(self.place.consumer, self.consumed);
    }

    /// Reads up to `out.len()` bytes; gives the number.
    pub fn read(&mut self, page: &impl Shared, out: &mut [u8]) -> Result<usize, Violation> {
        let count = self.peek(page, out)?;
        if count > 0 {
            self.consume(page, count);
        }
        Ok(count)
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests;
