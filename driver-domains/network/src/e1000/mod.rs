//! The driver for Intel's 82540EM, which several emulators have, too.
//!
//! Two rings of 256 descriptors, and a buffer of the driver's own for each. The device has no messages for interrupts, and the core
//! passes on no others of PCI devices, so it is looked at by the clock: often while frames come and go, now and then while none do.

pub mod registers;
mod ring;

use alloc::vec::Vec;
use core::time::Duration;

use crate::bridge::frame::Mac;
use crate::checksum::Blank;
use crate::patience::Patience;
use crate::wire::{Arrival, Buffers, Checksum, FRAME_MAX, Wire};
use registers::{Registers, at, ring as register};
use ring::{DESCRIPTOR, Done, Ring};

/// Vendor and device id.
pub const ID: (u16, u16) = (0x8086, 0x100e);
/// The BAR with the registers.
pub const BAR: u8 = 0;

/// Descriptors of a ring; a multiple of 8.
const FRAMES: usize = 256;
/// Frames each way: a descriptor of each ring stays free.
const PLACES: u32 = FRAMES as u32 - 1;
/// Bytes of a buffer, two to a page; the device is told.
const BUFFER: usize = 2048;
/// Bytes of a ring.
const RING: usize = FRAMES * DESCRIPTOR;
const RECEIVE_BUFFERS: usize = 2 * RING;
const TRANSMIT_BUFFERS: usize = RECEIVE_BUFFERS + FRAMES * BUFFER;

/// Bytes of memory the driver needs. Nothing in it that the device must find in one piece crosses the end of a page.
pub const MEMORY: usize = TRANSMIT_BUFFERS + FRAMES * BUFFER;

const _: () = assert!(FRAME_MAX <= BUFFER && 4096 % BUFFER == 0 && RING == 4096);

/// How a frame is sent: the descriptor is its last; with a checksum at its end; say when it is done.
const SEND: u8 = 1 | 2 | 8;
/// What the device says of a frame: this descriptor is its last.
const LAST: u16 = 2;
/// It was damaged on the wire.
const DAMAGED: u16 = 0xff00;

/// Reads of the registers until a reset is left for the next tick.
const RESET_POLLS: usize = 1000;
/// Time between two looks while frames come or go: as short as a guest's patience with a page is long.
const LOOK: Duration = Duration::from_millis(1);
/// The same while none do.
const LOOK_IDLE: Duration = Duration::from_millis(10);
/// Looks that find nothing until the device counts as idle.
const QUIET: u32 = 100;

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It does not come out of its reset.
    Reset,
    /// It has no address.
    Address,
}

/// A device with its driver.
#[derive(Debug)]
pub struct E1000<R, D> {
    registers: R,
    memory: D,
    mac: Mac,
    receive: Ring,
    transmit: Ring,
    /// Places for frames to be sent that are free.
    free: Vec<u32>,
    /// The rest of this frame is thrown away.
    skipping: bool,
    /// The device does not know of the last descriptors of the rings: receive, transmit.
    unshown: [bool; 2],
    running: bool,
    /// Frames that the device is done with, ever, and those of them sent.
    done: u64,
    sent: u64,
    /// Frames it was done with, and those under way, at the last look; and looks since that changed.
    looked: (u64, usize),
    quiet: u32,
    patience: Patience,
}

impl<R: Registers, D: Buffers> E1000<R, D> {
    /// Starts a device that was reset. `memory` has [`MEMORY`] zeroed bytes.
    pub fn new(registers: R, memory: D) -> Result<E1000<R, D>, Problem> {
        let mac = registers::address(&registers).ok_or(Problem::Address)?;
        let mut driver = E1000 {
            registers,
            memory,
            mac,
            receive: Ring::new(0),
            transmit: Ring::new(RING),
            free: Vec::with_capacity(PLACES as usize),
            skipping: false,
            unshown: [false; 2],
            running: false,
            done: 0,
            sent: 0,
            looked: (0, 0),
            quiet: 0,
            patience: Patience::default(),
        };
        driver.start()?;
        Ok(driver)
    }

    /// From reset to running. Every buffer is the driver's afterwards; frames that were with the device are lost.
    fn start(&mut self) -> Result<(), Problem> {
        self.running = false;
        registers::start_reset(&self.registers);
        if !(0..RESET_POLLS).any(|_| registers::is_reset(&self.registers)) {
            return Err(Problem::Reset);
        }
        let registers = &self.registers;
        registers.write(at::INTERRUPT_MASK_CLEAR, u32::MAX);
        registers::set_address(registers, self.mac);
        for (ring, base) in [(at::RECEIVE_RING, 0), (at::TRANSMIT_RING, RING)] {
            let address = self.memory.device_address(base);
            registers.write(ring + register::ADDRESS_LOW, address as u32);
            registers.write(ring + register::ADDRESS_HIGH, (address >> 32) as u32);
            registers.write(ring + register::LENGTH, RING as u32);
            registers.write(ring + register::HEAD, 0);
            registers.write(ring + register::TAIL, 0);
        }
        registers.write(at::CONTROL, registers::LINK);
        registers.write(at::GAP, registers::GAPS);
        self.receive.clear();
        self.transmit.clear();
        self.skipping = false;
        self.free.clear();
        self.free.extend((0..PLACES).map(|number| buffer(TRANSMIT_BUFFERS, number)));
        self.running = true;
        (0..PLACES).for_each(|number| self.post(buffer(RECEIVE_BUFFERS, number)));
        self.registers.write(at::RECEIVE, registers::RECEIVE_ALL | registers::ON);
        self.registers.write(at::TRANSMIT, registers::TRANSMIT_PADDED | registers::ON);
        self.flush();
        Ok(())
    }

