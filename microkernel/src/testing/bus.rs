//! PCI functions of the simulated machine.

use std::collections::BTreeMap;
use std::vec::Vec;

/// A function: its space, and which bits of its BARs can be written.
pub struct Function {
    space: [u8; 256],
    masks: [u32; 6],
}

impl Function {
    /// A function with this class and these BARs: place, value, mask.
    pub fn new(vendor: u16, device: u16, class: u8, bars: &[(usize, u32, u32)]) -> Function {
        let mut function = Function { space: [0; 256], masks: [0; 6] };
        function.put(0, &vendor.to_le_bytes());
        function.put(2, &device.to_le_bytes());
        // The firmware left everything on.
        function.put(4, &[7, 0]);
        function.put(0x0b, &[class]);
        for &(index, value, mask) in bars {
            function.put(0x10 + 4 * index, &value.to_le_bytes());
            function.masks[index] = mask;
        }
        function
    }

    /// Sets bytes, whatever a write could do.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.space[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds capabilities: offset and bytes from the third on, chained in this order.
    pub fn capabilities(mut self, list: &[(u8, u8, &[u8])]) -> Function {
        self.put(6, &[0x10, 0]);
        let mut link = 0x34;
        for &(at, id, bytes) in list {
            self.put(link, &[at]);
            link = at as usize + 1;
            self.put(at as usize, &[id, 0]);
            self.put(at as usize + 2, bytes);
        }
        self
    }

    /// Reads bytes, the lowest first.
    pub fn get(&self, at: usize, width: usize) -> u32 {
        self.space[at..at + width].iter().rev().fold(0, |value, &byte| value << 8 | byte as u32)
    }

    /// What a write does.
    pub fn write(&mut self, at: usize, width: usize, value: u32) {
        assert!(at.is_multiple_of(width), "a write of {width} bytes to {at:#x}");
        if (0x10..0x28).contains(&at) {
            assert!(width == 4 && self.space[4] & 3 == 0, "a BAR was changed while the function decodes it");
            let mask = self.masks[(at - 0x10) / 4];
            let value = value & mask | self.get(at, 4) & !mask;
            return self.put(at, &value.to_le_bytes());
        }
        self.put(at, &value.to_le_bytes()[..width]);
    }
}

/// Frame in which the first function has its table of messages; nobody manages it.
pub const TABLE: u32 = 40;
/// A function with MSI-X.
pub const DISK: u16 = 0x0020;
/// One with MSI, behind a bridge.
pub const SOUND: u16 = 0x0108;
/// One with doubtful BARs.
pub const SMALL: u16 = 0x0021;

/// The functions of the machine.
pub fn functions() -> BTreeMap<u16, Function> {
    let mut bridge = Function::new(0x8086, 1, 6, &[]);
    bridge.put(0x0e, &[1]);
    let table = TABLE << 12;
    let bars = [(0, 0xc001, !0xff), (1, table, !0xfff), (4, 0xfe00_000c, !0x3fff), (5, 0x12, !0)];
    let mut disk = Function::new(0x1af4, 0x1042, 1, &bars).capabilities(&[
        (0x40, 0x09, &[20, 5]),
        (0x60, 0x11, &[3, 0, 1, 0, 0, 0, 1, 8, 0, 0]),
        (0x80, 0x10, &[]),
    ]);
    disk.put(0x0e, &[0x80]);
    let sound = Function::new(0x8086, 0x2668, 4, &[(0, 0xfd00_0000, !0x3fff)]).capabilities(&[
        (0x50, 0x05, &[0x80, 0]),
        (0x70, 0x09, &[0x10]),
        (0x90, 0x10, &[]),
    ]);
    // A list that never ends, and BARs that lie: over RAM, in the page of another, smaller than a page.
    let lies = [(0, 0x4_1000, !0xfff), (1, 0xfd00_3800, !0x7ff), (2, 0xfc00_1000, !0xfff), (3, 0xfb00_0800, !0x7ff)];
    let small = Function::new(0x1234, 0x11e8, 0xff, &lies).capabilities(&[(0x40, 0x01, &[]), (0x44, 0x02, &[])]);
    let mut small = small;
    small.put(0x45, &[0x40]);
    let host = Function::new(0x8086, 0x1237, 6, &[]);
    BTreeMap::from([(0, host), (0x10, bridge), (DISK, disk), (SMALL, small), (SOUND, sound)])
}

/// The addresses of all.
pub fn addresses() -> Vec<u16> {
    functions().into_keys().collect()
}
