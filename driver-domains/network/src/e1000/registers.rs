//! The registers of an 82540EM (Intel's manual 317453, chapter 13), and what has to be done before it reaches memory.

use unikernel::device::Mmio;

use crate::bridge::frame::Mac;

/// Offsets.
pub mod at {
    /// Control.
    pub const CONTROL: u32 = 0x0000;
    /// Status.
    pub const STATUS: u32 = 0x0008;
    /// Reads the EEPROM.
    pub const EEPROM_READ: u32 = 0x0014;
    /// Masks interrupts.
    pub const INTERRUPT_MASK_CLEAR: u32 = 0x00d8;
    /// Receive control.
    pub const RECEIVE: u32 = 0x0100;
    /// Transmit control.
    pub const TRANSMIT: u32 = 0x0400;
    /// Gaps between frames.
    pub const GAP: u32 = 0x0410;
    /// First of the registers of the receive ring.
    pub const RECEIVE_RING: u32 = 0x2800;
    /// First of those of the transmit ring.
    pub const TRANSMIT_RING: u32 = 0x3800;
    /// The device's address, lower part.
    pub const ADDRESS_LOW: u32 = 0x5400;
    /// Upper part.
    pub const ADDRESS_HIGH: u32 = 0x5404;
}

/// Offsets in the registers of a ring.
pub mod ring {
    /// Device address, lower half.
    pub const ADDRESS_LOW: u32 = 0x00;
    /// Upper half.
    pub const ADDRESS_HIGH: u32 = 0x04;
    /// Bytes.
    pub const LENGTH: u32 = 0x08;
    /// Where the device is.
    pub const HEAD: u32 = 0x10;
    /// Where the driver is.
    pub const TAIL: u32 = 0x18;
}

/// In control: reset, which ends by itself.
const RESET: u32 = 1 << 26;
/// In control: full duplex, speed as found, link up.
pub const LINK: u32 = 1 | 1 << 5 | 1 << 6;
/// In status: there is a link.
pub const LINK_UP: u32 = 1 << 1;
/// In receive and transmit control: on.
pub const ON: u32 = 1 << 1;
/// In receive control: every address (the bridge judges), no checksum at the end, buffers of 2048 bytes.
pub const RECEIVE_ALL: u32 = 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
/// In transmit control: short frames are padded; what half duplex needs, as the manual has it.
pub const TRANSMIT_PADDED: u32 = 1 << 3 | 0x10 << 4 | 0x40 << 12;
/// Gaps as the manual has them for copper.
pub const GAPS: u32 = 10 | 8 << 10 | 6 << 20;
/// In the upper part of the address: it is valid.
const VALID: u32 = 1 << 31;
/// To read a word of the EEPROM: begin, and where the word's number is.
const BEGIN: u32 = 1;
const WORD: u32 = 8;
/// It was read, into the upper half.
const READ: u32 = 1 << 4;
/// Reads of the register until then, at least 100 ns each; a word takes some 100 µs.
const READ_POLLS: usize = 20_000;
/// The last register that is used.
const LAST: u64 = at::ADDRESS_HIGH as u64;

/// Access to the registers; a trait so that tests can play it.
pub trait Registers {
    /// Reads one.
    fn read(&self, register: u32) -> u32;
    /// Writes one.
    fn write(&self, register: u32, value: u32);
}

/// The registers of a real device.
#[derive(Debug)]
pub struct Bar(Mmio);

impl Bar {
    /// Those in a BAR; `None` if it is too small for them.
    pub fn new(memory: Mmio) -> Option<Bar> {
        memory.contains(LAST, size_of::<u32>()).then_some(Bar(memory))
    }
}

impl Registers for Bar {
    fn read(&self, register: u32) -> u32 {
        self.0.read32(register.into())
    }

    fn write(&self, register: u32, value: u32) {
        self.0.write32(register.into(), value);
    }
}

/// Switches everything off, and begins a reset. Some emulated devices take no notice of the reset, so each thing is switched off
/// by itself.
pub fn start_reset(registers: &impl Registers) {
    registers.write(at::INTERRUPT_MASK_CLEAR, u32::MAX);
    registers.write(at::RECEIVE, 0);
    registers.write(at::TRANSMIT, 0);
    registers.write(at::CONTROL, RESET);
}

/// Whether the reset is done: from then on the device touches no memory.
pub fn is_reset(registers: &impl Registers) -> bool {
    registers.read(at::CONTROL) & RESET == 0
        && registers.read(at::RECEIVE) & ON == 0
        && registers.read(at::TRANSMIT) & ON == 0
}

/// The device's address: from its EEPROM, or what the reset has found there. `None` if it has none.
pub fn address(registers: &impl Registers) -> Option<Mac> {
    let word = |number: u32| {
        registers.write(at::EEPROM_READ, BEGIN | number << WORD);
        let mut answers = (0..READ_POLLS).map(|_| registers.read(at::EEPROM_READ));
        answers.find(|answer| answer & READ != 0).map(|answer| (answer >> 16) as u16)
    };
    let stored = || {
        let [low, high] = [at::ADDRESS_LOW, at::ADDRESS_HIGH].map(|register| registers.read(register));
        (high & VALID != 0).then_some([low as u16, (low >> 16) as u16, high as u16])
    };
    let read = || Some([word(0)?, word(1)?, word(2)?]);
    let mut mac = [0; 6];
    for (bytes, word) in mac.as_chunks_mut::<2>().0.iter_mut().zip(read().or_else(stored)?) {
        *bytes = word.to_le_bytes();
    }
    // Neither a group's, nor none.
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// Tells the device its address, which some emulated ones forget in a reset.
pub fn set_address(registers: &impl Registers, mac: Mac) {
    let [a, b, c, d, e, f] = mac;
    registers.write(at::ADDRESS_LOW, u32::from_le_bytes([a, b, c, d]));
    registers.write(at::ADDRESS_HIGH, u32::from(u16::from_le_bytes([e, f])) | VALID);
}