    /// Gives the device a buffer to be filled.
    fn post(&mut self, at: u32) {
        self.unshown[0] |= self.receive.add(&self.memory, at, 0, 0);
    }

    /// Takes back what was sent.
    fn reclaim(&mut self) {
        // No more than were under way: a device that lies could go on for ever.
        for _ in 0..self.transmit.used() {
            let Some(Done { at, .. }) = self.transmit.take(&self.memory) else { return };
            self.free.push(at);
            self.sent += 1;
            self.done += 1;
        }
    }

    fn restart(&mut self) {
        if let Err(problem) = self.start() {
            log::error!("the network device does not come back, which is tried again: {problem:?}");
        }
    }
}

/// Where a buffer begins.
const fn buffer(base: usize, number: u32) -> u32 {
    base as u32 + number * BUFFER as u32
}

impl<R: Registers, D: Buffers> Wire for E1000<R, D> {
    type Memory = D::Memory;

    fn mac(&self) -> Mac {
        self.mac
    }

    fn link(&self) -> bool {
        self.running && self.registers.read(at::STATUS) & registers::LINK_UP != 0
    }

    fn memory(&self) -> &D::Memory {
        self.memory.memory()
    }

    fn room(&mut self) -> usize {
        if self.free.is_empty() {
            self.reclaim();
        }
        self.free.len()
    }

    fn reserve(&mut self) -> Option<u32> {
        if self.room() == 0 || !self.running {
            return None;
        }
        self.free.pop()
    }

    fn send(&mut self, at: u32, length: u16, blank: Option<Blank>) {
        if let Some(blank) = blank {
            blank.fill(&self.memory, at as usize);
        }
        match self.transmit.add(&self.memory, at, length, SEND) {
            true => self.unshown[1] = true,
            // There are as many places as descriptors.
            false => self.free.push(at),
        }
    }

    fn give_up(&mut self, at: u32) {
        self.free.push(at);
    }

    fn receive(&mut self) -> Option<Arrival> {
        // No more than were with the device: one that lies could go on for ever.
        for _ in 0..self.receive.used() {
            let Done { at, length, says } = self.receive.take(&self.memory)?;
            self.done += 1;
            let (whole, skipped) = (says & LAST != 0, self.skipping);
            self.skipping = !whole;
            if whole && !skipped && says & DAMAGED == 0 && (1..=FRAME_MAX).contains(&length.into()) {
                return Some(Arrival { at, length, checksum: Checksum::Unknown });
            }
            self.post(at);
        }
        None
    }

    fn recycle(&mut self, at: u32) {
        self.post(at);
    }

    fn flush(&mut self) {
        if !self.running {
            return;
        }
        let rings = [(at::RECEIVE_RING, self.receive.tail()), (at::TRANSMIT_RING, self.transmit.tail())];
        for ((ring, tail), unshown) in rings.into_iter().zip(core::mem::take(&mut self.unshown)) {
            if unshown {
                self.memory.fence();
                self.registers.write(ring + register::TAIL, tail);
            }
        }
    }

    fn rearm(&mut self, blocked: bool) -> bool {
        let more = self.receive.is_done(&self.memory) || (blocked && self.transmit.is_done(&self.memory));
        self.running && more
    }

    fn awake(&mut self) {}

    fn look_again(&mut self) -> Option<Duration> {
        let now = (self.done, self.transmit.used());
        let moved = core::mem::replace(&mut self.looked, now) != now;
        self.quiet = if moved { 0 } else { self.quiet.saturating_add(1) };
        Some(if self.quiet < QUIET { LOOK } else { LOOK_IDLE })
    }

    fn tick(&mut self, now: u64) -> u64 {
        if !self.running {
            self.restart();
        }
        self.reclaim();
        let owes = !self.running || self.transmit.used() > 0;
        if self.patience.is_over(now, owes, self.sent) && self.running {
            log::error!("the network device has kept {} frames for too long and is reset", self.transmit.used());
            self.restart();
            if self.running {
                self.patience.begin(now);
            }
        }
        if owes { self.patience.since() } else { 0 }
    }
}

#[cfg(test)]
mod tests;
