//! Pages for tests, which both sides of a ring have.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use protocol::grant::GrantRef;
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;

use super::Share;

/// A page; its clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    reference: GrantRef,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Page {
    /// A zeroed page with this reference.
    pub fn new(reference: GrantRef) -> Page {
        Page { reference, bytes: Rc::new(RefCell::new(std::vec![0; PAGE_SIZE as usize])) }
    }
}

impl Share for Page {
    fn reference(&self) -> GrantRef {
        self.reference
    }
}

impl Shared for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes.borrow()[offset..offset + out.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn fence(&self) {}
}
