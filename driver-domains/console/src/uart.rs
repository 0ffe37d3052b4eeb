//! The 16550, the serial port of every PC (National Semiconductor PC16550D data sheet).
//!
//! No call waits for the chip: it moves what the chip takes or has, and says whether it could go on. The interrupt is edge-triggered, so after it everything that raised it has to be served until the chip reports nothing more.

use unikernel::device::IoPorts;

/// Registers, as offsets from the first port.
mod register {
    /// Read: received byte. Write: byte to send. With [`super::DIVISOR_LATCH`]: divisor, low byte.
    pub const DATA: u16 = 0;
    /// Interrupt enable. With [`super::DIVISOR_LATCH`]: divisor, high byte.
    pub const INTERRUPT_ENABLE: u16 = 1;
    /// Read: what interrupted.
    pub const INTERRUPT_ID: u16 = 2;
    /// Write: FIFO control.
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
    pub const SCRATCH: u16 = 7;
}

/// In line control: the first two registers are the divisor.
const DIVISOR_LATCH: u8 = 0x80;
/// In line control: 8 bits, no parity, one stop bit.
const EIGHT_BITS: u8 = 0x03;
/// Divisor for 115,200 baud, as the core sets it too.
const DIVISOR: u8 = 1;
/// In FIFO control: FIFOs on, interrupt at the first byte. What was received before is kept: it was typed ahead.
const FIFO_ON: u8 = 0x01;
/// In modem control: ready, and the interrupt line connected.
const READY_WITH_INTERRUPT: u8 = 0x0b;
/// In interrupt enable: a byte was received.
const ON_RECEIVED: u8 = 0x01;
/// In interrupt enable: the send FIFO is empty.
const ON_SENT: u8 = 0x02;
/// In interrupt identification: nothing interrupts.
const NOTHING: u8 = 0x01;
/// In line status: a byte was received.
const RECEIVED: u8 = 0x01;
/// In line status: the send FIFO is empty.
const SENT: u8 = 0x20;
/// Bytes the send FIFO takes when it is empty.
pub const FIFO_SIZE: usize = 16;
/// FIFOs sent in one go, where the chip is as fast as an emulated one: as much as a ring brings in one go.
const SEND_ROUNDS: usize = 64;
/// What is written to the scratch register to see whether there is a chip at all.
const SCRATCH_PATTERN: u8 = 0x5a;

/// Access to the chip; a trait so that tests can play it.
pub trait Registers {
    /// Reads a register.
    fn read(&self, register: u16) -> u8;
    /// Writes a register.
    fn write(&self, register: u16, value: u8);
}

impl Registers for IoPorts {
    fn read(&self, register: u16) -> u8 {
        self.read8(register)
    }

    fn write(&self, register: u16, value: u8) {
        self.write8(register, value);
    }
}

/// The driver.
#[derive(Debug)]
pub struct Uart<R> {
    registers: R,
    /// Interrupts that are on.
    enabled: u8,
}

impl<R: Registers> Uart<R> {
    /// Sets the chip up; `None` if there is none.
    pub fn new(registers: R) -> Option<Uart<R>> {
        registers.write(register::SCRATCH, SCRATCH_PATTERN);
        if registers.read(register::SCRATCH) != SCRATCH_PATTERN {
            return None;
        }
        registers.write(register::INTERRUPT_ENABLE, 0);
        registers.write(register::LINE_CONTROL, DIVISOR_LATCH | EIGHT_BITS);
        registers.write(register::DATA, DIVISOR);
        registers.write(register::INTERRUPT_ENABLE, 0);
        registers.write(register::LINE_CONTROL, EIGHT_BITS);
        registers.write(register::FIFO_CONTROL, FIFO_ON);
        registers.write(register::MODEM_CONTROL, READY_WITH_INTERRUPT);
        Some(Uart { registers, enabled: 0 })
    }

    /// Takes note of what interrupted, so that the chip lowers its line.
    pub fn acknowledge(&self) {
        // A received byte goes on interrupting until it is read, which is `receive`'s business.
        while self.registers.read(register::INTERRUPT_ID) & (NOTHING | 0x06) == 0x02 {}
    }

    /// The next received byte.
    pub fn receive(&self) -> Option<u8> {
        let received = self.registers.read(register::LINE_STATUS) & RECEIVED != 0;
        received.then(|| self.registers.read(register::DATA))
    }

    /// Sends bytes as far as the chip takes them; gives whether it could take more. `next` fills its buffer and gives the
    /// number of bytes.
    pub fn send(&self, mut next: impl FnMut(&mut [u8; FIFO_SIZE]) -> usize) -> bool {
        let mut bytes = [0; FIFO_SIZE];
        for _ in 0..SEND_ROUNDS {
            if self.registers.read(register::LINE_STATUS) & SENT == 0 {
                return false;
            }
            let count = next(&mut bytes);
            bytes.iter().take(count).for_each(|&byte| self.registers.write(register::DATA, byte));
            if count == 0 {
                break;
            }
        }
        true
    }

    /// Says when to interrupt: when something is received, when the FIFO can take more.
    pub fn listen(&mut self, received: bool, sent: bool) {
        let wanted = if received { ON_RECEIVED } else { 0 } | if sent { ON_SENT } else { 0 };
        if wanted != self.enabled {
            self.registers.write(register::INTERRUPT_ENABLE, wanted);
            self.enabled = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;
    use std::vec::Vec;

    /// A chip whose send FIFO empties only when told.
    #[derive(Default)]
    struct Chip {
        registers: [u8; 8],
        received: VecDeque<u8>,
        fifo: Vec<u8>,
        sent: Vec<u8>,
    }

    impl Registers for Rc<RefCell<Chip>> {
        fn read(&self, register: u16) -> u8 {
            let mut chip = self.borrow_mut();
            match register {
                register::DATA => chip.received.pop_front().unwrap_or(0),
                register::LINE_STATUS => {
                    u8::from(!chip.received.is_empty()) | if chip.fifo.is_empty() { SENT } else { 0 }
                }
                register::INTERRUPT_ID => NOTHING,
                _ => chip.registers[register as usize],
            }
        }

        fn write(&self, register: u16, value: u8) {
            let mut chip = self.borrow_mut();
            if register == register::DATA && chip.registers[3] & DIVISOR_LATCH == 0 {
                assert!(chip.fifo.len() < FIFO_SIZE, "the FIFO ran over");
                chip.fifo.push(value);
            } else {
                chip.registers[register as usize] = value;
            }
        }
    }

    #[test]
    fn the_fifo_never_runs_over_and_nothing_is_lost() {
        let chip = Rc::new(RefCell::new(Chip::default()));
        let uart = Uart::new(chip.clone()).unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            uart.send(|out| {
                let (now, later) = left.split_at(left.len().min(FIFO_SIZE));
                out[..now.len()].copy_from_slice(now);
                left = later;
                now.len()
            });
            let mut chip = chip.borrow_mut();
            let fifo = core::mem::take(&mut chip.fifo);
            chip.sent.extend(fifo);
        }
        assert_eq!(chip.borrow().sent, bytes);
    }

    #[test]
    fn no_chip_is_noticed() {
        struct Nothing;
        impl Registers for Nothing {
            fn read(&self, _: u16) -> u8 {
                0xff
            }
            fn write(&self, _: u16, _: u8) {}
        }
        assert!(Uart::new(Nothing).is_none());
    }
}
