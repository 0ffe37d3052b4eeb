//! Checksums of TCP and UDP that a sender left blank.
//!
//! Guests may leave them blank towards the bridge. Whoever is next and does not take that - the wire, or a guest - gets them filled
//! in: by the device if it can, else here.

use protocol::ring::Shared;

use crate::bridge::frame::{Frame, half};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// Bytes of a frame that [`Blank::find`] reads at most: Ethernet with a tag, the longest IPv4 header, TCP's fixed part.
pub const HEADERS_MAX: usize = 18 + 60 + 20;

/// Where a blank checksum is, and what belongs into it beside the bytes it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blank {
    /// First byte that is covered.
    pub start: u16,
    /// The checksum's place, from there.
    pub field: u16,
    /// Bytes covered.
    pub length: u16,
    /// Sum over the pseudo header, folded.
    pub pseudo: u16,
    /// Zero means "none" to the receiver, so that its twin is sent.
    udp: bool,
}

impl Blank {
    /// Finds it in a frame of `length` bytes that begins with `start`. `None` if there is no such checksum, which is what a
    /// fragment, another protocol, or a header that does not add up comes to.
    pub fn find(frame: &Frame, start: &[u8], length: usize) -> Option<Blank> {
        let header = start.get(frame.payload..)?;
        let (protocol, header_length, addresses, total) = match frame.kind {
            IPV4 => {
                let words = header.first()? & 15;
                let fragment = half(header, 6)? & 0x3fff;
                if header[0] >> 4 != 4 || words < 5 || fragment != 0 {
                    return None;
                }
                (*header.get(9)?, words as usize * 4, header.get(12..20)?, half(header, 2)? as usize)
            }
            IPV6 => (*header.get(6)?, IPV6_HEADER, header.get(8..40)?, IPV6_HEADER + half(header, 4)? as usize),
            _ => return None,
        };
        let (field, least) = match protocol {
            TCP => (16, 20),
            UDP => (6, 8),
            _ => return None,
        };
        let covered = total.checked_sub(header_length)?;
        if covered < least || frame.payload + total > length {
            return None;
        }
        let pseudo = u64::from(protocol) + covered as u64 + sum(addresses);
        Some(Blank {
            start: u16::try_from(frame.payload + header_length).ok()?,
            field,
            length: u16::try_from(covered).ok()?,
            pseudo: fold(pseudo),
            udp: protocol == UDP,
        })
    }

    /// Where the field is, in a frame that begins at `at`.
    const fn place(&self, at: usize) -> usize {
        at + self.start as usize + self.field as usize
    }

    /// Writes the sum over the pseudo header: what a device that fills in the rest wants to find.
    pub fn prepare(&self, memory: &impl Shared, at: usize) {
        memory.write(self.place(at), &self.pseudo.to_be_bytes());
    }

    /// Fills the checksum in, in a frame that begins at `at`.
    pub fn fill(&self, memory: &impl Shared, at: usize) {
        memory.write(self.place(at), &[0; 2]);
        let mut total = u64::from(self.pseudo);
        let (mut from, mut left) = (at + self.start as usize, self.length as usize);
        while left > 0 {
            // Even, so that the pieces' sums add up.
            let mut piece = [0; 256];
            let now = left.min(piece.len());
            memory.read(from, &mut piece[..now]);
            total += sum(&piece[..now]);
            (from, left) = (from + now, left - now);
        }
        let filled = match !fold(total) {
            0 if self.udp => 0xffff,
            filled => filled,
        };
        memory.write(self.place(at), &filled.to_be_bytes());
    }
}

/// Sum of the big-endian words; a last odd byte is the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |&byte| u64::from(byte) << 8);
    words.iter().map(|&word| u64::from(u16::from_be_bytes(word))).sum::<u64>() + last
}

/// Adds the carries until there are none.
const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use std::vec::Vec;

    /// A UDP datagram over IPv4 whose checksum is known: from 10.0.2.15:1234 to 10.0.2.2:53, payload "abc".
    fn datagram() -> Vec<u8> {
        let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0].to_vec();
        frame.extend_from_slice(&[0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        frame.extend_from_slice(&[0x04, 0xd2, 0, 53, 0, 11, 0xbe, 0xef, b'a', b'b', b'c']);
        frame.resize(60, 0);
        frame
    }

    fn find(frame: &[u8]) -> Option<Blank> {
        Blank::find(&Frame::parse(frame, frame.len()).unwrap(), frame, frame.len())
    }

    #[test]
    fn what_is_filled_in_sums_up_to_nothing() {
        let frame = datagram();
        let (blank, memory) = (find(&frame).unwrap(), Memory::new(4096));
        assert_eq!((blank.start, blank.field, blank.length), (34, 6, 11));
        memory.write(100, &frame);
        blank.fill(&memory, 100);
        let mut filled = [0; 11];
        memory.read(134, &mut filled);
        assert_eq!(fold(sum(&filled) + u64::from(blank.pseudo)), 0xffff);
        // By hand: pseudo header 0a00+020f+0a00+0202+0011+000b, header 04d2+0035+000b, data 6162+6300.
        assert_eq!(filled[6..8], (!0xe1a1u16).to_be_bytes()[..], "{:x?}", &filled[6..8]);
        blank.prepare(&memory, 100);
        memory.read(134, &mut filled);
        assert_eq!(filled[6..8], blank.pseudo.to_be_bytes());
    }

    #[test]
    fn what_has_no_such_checksum_is_left_alone() {
        let change = |at: usize, value: u8| {
            let mut frame = datagram();
            frame[at] = value;
            find(&frame)
        };
        assert!(change(0, 2).is_some());
        assert_eq!(change(13, 6), None, "ARP");
        assert_eq!(change(14, 0x44), None, "a header too short");
        assert_eq!(change(17, 255), None, "longer than the frame");
        assert_eq!(change(17, 27), None, "too short for UDP");
        assert_eq!(change(20, 0x20), None, "a fragment");
        assert_eq!(change(23, 1), None, "ICMP");
        assert_eq!(Blank::find(&Frame::parse(&datagram(), 60).unwrap(), &datagram()[..30], 60), None);
    }
}
