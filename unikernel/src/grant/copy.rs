//! Copying between granted pages and memory of one's own, without mapping them.

use core::marker::PhantomData;

use heapless::Vec;
use protocol::answer::decode;
use protocol::error::{Error, Result};
use protocol::grant::{CopyElement, CopySide, MAX_BATCH, OWN_MEMORY};
use protocol::layout::PAGE_SIZE;

use super::Source;
use crate::hypercall::{raw, to_the_end};

/// A batch of copies, carried out by one hypercall. It holds the buffers borrowed until then.
#[derive(Debug, Default)]
pub struct Copies<'b> {
    elements: Vec<CopyElement, MAX_BATCH>,
    buffers: PhantomData<&'b mut [u8]>,
}

impl<'b> Copies<'b> {
    /// Nothing to copy yet.
    pub const fn new() -> Copies<'b> {
        Copies { elements: Vec::new(), buffers: PhantomData }
    }

    /// Adds: fill `buffer` from `offset` in a peer's page.
    pub fn read(&mut self, from: Source, offset: u16, buffer: &'b mut [u8]) -> Result<()> {
        let at = buffer.as_mut_ptr() as u64;
        self.add(buffer.len(), at, |own, done| (granted(from, offset, done), own))
    }

    /// Adds: copy `buffer` to `offset` in a peer's page.
    pub fn write(&mut self, to: Source, offset: u16, buffer: &'b [u8]) -> Result<()> {
        let at = buffer.as_ptr() as u64;
        self.add(buffer.len(), at, |own, done| (own, granted(to, offset, done)))
    }

    /// Adds an element for each page that the own side touches, two at most.
    fn add(
        &mut self,
        length: usize,
        address: u64,
        sides: impl Fn(CopySide, usize) -> (CopySide, CopySide),
    ) -> Result<()> {
        if length > PAGE_SIZE as usize {
            return Err(Error::TooBig);
        }
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let offset = at % PAGE_SIZE;
            let now = (length - done).min((PAGE_SIZE - offset) as usize);
            let own =
                CopySide { reference_or_address: at - offset, peer: OWN_MEMORY, offset: offset as u16, reserved: 0 };
            let (source, destination) = sides(own, done);
            let status = -(Error::Invalid as i32);
            let element = CopyElement { source, destination, length: now as u32, status };
            self.elements.push(element).map_err(|_| Error::TooBig)?;
            done += now;
        }
        Ok(())
    }

    /// Carries the batch out; the first error that an element met, if one did.
    pub fn run(mut self) -> Result<()> {
        if self.elements.is_empty() {
            return Ok(());
        }
        let (elements, count) = (self.elements.as_mut_ptr() as u64, self.elements.len() as u64);
        // SAFETY: the elements live until the call returns, and name only buffers that `self` has borrowed, writable ones
        // where they are written.
        to_the_end(|| unsafe { raw::grant_copy(elements, count) })?;
        self.elements.iter().try_for_each(|element| decode(i64::from(element.status) as u64).map(|_| ()))
    }
}

fn granted(source: Source, offset: u16, done: usize) -> CopySide {
    CopySide {
        reference_or_address: source.reference.into(),
        peer: source.peer,
        offset: offset.saturating_add(done as u16),
        reserved: 0,
    }
}
