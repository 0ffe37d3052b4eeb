//! Virtio block devices (Virtio 1.2, section 5.2), with one queue as deep as the transport makes it.
//!
//! Requests are chains of descriptors: a header, the pieces, and a byte for the outcome; header and outcome lie in memory of the
//! driver's own, one place for each request under way. Nothing the device writes there is believed but the outcome of a request
//! that is under way.

use alloc::vec::Vec;

use heapless::Vec as Short;
use protocol::layout::PAGE_SIZE;
use protocol::ring::block::{DIRECT_SEGMENTS, SECTOR};
use unikernel::backend::Cause;
use virtio::queue::{Buffer, Dma, Queue, SIZE_MAX, places};
use virtio::transport::{Device, Place, QueueAddresses, Registers, TransportError};

use crate::connection::SEGMENTS_MAX;
use crate::disk::{Costs, Disk, Fault, Operation, Outcome, Piece, Properties};
use crate::partition::TABLE_BYTES;

/// Features (section 5.2.3) that are used where they are offered.
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const ALL: u64 = SEG_MAX | RO | BLK_SIZE | FLUSH | DISCARD;
}

/// Offsets in the device's configuration (section 5.2.4).
mod config {
    pub const CAPACITY: u32 = 0;
    pub const SEG_MAX: u32 = 12;
    pub const BLK_SIZE: u32 = 20;
    pub const MAX_DISCARD_SECTORS: u32 = 36;
}

/// Types of requests (section 5.2.6).
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const DISCARD: u32 = 11;
}

/// The outcome of a request that was carried out.
const OKAY: u8 = 0;
/// What the outcome is until the device writes it.
const PENDING: u8 = 0xff;
/// Bytes of a header, and of what a discard says.
const HEADER: usize = 16;
/// Bytes between two outcomes: each is the first byte of a word, which is read and written faster.
const OUTCOME: usize = 4;
/// Buffers of a request beside its pieces, and those that say what to discard.
const OVERHEAD: usize = 2;
const RANGES: usize = 1;
/// Number of the only queue, and of the interrupt it uses.
const QUEUE: u16 = 0;
/// The tag of the request that reads the partition table, which no connection uses.
const TABLE_TAG: u32 = u32::MAX;

/// Where things lie in the driver's memory. Each lies in pages of its own: only within a page is it certain to be contiguous for the device.
const AT_HEADERS: usize = 2 * PAGE_SIZE as usize;
const AT_DISCARDS: usize = 3 * PAGE_SIZE as usize;
const AT_OUTCOMES: usize = 4 * PAGE_SIZE as usize;
const AT_TABLE: usize = 5 * PAGE_SIZE as usize;
/// Pages of memory that a driver needs.
pub const PAGES: usize = 5 + TABLE_BYTES / PAGE_SIZE as usize;

const _: () = assert!(places(SIZE_MAX as u16).available == PAGE_SIZE as usize);
const _: () = assert!(places(SIZE_MAX as u16).bytes <= AT_HEADERS && SIZE_MAX * HEADER <= PAGE_SIZE as usize);

/// Somebody submitted more than there is room for.
const NO_ROOM: Cause = Cause::Text("the queue is full");

/// A request under way: the caller's tag, and its place in the driver's memory.
type Tag = (u32, u8);

/// A device with its driver.
pub struct Virtio<R, D> {
    device: Device<R>,
    memory: D,
    queue: Queue<Tag>,
    notify: Place,
    properties: Properties,
    max_discard: u64,
    /// The device was asked for an interrupt.
    armed: bool,
}

impl<R: Registers, D: Dma> Virtio<R, D> {
    /// Takes over a device whose reset was begun and is done, with [`PAGES`] pages of zeroed memory.
    pub fn new(device: Device<R>, memory: D) -> Result<Virtio<R, D>, TransportError> {
        let queue = Queue::new(SIZE_MAX as u16).ok_or(TransportError::Queue { number: QUEUE, offered: 0 })?;
        let mut driver = Virtio {
            device,
            memory,
            queue,
            notify: Place { bar: 0, offset: 0 },
            properties: Properties::default(),
            max_discard: 0,
            armed: true,
        };
        driver.start()?;
        Ok(driver)
    }

    /// Begins after a reset.
    fn start(&mut self) -> Result<(), TransportError> {
        let agreed = self.device.negotiate(0, feature::ALL)?;
        let has = |bit: u64| agreed & bit != 0;
        let mut size = SIZE_MAX as u16;
        self.notify = loop {
            let place = places(size);
            let addresses = QueueAddresses {
                descriptors: self.memory.device_address(place.descriptors),
                available: self.memory.device_address(place.available),
                used: self.memory.device_address(place.used),
            };
            match self.device.set_queue(QUEUE, size, Some(QUEUE), addresses) {
                Err(TransportError::Queue { offered, .. }) if offered >= 2 && offered < size => {
                    size = 1 << offered.ilog2();
                }
                outcome => break outcome?,
            }
        };
        self.memory.write(0, &[0; AT_HEADERS]);
        self.queue = Queue::new(size).ok_or(TransportError::Queue { number: QUEUE, offered: size })?;
        let sector_size = if has(feature::BLK_SIZE) { self.device.config32(config::BLK_SIZE) } else { SECTOR as u32 };
        let pieces = if has(feature::SEG_MAX) { self.device.config32(config::SEG_MAX) } else { 1 };
        self.max_discard = self.device.config32(config::MAX_DISCARD_SECTORS).into();
        self.properties = Properties {
            sectors: self.device.config64(config::CAPACITY),
            sector_size,
            read_only: has(feature::RO),
            cache: has(feature::FLUSH),
            discard: has(feature::DISCARD),
            pieces: pieces.min(SEGMENTS_MAX as u32).min(u32::from(size).saturating_sub(OVERHEAD as u32)) as u16,
        };
        self.device.start();
        Ok(())
    }

