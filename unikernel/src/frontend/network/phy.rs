//! An interface as `smoltcp` wants it.

use alloc::vec::Vec;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::checksum::{is_right, leave_blank};
use super::{Frame, Interface};

/// Bytes of the largest frame: a payload of 1500 behind an Ethernet header.
const FRAME_MAX: usize = 1514;
/// Frames that `smoltcp` may count on being able to send at once.
const BURST: usize = super::PAGES;

/// An interface as a device of `smoltcp`. It has room for a reply to every frame it hands out.
#[derive(Debug)]
pub struct Phy {
    interface: Interface,
    /// Where frames are made, before they are copied to where others can change them.
    scratch: Vec<u8>,
}

impl Phy {
    /// Sends and receives by `interface`.
    pub fn new(interface: Interface) -> Phy {
        Phy { interface, scratch: Vec::with_capacity(FRAME_MAX) }
    }
}

impl Device for Phy {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        if !self.interface.has_room(FRAME_MAX) {
            return None;
        }
        let frame = loop {
            let frame = self.interface.receive()?;
            if frame.checked || is_right(&frame.bytes) {
                break frame;
            }
            self.interface.recycle(frame);
        };
        Some((Received { frame, interface: self.interface.clone() }, Room(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        self.interface.has_room(FRAME_MAX).then_some(Room(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities.max_burst_size = Some(BURST);
        // What arrives is checked here, if the backend does not vouch for it.
        let transport = if self.interface.offload().checksum { Checksum::None } else { Checksum::Tx };
        capabilities.checksum.tcp = transport;
        capabilities.checksum.udp = transport;
        capabilities
    }
}

/// A frame that arrived.
#[derive(Debug)]
pub struct Received {
    frame: Frame,
    interface: Interface,
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(&self.frame.bytes);
        self.interface.recycle(self.frame);
        result
    }
}

/// Room for a frame.
#[derive(Debug)]
pub struct Room<'a>(&'a mut Phy);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, make: F) -> R {
        let Phy { interface, scratch } = self.0;
        scratch.clear();
        scratch.resize(length, 0);
        let result = make(scratch);
        let blank = interface.offload().checksum && leave_blank(scratch);
        // It is lost without room, as on a wire; there was some when the token was given.
        let _ = interface.send(scratch, blank);
        result
    }
}
