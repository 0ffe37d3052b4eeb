//! An ATA channel at its legacy I/O ports, with one command at a time (ATA/ATAPI-6, chapters 7 and 9).
//!
//! Data goes through the ports word by word, between the disk and one page of the driver's own: no device reaches memory. A
//! command moves a page at most, so that it has a bound, and so that what is written is here before the disk is asked to take it.

use alloc::boxed::Box;
use core::task::Poll;

use protocol::layout::PAGE_SIZE;
use protocol::ring::block::SECTOR;
use unikernel::backend::Cause;
use unikernel::device::{Interrupt, IoPorts};

use crate::disk::{Fault, Outcome};

/// Sectors that one command moves at most.
pub const SECTORS_MAX: usize = PAGE_SIZE as usize / SECTOR as usize;
/// Bytes of a sector.
const SECTOR_BYTES: usize = SECTOR as usize;

/// Registers, as offsets from the first port of the command block.
mod register {
    pub const DATA: u16 = 0;
    pub const ERROR: u16 = 1;
    pub const COUNT: u16 = 2;
    pub const LOW: u16 = 3;
    pub const MIDDLE: u16 = 4;
    pub const HIGH: u16 = 5;
    pub const DEVICE: u16 = 6;
    /// Read: status; reading it also takes the interrupt back.
    pub const STATUS: u16 = 7;
    /// Write: command.
    pub const COMMAND: u16 = 7;
}

/// Bits of the status.
mod status {
    pub const BUSY: u8 = 0x80;
    pub const FAULT: u8 = 0x20;
    pub const DATA: u8 = 0x08;
    pub const ERROR: u8 = 0x01;
}

/// In the device register: device 0, addressed by sector. The other bits of the upper half were ones once.
const DEVICE_0: u8 = 0xe0;
/// In the control register: reset.
const RESET: u8 = 0x04;
/// Ports of the command block.
pub const COMMAND_PORTS: u16 = 8;
/// Ports of the control block.
pub const CONTROL_PORTS: u16 = 1;
/// Reads of the alternate status, at least 100 ns each, until the status is valid (400 ns after a command).
const SETTLE_READS: usize = 4;
/// Reads of it during which a reset is asked for (5 µs).
const RESET_READS: usize = 50;

/// Access to the registers; a trait so that tests can play it.
pub trait Registers {
    /// Reads a register of the command block.
    fn read(&self, register: u16) -> u8;
    /// Writes one.
    fn write(&self, register: u16, value: u8);
    /// Reads a word of data.
    fn read_data(&self) -> u16;
    /// Writes one.
    fn write_data(&self, value: u16);
    /// Reads the alternate status, which changes nothing.
    fn alternate_status(&self) -> u8;
    /// Writes the control register.
    fn control(&self, value: u8);
    /// Lets the channel interrupt again, if it has.
    fn rearm(&self);
}

/// The registers of a real channel.
#[derive(Debug)]
pub struct Legacy {
    /// The command block.
    pub command: IoPorts,
    /// The control block.
    pub control: IoPorts,
    /// Its interrupt.
    pub interrupt: Interrupt,
}

impl Registers for Legacy {
    fn read(&self, register: u16) -> u8 {
        self.command.read8(register)
    }

    fn write(&self, register: u16, value: u8) {
        self.command.write8(register, value);
    }

    fn read_data(&self) -> u16 {
        self.command.read16(register::DATA)
    }

    fn write_data(&self, value: u16) {
        self.command.write16(register::DATA, value);
    }

    fn alternate_status(&self) -> u8 {
        self.control.read8(0)
    }

    fn control(&self, value: u8) {
        self.control.write8(0, value);
    }

    fn rearm(&self) {
        // The line is edge-triggered: unmasked before the status is read, which shows an edge that came too early.
        if self.interrupt.fired()
            && let Err(error) = self.interrupt.unmask()
        {
            log::error!("the interrupt cannot be unmasked: {error}");
        }
    }
}

/// Which way the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Nowhere.
    None,
    /// From the disk.
    In,
    /// To the disk.
    Out,
}

/// A command and its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its code.
    pub code: u8,
    /// The first sector.
    pub sector: u64,
    /// How many, at most [`SECTORS_MAX`].
    pub sectors: usize,
    /// It takes addresses of 48 bits; else of 28.
    pub wide: bool,
    /// Which way the data goes.
    pub transfer: Transfer,
}

/// A command under way: what is left of it, and where in the page it goes on.
#[derive(Clone, Copy, Debug)]
struct Running {
    transfer: Transfer,
    left: usize,
    at: usize,
}

