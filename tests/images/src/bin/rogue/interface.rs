//! Network rings without the library that keeps guests honest.

use alloc::string::String;
use core::cell::{OnceCell, RefCell};

use protocol::connection::Offload;
use protocol::control::FromDomain;
use protocol::event::Port;
use protocol::ring::Shared;
use protocol::ring::net::{RECEIVE, ReceiveRequest, TRANSMIT, TransmitRequest};
use protocol::ring::sring::{Front, REQUEST_PRODUCER, initialise};
use unikernel::event::Channel;
use unikernel::grant::{Access, Granted};
use unikernel::pages::Page;

use crate::told;

/// What is there once dom0 has offered the interface.
pub struct Wires {
    /// The page of the transmit ring.
    pub transmit: Granted,
    /// The page of the receive ring.
    pub receive: Granted,
    /// A page for frames.
    pub data: Granted,
    /// Its address.
    pub mac: [u8; 6],
    channel: Channel,
    sending: RefCell<Front>,
    receiving: RefCell<Front>,
}

/// The interface.
#[derive(Default)]
pub struct Interface(OnceCell<Wires>);

impl Interface {
    /// Answers the offer.
    pub fn offer(&self, peer: u16, port: Port, mac: [u8; 6]) -> Result<FromDomain, String> {
        let page = || Granted::new(Page::new().map_err(told)?, peer, Access::Write).map_err(told);
        let wires = Wires {
            transmit: page()?,
            receive: page()?,
            data: page()?,
            mac,
            channel: Channel::new(port),
            sending: RefCell::new(Front::new(TRANSMIT)),
            receiving: RefCell::new(Front::new(RECEIVE)),
        };
        initialise(&wires.transmit);
        initialise(&wires.receive);
        let (transmit, receive) = (wires.transmit.reference(), wires.receive.reference());
        self.0.set(wires).map_err(|_| String::from("the interface was offered twice"))?;
        let offload = Offload { checksum: true, scatter_gather: true };
        Ok(FromDomain::NetworkRings { transmit, receive, offload })
    }

    /// The rings and what belongs to them.
    pub fn wires(&self) -> Result<&Wires, String> {
        self.0.get().ok_or_else(|| "there is no interface".into())
    }
}

impl Wires {
    /// Writes and publishes slots of the transmit ring, and tells the backend.
    pub fn send(&self, slots: &[[u8; 12]]) -> Result<(), String> {
        let mut front = self.sending.borrow_mut();
        for slot in slots {
            if !front.write(&self.transmit, slot) {
                return Err("the ring is full".into());
            }
        }
        let _ = front.publish(&self.transmit);
        self.kick();
        Ok(())
    }

    /// Posts one buffer.
    pub fn post(&self, request: ReceiveRequest) -> Result<(), String> {
        let mut front = self.receiving.borrow_mut();
        if !front.write(&self.receive, &request.encode()) {
            return Err("the ring is full".into());
        }
        let _ = front.publish(&self.receive);
        self.kick();
        Ok(())
    }

    /// Publishes any index as the producer of the transmit ring.
    pub fn claim(&self, index: u32) {
        self.transmit.store_u32(REQUEST_PRODUCER, index);
        self.kick();
    }

    fn kick(&self) {
        // A backend that closed the connection does not hear it.
        let _ = self.channel.send();
    }

    /// The next answer on the transmit ring: id and status.
    pub fn sent(&self) -> Option<(u16, i16)> {
        let mut raw = [0; 4];
        let found = self.sending.borrow_mut().take(&self.transmit, &mut raw);
        let [a, b, c, d] = raw;
        matches!(found, Ok(true)).then(|| (u16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])))
    }

    /// A slot for a frame that lies in the data page.
    pub fn slot(&self, size: u16) -> TransmitRequest {
        TransmitRequest { reference: self.data.reference(), size, id: 7, ..TransmitRequest::default() }
    }

    /// Puts the head of a frame from `source` to everybody into the data page.
    pub fn head(&self, source: [u8; 6]) {
        let mut head = [0xff; 14];
        head[6..12].copy_from_slice(&source);
        // An EtherType for experiments (IEEE 802, local).
        head[12..].copy_from_slice(&[0x88, 0xb5]);
        self.data.write(0, &head);
    }
}
