//! Network requests and responses: the layout of Xen's `netif` (`public/io/netif.h`).
//!
//! Two rings: on *transmit* the frontend sends, a packet being one or more slots; on *receive* it posts pages that the backend
//! fills. A receive response goes to the very index of the request it consumes.

use super::sring::Geometry;
use crate::grant::GrantRef;

/// The transmit ring of one page.
pub const TRANSMIT: Geometry = Geometry::of(1, 12);
/// The receive ring of one page.
pub const RECEIVE: Geometry = Geometry::of(1, 8);
/// Largest packet, in bytes, headers included.
pub const PACKET_MAX: usize = 65535;
/// Slots of one packet that a backend accepts (`XEN_NETIF_NR_SLOTS_MIN`).
pub const SLOTS_MAX: usize = 18;
/// Smallest frame a bridge forwards: destination, source and type of an Ethernet header.
pub const FRAME_MIN: usize = 14;

/// Flags of transmit requests ([`flag::transmit`]) and receive responses ([`flag::receive`]).
pub mod flag {
    /// On transmit: the checksum is left to the receiver.
    pub mod transmit {
        #![allow(missing_docs)]
        pub const CHECKSUM_BLANK: u16 = 1;
        pub const DATA_VALIDATED: u16 = 2;
        pub const MORE_DATA: u16 = 4;
        pub const EXTRA_INFO: u16 = 8;
    }
    /// On receive; the first two are the other way round.
    pub mod receive {
        #![allow(missing_docs)]
        pub const DATA_VALIDATED: u16 = 1;
        pub const CHECKSUM_BLANK: u16 = 2;
        pub const MORE_DATA: u16 = 4;
        pub const EXTRA_INFO: u16 = 8;
    }
}

/// Status of a response that is no byte count.
pub mod status {
    /// Sent.
    pub const OKAY: i16 = 0;
    /// Malformed.
    pub const ERROR: i16 = -1;
    /// Dropped, as a wire may.
    pub const DROPPED: i16 = -2;
    /// The slot held extra information.
    pub const NULL: i16 = 1;
}

/// A slot of the transmit ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmitRequest {
    /// Page with the data.
    pub reference: GrantRef,
    /// Offset of the data in it.
    pub offset: u16,
    /// [`flag::transmit`] bits.
    pub flags: u16,
    /// Echoed.
    pub id: u16,
    /// Bytes: of the whole packet in its first slot, of this slot in the others.
    pub size: u16,
}

impl TransmitRequest {
    /// Reads a slot.
    pub fn parse(raw: &[u8; 12]) -> TransmitRequest {
        let half = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let reference = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        TransmitRequest { reference, offset: half(4), flags: half(6), id: half(8), size: half(10) }
    }

    /// The slot's bytes.
    pub fn encode(self) -> [u8; 12] {
        let mut raw = [0; 12];
        raw[..4].copy_from_slice(&self.reference.to_le_bytes());
        for (at, value) in [(4, self.offset), (6, self.flags), (8, self.id), (10, self.size)] {
            raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        raw
    }
}

/// A slot of extra information, after the first slot of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// What kind.
    pub kind: u8,
    /// Another one follows.
    pub more: bool,
}

impl Extra {
    /// Kinds of extra information there are (`XEN_NETIF_EXTRA_TYPE_MAX` less the unused zero): a packet has one of each at most.
    pub const KINDS: usize = 4;

    /// A hash of the frame's flow (`XEN_NETIF_EXTRA_TYPE_HASH`), which may be ignored. All others ask for something that has to
    /// be offered first.
    pub const HASH: u8 = 4;

    /// Reads a slot: type, flags.
    pub const fn parse(raw: &[u8; 12]) -> Extra {
        Extra { kind: raw[0], more: raw[1] & 1 != 0 }
    }
}

/// The bytes of a transmit response.
pub fn transmit_response(id: u16, status: i16) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_le_bytes(), status.to_le_bytes());
    [a, b, c, d]
}

/// A slot of the receive ring: a page to be filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// Echoed.
    pub id: u16,
    /// The page.
    pub reference: GrantRef,
}

impl ReceiveRequest {
    /// Reads a slot.
    pub fn parse(raw: &[u8; 8]) -> ReceiveRequest {
        ReceiveRequest {
            id: u16::from_le_bytes([raw[0], raw[1]]),
            reference: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
        }
    }

