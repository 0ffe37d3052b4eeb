//! A page for tests of what lies in shared memory.

use core::cell::RefCell;
use std::vec::Vec;

use super::Shared;

/// A page that nobody else has.
pub(crate) struct Page(pub RefCell<Vec<u8>>);

impl Page {
    /// A page full of `byte`.
    pub fn new(byte: u8) -> Page {
        Page(RefCell::new(std::vec![byte; crate::layout::PAGE_SIZE as usize]))
    }
}

impl Shared for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0.borrow()[offset..offset + 4].try_into().unwrap())
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[offset..offset + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    fn fence(&self) {}
}