/// The channel.
#[derive(Debug)]
pub struct Channel<R> {
    registers: R,
    running: Option<Running>,
    /// What a command moves. What is read is there once it is done.
    pub page: Box<[u8; PAGE_SIZE as usize]>,
}

impl<R: Registers> Channel<R> {
    /// The channel, if there is anything at its ports: on a bus without a device all lines are high, or all are low.
    pub fn new(registers: R) -> Option<Channel<R>> {
        registers.write(register::DEVICE, DEVICE_0);
        let channel = Channel { registers, running: None, page: Box::new([0; PAGE_SIZE as usize]) };
        channel.settle();
        let status = channel.registers.alternate_status();
        (status != 0xff && status != 0).then_some(channel)
    }

    fn settle(&self) {
        (0..SETTLE_READS).for_each(|_| {
            self.registers.alternate_status();
        });
    }

    /// Begins a reset; what is under way is forgotten.
    pub fn start_reset(&mut self) {
        self.running = None;
        self.registers.control(RESET);
        (0..RESET_READS).for_each(|_| {
            self.registers.alternate_status();
        });
        // With interrupts on.
        self.registers.control(0);
        self.settle();
    }

    /// Whether the device is ready for a command.
    pub fn is_ready(&self) -> Result<bool, Fault> {
        match self.registers.read(register::STATUS) {
            now if now & status::BUSY != 0 => Ok(false),
            now if now & status::DATA != 0 => Err(Fault("it wants to move data that nobody asked for")),
            _ => Ok(true),
        }
    }

    /// Whether the device waits for the driver.
    pub fn is_waiting(&self) -> bool {
        self.registers.read(register::STATUS) & status::BUSY == 0
    }

    /// Lets the channel interrupt again.
    pub fn rearm(&self) {
        self.registers.rearm();
    }

    /// Gives a device that is ready a command.
    pub fn start(&mut self, command: Command) {
        let Command { code, sector, sectors, wide, transfer } = command;
        let [low, middle, high, low_2, middle_2, high_2, ..] = sector.to_le_bytes();
        let device = if wide { DEVICE_0 } else { DEVICE_0 | low_2 & 0x0f };
        let write = |register, value| self.registers.write(register, value);
        write(register::DEVICE, device);
        if wide {
            // Each register has two bytes; what is written first becomes the upper one.
            write(register::COUNT, 0);
            write(register::LOW, low_2);
            write(register::MIDDLE, middle_2);
            write(register::HIGH, high_2);
        }
        write(register::COUNT, sectors as u8);
        write(register::LOW, low);
        write(register::MIDDLE, middle);
        write(register::HIGH, high);
        write(register::COMMAND, code);
        let left = if transfer == Transfer::None { 0 } else { sectors.min(SECTORS_MAX) };
        self.running = Some(Running { transfer, left, at: 0 });
        self.settle();
    }

    /// Goes on with the command under way; each sector is taken from `budget`. Gives its outcome once it is done.
    pub fn advance(&mut self, budget: &mut usize) -> Result<Poll<Outcome>, Fault> {
        while let Some(running) = self.running {
            let now = self.registers.read(register::STATUS);
            if now & status::BUSY != 0 || (running.left > 0 && *budget == 0) {
                return Ok(Poll::Pending);
            }
            if now & (status::ERROR | status::FAULT) != 0 {
                // A disk that goes on wanting data has to be reset before it takes another command.
                if now & status::DATA != 0 {
                    return Err(Fault("it fails and wants to move data"));
                }
                self.running = None;
                let error = self.registers.read(register::ERROR);
                return Ok(Poll::Ready(Err(Cause::Number("the disk answered with error", error.into()))));
            }
            match (running.left, now & status::DATA != 0) {
                (0, false) => self.running = None,
                (0, true) => return Err(Fault("it wants to move more than it was asked for")),
                (_, false) => return Err(Fault("it ends a command before its data is moved")),
                (left, true) => {
                    self.move_sector(running);
                    *budget -= 1;
                    self.running = Some(Running { left: left - 1, at: running.at + SECTOR_BYTES, ..running });
                    self.settle();
                }
            }
        }
        Ok(Poll::Ready(Ok(())))
    }

    fn move_sector(&mut self, Running { transfer, at, .. }: Running) {
        // It lies in the page: no more sectors are left than a page has.
        let Some(sector) = self.page.get_mut(at..at + SECTOR_BYTES) else { return };
        for word in sector.as_chunks_mut::<2>().0 {
            match transfer {
                Transfer::Out => self.registers.write_data(u16::from_le_bytes(*word)),
                _ => *word = self.registers.read_data().to_le_bytes(),
            }
        }
    }
}