    /// Why a working device cannot be used, if so.
    pub fn unusable(&self) -> Option<&'static str> {
        let Properties { sector_size, pieces, .. } = self.properties;
        let sizes = SECTOR as u32..=PAGE_SIZE as u32;
        if !sector_size.is_power_of_two() || !sizes.contains(&sector_size) {
            return Some("its sectors are smaller than 512 bytes or larger than a page");
        }
        (usize::from(pieces) < DIRECT_SEGMENTS).then_some("it takes fewer segments than a request may have")
    }

    /// Asks for the first bytes of the disk; `false` if it has none.
    pub fn ask_start(&mut self) -> bool {
        let bytes = (self.properties.sectors.saturating_mul(SECTOR)).min(TABLE_BYTES as u64) as usize;
        let step = PAGE_SIZE as usize;
        let pieces: Short<Piece, { TABLE_BYTES / PAGE_SIZE as usize }> = (0..bytes)
            .step_by(step)
            .map(|at| Piece::own(self.memory.device_address(AT_TABLE + at), (bytes - at) / SECTOR as usize))
            .collect();
        let asked = !pieces.is_empty() && self.submit(TABLE_TAG, Operation::Read { sector: 0 }, &pieces).is_ok();
        self.kick();
        asked
    }

    /// The first bytes of the disk, once they are there; zeros if they could not be read.
    pub fn start_bytes(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some((_, read)) = self.completed()? else { return Ok(None) };
        let mut bytes = alloc::vec![0; TABLE_BYTES];
        if read.is_ok() {
            self.memory.read(AT_TABLE, &mut bytes);
        }
        Ok(Some(bytes))
    }
}

impl<R: Registers, D: Dma> Disk for Virtio<R, D> {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn room(&self) -> usize {
        self.queue.room()
    }

    fn costs(&self) -> Costs {
        Costs { request: OVERHEAD as u16, discard: RANGES as u16 }
    }

    fn submit(&mut self, tag: u32, operation: Operation, pieces: &[Piece]) -> Outcome {
        let (kind, sector) = match operation {
            Operation::Read { sector } => (kind::IN, sector),
            Operation::Write { sector } => (kind::OUT, sector),
            Operation::Flush => (kind::FLUSH, 0),
            Operation::Discard { sectors, .. } if sectors > self.max_discard => {
                return Err(Cause::Number("more sectors than the device discards at once", sectors));
            }
            Operation::Discard { .. } => (kind::DISCARD, 0),
        };
        let mut chain = self.queue.begin(&self.memory).ok_or(NO_ROOM)?;
        let place = chain.place();
        let own = |at: usize, size: usize, length: usize, device_writes: bool| {
            let address = self.memory.device_address(at + usize::from(place) * size);
            Buffer { address, length: length as u32, device_writes }
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.write(AT_HEADERS + usize::from(place) * HEADER, &header);
        self.memory.store_u32(AT_OUTCOMES + usize::from(place) * OUTCOME, PENDING.into());
        let mut fits = chain.push(own(AT_HEADERS, HEADER, HEADER, false));
        if let Operation::Discard { sector, sectors } = operation {
            let mut range = [0; HEADER];
            range[..8].copy_from_slice(&sector.to_le_bytes());
            range[8..12].copy_from_slice(&(sectors as u32).to_le_bytes());
            self.memory.write(AT_DISCARDS + usize::from(place) * HEADER, &range);
            fits &= chain.push(own(AT_DISCARDS, HEADER, HEADER, false));
        }
        for piece in pieces {
            let (address, length) = (piece.address(), piece.length() as u32);
            fits &= chain.push(Buffer { address, length, device_writes: kind == kind::IN });
        }
        if !fits {
            return Err(NO_ROOM);
        }
        chain.end(own(AT_OUTCOMES, OUTCOME, 1, true), (tag, place));
        Ok(())
    }

    fn kick(&mut self) {
        if self.queue.publish(&self.memory) {
            self.device.notify(self.notify, QUEUE);
        }
    }

    fn completed(&mut self) -> Result<Option<(u32, Outcome)>, Fault> {
        if core::mem::take(&mut self.armed) {
            self.queue.disarm(&self.memory);
        }
        let done = self.queue.take(&self.memory).map_err(|_| Fault("it broke the rules of its queue"))?;
        Ok(done.map(|((tag, place), _)| {
            let outcome = self.memory.load_u32(AT_OUTCOMES + usize::from(place) * OUTCOME) as u8;
            let refused = || Cause::Number("the device answered with status", outcome.into());
            (tag, (outcome == OKAY).then_some(()).ok_or_else(refused))
        }))
    }

    fn is_done(&self) -> bool {
        self.queue.is_done(&self.memory)
    }

    fn rearm(&mut self) -> bool {
        self.armed = true;
        self.queue.rearm(&self.memory)
    }

    fn changed(&mut self) -> bool {
        let now = self.device.config64(config::CAPACITY);
        core::mem::replace(&mut self.properties.sectors, now) != now
    }

    fn start_reset(&mut self) {
        self.device.start_reset();
    }

    fn is_reset(&mut self) -> Result<bool, Fault> {
        if !self.device.is_reset() {
            return Ok(false);
        }
        self.start().map_err(|_| Fault("it does not come up again after its reset"))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