    /// The slot's bytes.
    pub fn encode(self) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (self.id.to_le_bytes(), self.reference.to_le_bytes());
        [a, b, 0, 0, c, d, e, f]
    }
}

/// A response on the receive ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveResponse {
    /// Of the request.
    pub id: u16,
    /// Offset of the data in the page.
    pub offset: u16,
    /// [`flag::receive`] bits.
    pub flags: u16,
    /// Bytes, or a negative [`status`].
    pub status: i16,
}

impl ReceiveResponse {
    /// Reads a slot.
    pub fn parse(raw: &[u8; 8]) -> ReceiveResponse {
        let half = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        ReceiveResponse { id: half(0), offset: half(2), flags: half(4), status: half(6) as i16 }
    }

    /// The slot's bytes.
    pub fn encode(self) -> [u8; 8] {
        let mut raw = [0; 8];
        for (at, value) in [(0, self.id), (2, self.offset), (4, self.flags), (6, self.status as u16)] {
            raw[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        raw
    }
}

/// Why a packet on the transmit ring is refused. Its slots are answered with [`status::ERROR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// More slots than [`SLOTS_MAX`].
    TooManySlots,
    /// A slot crosses the end of its page, or is empty.
    Slot {
        /// Its place in the packet.
        index: usize,
    },
    /// The slots do not add up to the size in the first one.
    Size {
        /// What the first slot says.
        said: u16,
        /// What the others hold together.
        others: u32,
    },
    /// Shorter than [`FRAME_MIN`].
    Runt,
    /// Extra information that asks for what was not offered, such as to be cut into segments.
    NotOffered,
}

/// Judges the data slots of one packet and gives the bytes that each holds.
pub fn packet(slots: &[TransmitRequest]) -> Result<heapless::Vec<u16, SLOTS_MAX>, BadPacket> {
    let Some((first, others)) = slots.split_first() else { return Err(BadPacket::Runt) };
    let rest: u32 = others.iter().map(|slot| slot.size as u32).sum();
    let own = (first.size as u32).checked_sub(rest);
    let own = own.ok_or(BadPacket::Size { said: first.size, others: rest })? as u16;
    if (first.size as usize) < FRAME_MIN {
        return Err(BadPacket::Runt);
    }
    let mut sizes = heapless::Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        let size = if index == 0 { own } else { slot.size };
        if size == 0 || slot.offset as u64 + size as u64 > crate::layout::PAGE_SIZE {
            return Err(BadPacket::Slot { index });
        }
        sizes.push(size).map_err(|_| BadPacket::TooManySlots)?;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(offset: u16, size: u16) -> TransmitRequest {
        TransmitRequest { offset, size, ..Default::default() }
    }

    #[test]
    fn rings_have_the_sizes_of_the_protocol() {
        assert_eq!((TRANSMIT.entries, RECEIVE.entries), (256, 256));
        assert_eq!(Geometry::of(1, super::super::block::REQUEST_SIZE).entries, 32);
    }

    #[test]
    fn packets_are_judged_slot_by_slot() {
        assert_eq!(packet(&[slot(97, 5000), slot(0, 1000)]).unwrap_err(), BadPacket::Slot { index: 0 });
        assert_eq!(packet(&[slot(96, 5000), slot(0, 1000)]).unwrap().as_slice(), [4000, 1000]);
        assert_eq!(packet(&[slot(0, 13)]), Err(BadPacket::Runt));
        assert_eq!(packet(&[]), Err(BadPacket::Runt));
        assert_eq!(packet(&[slot(0, 60), slot(0, 61)]), Err(BadPacket::Size { said: 60, others: 61 }));
        assert_eq!(packet(&[slot(0, 60), slot(0, 60)]), Err(BadPacket::Slot { index: 0 }));
        assert_eq!(packet(&[slot(4000, 97)]), Err(BadPacket::Slot { index: 0 }));
        assert_eq!(packet(&[[slot(0, 1000)].as_slice(), &[slot(0, 10); 18]].concat()), Err(BadPacket::TooManySlots));
    }

    proptest! {
        #[test]
        fn slots_survive_their_bytes(raw: [u8; 12], eight: [u8; 8]) {
            prop_assert_eq!(TransmitRequest::parse(&raw).encode(), raw);
            let response = ReceiveResponse::parse(&eight);
            prop_assert_eq!(response.encode(), eight);
            let request = ReceiveRequest::parse(&eight);
            prop_assert_eq!(ReceiveRequest::parse(&request.encode()), request);
        }
    }
}
