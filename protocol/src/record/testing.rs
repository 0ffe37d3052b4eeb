//! What tests of records share: a backend that crashes at any store.
//!
//! The backend's stores go through a fuse: once it has burnt, nothing the backend does has an effect any more, which is what a
//! crash at that store looks like from outside. Then a new backend attaches to the same record.

use std::cell::{Cell, RefCell};
use std::vec::Vec;

use crate::ring::Shared;

/// Counts the stores that are left before the crash.
pub struct Fuse(pub Cell<u64>);

impl Fuse {
    pub fn burn(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    pub fn burnt(&self) -> bool {
        self.0.get() == 0
    }
}

/// A page as one side sees it, with a fuse.
pub struct View<'a> {
    pub bytes: &'a RefCell<Vec<u8>>,
    pub fuse: Option<&'a Fuse>,
}

impl Shared for View<'_> {
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes.borrow()[offset..offset + 4].try_into().unwrap())
    }
    fn store_u32(&self, offset: usize, value: u32) {
        if self.fuse.is_none_or(Fuse::burn) {
            self.bytes.borrow_mut()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes.borrow()[offset..offset + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        // A copy can be torn by the crash: it takes two steps, and after the first, half of it is there.
        let steps = (0..2).filter(|_| self.fuse.is_none_or(Fuse::burn)).count();
        let count = bytes.len() * steps / 2;
        self.bytes.borrow_mut()[offset..offset + count].copy_from_slice(&bytes[..count]);
    }
    fn fence(&self) {}
}

/// A small generator, so that a failing run can be repeated from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
