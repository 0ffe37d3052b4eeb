//! What the bridge wants of a network device: the trait that every driver implements.
//!
//! A driver keeps its own buffers, which guests' frames are copied into and received frames are copied out of: no guest's
//! page is ever with a device, so a device that is reset or a driver that dies leaves no page behind in use.

use core::time::Duration;

use protocol::ring::Shared;
use unikernel::area::Area;
use unikernel::device::DmaBuffer;
use virtio::queue::Dma;

use crate::bridge::frame::Mac;
use crate::checksum::Blank;

/// Bytes of the longest frame on the wire, with a VLAN tag and without checksum.
pub const FRAME_MAX: usize = crate::bridge::frame::WIRE_MAX + 4;

/// What is known of the checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    #[default]
    Unknown,
    /// It is right.
    Right,
    /// It is blank.
    Blank,
}

/// A frame that came in. It lies in the driver's memory until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where it begins.
    pub at: u32,
    /// Bytes; at most [`FRAME_MAX`], and all in one page.
    pub length: u16,
    /// Its checksum.
    pub checksum: Checksum,
}

/// Memory that a device reaches, and copies do, too.
pub trait Buffers: Dma {
    /// What copies know it as.
    type Memory: Shared;

    /// The same bytes.
    fn memory(&self) -> &Self::Memory;
}

impl Buffers for DmaBuffer {
    type Memory = Area;

    fn memory(&self) -> &Area {
        self.area()
    }
}

/// A network device with its driver. Nothing here waits, and every call does bounded work.
pub trait Wire {
    /// The driver's buffers.
    type Memory: Shared;

    /// The device's address.
    fn mac(&self) -> Mac;
    /// Whether there is a link.
    fn link(&self) -> bool;
    /// The memory that frames lie in, both ways.
    fn memory(&self) -> &Self::Memory;

    /// Frames that can be reserved now.
    fn room(&mut self) -> usize;
    /// A place for a frame of up to [`FRAME_MAX`] bytes, all in one page. To be sent or given up.
    fn reserve(&mut self) -> Option<u32>;
    /// Queues the frame in a place that was reserved. A blank checksum is for the driver to fill in.
    fn send(&mut self, at: u32, length: u16, blank: Option<Blank>);
    /// Gives up a place that was reserved.
    fn give_up(&mut self, at: u32);

    /// The next frame that came in.
    fn receive(&mut self) -> Option<Arrival>;
    /// Gives the place of an arrival back.
    fn recycle(&mut self, at: u32);

    /// Shows the device what was queued and given back.
    fn flush(&mut self);
    /// Asks for an interrupt at the next arrival - and, if `blocked`, when there is room again - and looks once more: `true` if
    /// one came meanwhile.
    fn rearm(&mut self, blocked: bool) -> bool;
    /// The domain is awake and looks by itself: no interrupts, please.
    fn awake(&mut self);
    /// The domain is about to sleep: how soon the device is to be looked at again, if it raises no interrupts.
    fn look_again(&mut self) -> Option<Duration> {
        None
    }
    /// Comes now and then. A device that has kept a frame too long is reset, and the driver goes on. Gives since when the device
    /// has been owing, in ns; 0 if it does not.
    fn tick(&mut self, now: u64) -> u64;
}
