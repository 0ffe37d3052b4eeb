//! What the fuzz targets share: input read piece by piece, and memory whose other side does not keep to any rule.
#![forbid(unsafe_code)]

pub mod guest;

use std::cell::RefCell;

use protocol::ring::Shared;

/// The fuzzer's input, read piece by piece; zeros when it is used up.
#[derive(Clone, Debug)]
pub struct Script<'d>(&'d [u8]);

impl<'d> Script<'d> {
    /// Reads `data` from its start.
    pub fn new(data: &'d [u8]) -> Script<'d> {
        Script(data)
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let part = self.part(N);
        bytes[..part.len()].copy_from_slice(part);
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// The next two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// The next four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// The next eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Up to `count` further bytes.
    pub fn part(&mut self, count: usize) -> &'d [u8] {
        let (part, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        part
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'d [u8] {
        self.part(usize::MAX)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Memory shared with a peer that writes whatever the script says, between any two accesses of ours.
pub struct Page<'d> {
    bytes: RefCell<Vec<u8>>,
    peer: RefCell<Script<'d>>,
}

impl<'d> Page<'d> {
    /// Zeroed memory of this size, and what its peer does.
    pub fn new(size: usize, peer: Script<'d>) -> Page<'d> {
        Page { bytes: RefCell::new(vec![0; size]), peer: RefCell::new(peer) }
    }

    /// Memory that nobody else writes, with these bytes at its start.
    pub fn private(size: usize, content: &[u8]) -> Page<'static> {
        let page = Page::new(size, Script::new(&[]));
        page.bytes.borrow_mut().iter_mut().zip(content).for_each(|(byte, content)| *byte = *content);
        page
    }

    /// Lets the peer overwrite the word that is about to be read: wholly, or by a small step.
    fn interfere(&self, offset: usize) {
        let mut peer = self.peer.borrow_mut();
        let (before, mut bytes) = (self.word(offset), self.bytes.borrow_mut());
        let value = match peer.byte() {
            0..=0x7f => return,
            step @ 0x80..=0xbf => before.wrapping_add(u32::from(step & 0x3f)),
            step @ 0xc0..=0xdf => before.wrapping_sub(u32::from(step & 0x1f)),
            _ => peer.word(),
        };
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn word(&self, offset: usize) -> u32 {
        let bytes = self.bytes.borrow();
        u32::from_le_bytes(std::array::from_fn(|index| bytes[offset + index]))
    }
}

impl Shared for Page<'_> {
    fn load_u32(&self, offset: usize) -> u32 {
        self.interfere(offset);
        self.word(offset)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        if let Some(at) = out.len().checked_sub(4) {
            let within = usize::from(self.peer.borrow_mut().byte()) % (at + 1);
            self.interfere(offset + within);
        }
        out.copy_from_slice(&self.bytes.borrow()[offset..offset + out.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn fence(&self) {}
}
