//! The driver for virtio network devices (Virtio 1.2, section 5.1).
//!
//! Two queues of 256 frames, a buffer of its own for each. One vector for both: which queue has something shows in its memory.
//! Interrupts are asked for only before the domain sleeps, and for transmit only if somebody waits for room.

use alloc::vec::Vec;

use protocol::ring::Shared;
use virtio::queue::{Buffer, DeviceError, Dma, Queue, places};
use virtio::transport::{Device, Place, QueueAddresses, Registers, TransportError};

use crate::bridge::frame::Mac;
use crate::checksum::Blank;
use crate::patience::Patience;
use crate::wire::{Arrival, Buffers, Checksum, FRAME_MAX, Wire};

/// Frames each way.
const FRAMES: u16 = 256;
/// Bytes of a buffer: a header and the longest frame, two to a page.
const BUFFER: usize = 2048;
/// Bytes of the header before each frame (5.1.6).
const HEADER: usize = 12;
/// Numbers of the queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Pages of each queue's rings.
const QUEUE: usize = places(FRAMES).bytes.next_multiple_of(4096);
const RECEIVE_BUFFERS: usize = 2 * QUEUE;
const TRANSMIT_BUFFERS: usize = RECEIVE_BUFFERS + FRAMES as usize * BUFFER;

/// Bytes of memory the driver needs. Nothing in it that a device must find in one piece crosses the end of a page.
pub const MEMORY: usize = TRANSMIT_BUFFERS + FRAMES as usize * BUFFER;

const _: () = assert!(HEADER + FRAME_MAX <= BUFFER && 4096 % BUFFER == 0);
const _: () = assert!(places(FRAMES).available == 4096 && places(FRAMES).bytes <= 2 * 4096);

/// How often the status is read again before a reset is left for the next tick.
const RESET_POLLS: usize = 1000;

/// Feature bits (5.1.3).
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MAC: u64 = 1 << 5;
    pub const STATUS: u64 = 1 << 16;
}

/// In the header: the checksum is blank.
const NEEDS_CSUM: u8 = 1;
/// In the header: the checksum is right.
const DATA_VALID: u8 = 2;
/// In the configuration: there is a link.
const LINK_UP: u32 = 1;
/// Offset of the status in the configuration; it shares a word with the end of the address.
const CONFIG_STATUS: u32 = 4;

/// A device with its driver.
#[derive(Debug)]
pub struct VirtioNet<R, D> {
    device: Device<R>,
    memory: D,
    vector: Option<u16>,
    mac: Mac,
    features: u64,
    receive: Queue<u32>,
    transmit: Queue<u32>,
    notify: [Place; 2],
    /// Places for frames to be sent that are free.
    free: Vec<u32>,
    /// Places being filled.
    reserved: usize,
    running: bool,
    /// Frames that the device is done with, ever.
    done: u64,
    patience: Patience,
    resets: u32,
}

impl<R: Registers, D: Buffers> VirtioNet<R, D> {
    /// Resets the device, and starts it. `memory` has [`MEMORY`] zeroed bytes.
    pub fn new(device: Device<R>, memory: D, vector: Option<u16>) -> Result<VirtioNet<R, D>, TransportError> {
        let queue = || Queue::new(FRAMES).ok_or(TransportError::Queue { number: RECEIVE, offered: 0 });
        let nowhere = Place { bar: 0, offset: 0 };
        let mut driver = VirtioNet {
            device,
            memory,
            vector,
            mac: [0; 6],
            features: 0,
            receive: queue()?,
            transmit: queue()?,
            notify: [nowhere; 2],
            free: Vec::with_capacity(FRAMES as usize),
            reserved: 0,
            running: false,
            done: 0,
            patience: Patience::default(),
            resets: 0,
        };
        driver.start()?;
        Ok(driver)
    }

