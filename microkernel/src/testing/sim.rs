//! The machine: memory as bytes, everything else recorded.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

use super::bus::{Function, functions};
use crate::platform::{Frame, Machine, Memory, Phys};

/// A simulated machine. Every access must be to its memory and aligned.
pub struct Sim {
    memory: RefCell<Vec<u64>>,
    /// Changes with every word that changes, and back with it; words of frames in `blind` do not count.
    digest: Cell<u64>,
    /// Frames whose contents the digest leaves out.
    pub blind: RefCell<BTreeSet<u32>>,
    /// The counter; goes on by one each time it is read.
    pub tsc: Cell<u64>,
    /// Flushes of the own CPU.
    pub flushes: Cell<usize>,
    /// Interrupt lines masked, a bit each.
    pub masked: Cell<u16>,
    /// Whether the serial port was given away.
    pub serial_released: Cell<bool>,
    /// Lines shown.
    pub lines: RefCell<Vec<String>>,
    /// PCI functions.
    pub functions: RefCell<BTreeMap<u16, Function>>,
    /// Frames that functions were told to use: none is scrubbed while its function reaches memory.
    pub dma: RefCell<BTreeMap<u32, u16>>,
}

fn mix(at: usize, value: u64) -> u64 {
    let hash = (at as u64 ^ value.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ value;
    (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Sim {
    /// A machine with this many frames of memory, each byte of which is `fill`.
    pub fn new(frames: usize, fill: u8) -> Sim {
        Sim {
            memory: RefCell::new(std::vec![u64::from_ne_bytes([fill; 8]); frames * 512]),
            digest: Cell::new(0),
            blind: RefCell::new(BTreeSet::new()),
            tsc: Cell::new(1),
            flushes: Cell::new(0),
            masked: Cell::new(0xffff),
            serial_released: Cell::new(false),
            lines: RefCell::default(),
            functions: RefCell::new(functions()),
            dma: RefCell::default(),
        }
    }

    /// Says whether memory is as it was when another digest was taken.
    pub fn digest(&self) -> u64 {
        self.digest.get()
    }

    fn index(at: Phys) -> usize {
        assert!(at.0.is_multiple_of(8), "misaligned access to {at:x?}");
        at.0 as usize / 8
    }

    fn change(&self, at: Phys, change: impl FnOnce(u64) -> u64) -> u64 {
        let index = Self::index(at);
        let word = &mut self.memory.borrow_mut()[index];
        let old = *word;
        *word = change(old);
        if !self.blind.borrow().contains(&at.frame().0) {
            self.digest.set(self.digest.get() ^ mix(index, old) ^ mix(index, *word));
        }
        old
    }
}

impl Memory for Sim {
    fn load(&self, at: Phys) -> u64 {
        self.memory.borrow()[Self::index(at)]
    }

    fn store(&self, at: Phys, value: u64) {
        self.change(at, |_| value);
    }

    fn fetch_or(&self, at: Phys, bits: u64) -> u64 {
        self.change(at, |old| old | bits)
    }

    fn fetch_and(&self, at: Phys, bits: u64) -> u64 {
        self.change(at, |old| old & bits)
    }

    fn compare_exchange(&self, at: Phys, old: u64, new: u64) -> bool {
        self.change(at, |found| if found == old { new } else { found }) == old
    }

    fn read(&self, at: Phys, out: &mut [u8]) {
        for (address, byte) in (at.0..).zip(out) {
            *byte = (self.load(Phys(address & !7)) >> (address % 8 * 8)) as u8;
        }
    }

    fn write(&self, at: Phys, bytes: &[u8]) {
        for (address, &byte) in (at.0..).zip(bytes) {
            let shift = address % 8 * 8;
            self.change(Phys(address & !7), |old| old & !(0xff << shift) | (byte as u64) << shift);
        }
    }

    fn copy(&self, from: Phys, to: Phys, length: usize) {
        assert!(from.0.abs_diff(to.0) >= length as u64, "overlapping copy");
        let mut bytes = std::vec![0; length];
        self.read(from, &mut bytes);
        self.write(to, &bytes);
    }

    fn zero(&self, frame: Frame) {
        if let Some(function) = self.dma.borrow_mut().remove(&frame.0) {
            assert_eq!(self.config_read(function, 4, 2) & 4, 0, "{function:#x} may still write to {frame:?}");
        }
        for offset in (0..4096).step_by(8) {
            self.change(frame.at(offset), |_| 0);
        }
    }
}

impl Machine for Sim {
    fn tsc(&self) -> u64 {
        self.tsc.set(self.tsc.get() + 1);
        self.tsc.get()
    }

    fn flush_local(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }

    fn mask_line(&self, line: u8, masked: bool) {
        let bit = 1 << line;
        self.masked.set(if masked { self.masked.get() | bit } else { self.masked.get() & !bit });
    }

    fn config_read(&self, function: u16, offset: u16, width: u64) -> u32 {
        let absent = u32::MAX >> (32 - 8 * width);
        self.functions.borrow().get(&function).map_or(absent, |found| found.get(offset as usize, width as usize))
    }

    fn config_write(&self, function: u16, offset: u16, width: u64, value: u32) {
        let before = self.config_read(function, offset, width);
        self.functions.borrow_mut().get_mut(&function).unwrap().write(offset as usize, width as usize, value);
        let at = usize::MAX - ((function as usize) << 12) - offset as usize;
        let after = self.config_read(function, offset, width);
        self.digest.set(self.digest.get() ^ mix(at, before.into()) ^ mix(at, after.into()));
    }

    fn apic_id(&self, cpu: usize) -> u32 {
        cpu as u32 + 8
    }

    fn acpi_table(&self, signature: [u8; 4], instance: u32) -> Option<&'static [u8]> {
        (signature == *b"FACP" && instance == 0).then_some(&[0xac; 1000])
    }

    fn release_serial(&self, released: bool) {
        self.serial_released.set(released);
    }

    fn show(&self, line: fmt::Arguments<'_>, _aloud: bool) {
        self.lines.borrow_mut().push(line.to_string());
    }
}