    /// From reset to running. Every buffer is the driver's afterwards; frames that were with the device are lost.
    fn start(&mut self) -> Result<(), TransportError> {
        self.running = false;
        self.device.start_reset();
        if !(0..RESET_POLLS).any(|_| self.device.is_reset()) {
            return Err(TransportError::Reset);
        }
        let wanted = feature::CSUM | feature::GUEST_CSUM | feature::STATUS;
        self.features = self.device.negotiate(feature::MAC, wanted)?;
        let zeros = [0; 256];
        (0..2 * QUEUE / zeros.len()).for_each(|part| self.memory.write(part * zeros.len(), &zeros));
        for (number, queue) in [(RECEIVE, &mut self.receive), (TRANSMIT, &mut self.transmit)] {
            let (base, parts) = (number as usize * QUEUE, places(FRAMES));
            let address = |offset: usize| self.memory.device_address(base + offset);
            let addresses = QueueAddresses {
                descriptors: address(parts.descriptors),
                available: address(parts.available),
                used: address(parts.used),
            };
            self.notify[number as usize] = self.device.set_queue(number, FRAMES, self.vector, addresses)?;
            *queue = Queue::new(FRAMES).ok_or(TransportError::Queue { number, offered: 0 })?;
        }
        self.free.clear();
        self.free.extend((0..u32::from(FRAMES)).map(|number| buffer(TRANSMIT_BUFFERS, number)));
        self.reserved = 0;
        let [low, high] = [self.device.config32(0), self.device.config32(4)].map(u32::to_le_bytes);
        self.mac = [low[0], low[1], low[2], low[3], high[0], high[1]];
        self.device.start();
        self.running = true;
        (0..u32::from(FRAMES)).for_each(|number| self.post(buffer(RECEIVE_BUFFERS, number)));
        let (receive, transmit) = self.rings();
        self.receive.disarm(&receive);
        self.transmit.disarm(&transmit);
        self.flush();
        Ok(())
    }

    /// The memory of each queue.
    fn rings(&self) -> (Part<'_, D>, Part<'_, D>) {
        (Part { memory: &self.memory, base: 0 }, Part { memory: &self.memory, base: QUEUE })
    }

    /// Gives the device a buffer to be filled.
    fn post(&mut self, at: u32) {
        let buffer = self.buffer(at, BUFFER, true);
        self.receive.add(&Part { memory: &self.memory, base: 0 }, &[buffer], at);
    }

    fn buffer(&self, at: u32, length: usize, device_writes: bool) -> Buffer {
        Buffer { address: self.memory.device_address(at as usize), length: length as u32, device_writes }
    }

    /// Takes back what was sent.
    fn reclaim(&mut self) {
        while self.running {
            match self.transmit.take(&Part { memory: &self.memory, base: QUEUE }) {
                Ok(Some((at, _))) => {
                    self.free.push(at);
                    self.done += 1;
                }
                Ok(None) => return,
                Err(error) => self.fault(error),
            }
        }
    }

    /// The device broke the rules. It is reset at the next tick, when no frame is on its way to or from a buffer.
    fn fault(&mut self, error: DeviceError) {
        log::error!("the network device is at fault and will be reset: {error:?}");
        self.running = false;
    }

    fn restart(&mut self) {
        self.resets += 1;
        if let Err(error) = self.start() {
            log::error!("the network device does not come back, which is tried again: {error:?}");
        }
    }

    /// Frames with the device.
    fn pending(&self) -> usize {
        FRAMES as usize - self.free.len() - self.reserved
    }

    /// Times it was reset.
    pub const fn resets(&self) -> u32 {
        self.resets
    }
}

/// Where a buffer begins.
const fn buffer(base: usize, number: u32) -> u32 {
    base as u32 + number * BUFFER as u32
}

/// A part of the memory, as a queue sees it.
struct Part<'m, D> {
    memory: &'m D,
    base: usize,
}

impl<D: Dma> Shared for Part<'_, D> {
    fn load_u32(&self, offset: usize) -> u32 {
        self.memory.load_u32(self.base + offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.memory.store_u32(self.base + offset, value);
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.memory.read(self.base + offset, out);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.memory.write(self.base + offset, bytes);
    }
    fn fence(&self) {
        self.memory.fence();
    }
}

impl<D: Dma> Dma for Part<'_, D> {
    fn load_u16(&self, offset: usize) -> u16 {
        self.memory.load_u16(self.base + offset)
    }
    fn store_u16(&self, offset: usize, value: u16) {
        self.memory.store_u16(self.base + offset, value);
    }
    fn device_address(&self, offset: usize) -> u64 {
        self.memory.device_address(self.base + offset)
    }
}

impl<R: Registers, D: Buffers> Wire for VirtioNet<R, D> {
    type Memory = D::Memory;

    fn mac(&self) -> Mac {
        self.mac
    }

    fn link(&self) -> bool {
        let said = self.features & feature::STATUS == 0 || self.device.config32(CONFIG_STATUS) >> 16 & LINK_UP != 0;
        self.running && said
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
        let at = self.free.pop()?;
        self.reserved += 1;
        Some(at + HEADER as u32)
    }

    fn send(&mut self, at: u32, length: u16, blank: Option<Blank>) {
        self.reserved = self.reserved.saturating_sub(1);
        let (frame, start) = (at as usize, at - HEADER as u32);
        let mut header = [0; HEADER];
        if let Some(blank) = blank {
            if self.features & feature::CSUM != 0 {
                blank.prepare(&self.memory, frame);
                header[0] = NEEDS_CSUM;
                header[6..8].copy_from_slice(&blank.start.to_le_bytes());
                header[8..10].copy_from_slice(&blank.field.to_le_bytes());
            } else {
                blank.fill(&self.memory, frame);
            }
        }
        self.memory.write(start as usize, &header);
        let buffer = self.buffer(start, HEADER + length as usize, false);
        if !self.transmit.add(&Part { memory: &self.memory, base: QUEUE }, &[buffer], start) {
            // There are as many places as descriptors.
            self.free.push(start);
        }
    }

    fn give_up(&mut self, at: u32) {
        self.reserved = self.reserved.saturating_sub(1);
        self.free.push(at - HEADER as u32);
    }

    fn receive(&mut self) -> Option<Arrival> {
        while self.running {
            let taken = self.receive.take(&Part { memory: &self.memory, base: 0 });
            let (start, written) = match taken {
                Ok(taken) => taken?,
                Err(error) => {
                    self.fault(error);
                    return None;
                }
            };
            let length = (written as usize).wrapping_sub(HEADER);
            if length > FRAME_MAX {
                // A runt of a header, or longer than was asked for.
                self.post(start);
                continue;
            }
            let mut header = [0; HEADER];
            self.memory.read(start as usize, &mut header);
            let checksum = match header[0] & (NEEDS_CSUM | DATA_VALID) {
                _ if self.features & feature::GUEST_CSUM == 0 => Checksum::Unknown,
                0 => Checksum::Unknown,
                DATA_VALID => Checksum::Right,
                _ => Checksum::Blank,
            };
            return Some(Arrival { at: start + HEADER as u32, length: length as u16, checksum });
        }
        None
    }

    fn recycle(&mut self, at: u32) {
        self.post(at - HEADER as u32);
    }

    fn flush(&mut self) {
        if !self.running {
            return;
        }
        let (receive, transmit) = self.rings();
        let wanted = [self.receive.publish(&receive), self.transmit.publish(&transmit)];
        for (number, wanted) in [(RECEIVE, wanted[0]), (TRANSMIT, wanted[1])] {
            if wanted {
                self.device.notify(self.notify[number as usize], number);
            }
        }
    }

    fn rearm(&mut self, blocked: bool) -> bool {
        if !self.running {
            return false;
        }
        let (receive, transmit) = self.rings();
        let more = blocked && self.transmit.rearm(&transmit);
        self.receive.rearm(&receive) || more
    }

    fn awake(&mut self) {
        let (receive, transmit) = self.rings();
        self.receive.disarm(&receive);
        self.transmit.disarm(&transmit);
    }

    fn tick(&mut self, now: u64) -> u64 {
        if !self.running || self.device.needs_reset() {
            self.restart();
        }
        self.reclaim();
        let owes = !self.running || self.pending() > 0;
        if self.patience.is_over(now, owes, self.done) && self.running {
            log::error!("the network device has kept {} frames for too long and is reset", self.pending());
            self.restart();
            if self.running {
                self.patience.begin(now);
            }
        }
        if owes { self.patience.since() } else { 0 }
    }
}
