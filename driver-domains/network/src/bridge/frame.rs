//! What a bridge has to know of an Ethernet frame, read once from a private copy of its first bytes.

use protocol::ring::net::FRAME_MIN;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of a VLAN tag.
const TAG: usize = 4;
/// Types of a VLAN tag: 802.1Q, and the outer one of 802.1ad.
const TAG_TYPES: [u16; 2] = [0x8100, 0x88a8];
/// Smallest value that is a type and not a length (IEEE 802.3, 3.2.6).
const TYPE_MIN: u16 = 0x600;
/// Largest value that is a length.
const LENGTH_MAX: u16 = 1500;

/// Bytes of a frame on the wire, without its tag and its checksum.
pub const WIRE_MAX: usize = 1514;

/// Why a frame is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Shorter than an Ethernet header.
    Runt,
    /// Longer than anybody it is for can take.
    Oversized,
    /// The header contradicts itself or the frame's length.
    Malformed,
    /// Its source is not the sender's address, or belongs to somebody else.
    Spoofed,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it goes.
    pub destination: Mac,
    /// Where it comes from.
    pub source: Mac,
    /// The type after the tags; what is a length instead is 0.
    pub kind: u16,
    /// Where the payload begins.
    pub payload: usize,
    /// Bytes, without those of a tag.
    pub untagged: usize,
}

/// Whether an address names a group.
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Whether a station can have the address.
pub const fn is_station(mac: &Mac) -> bool {
    !is_group(mac) && u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]) != 0
}

impl Frame {
    /// Reads the header of a frame of `length` bytes; `start` holds its first ones.
    pub fn parse(start: &[u8], length: usize) -> Result<Frame, Refusal> {
        let ([destination, source], Some(mut kind)) = (addresses(start), half(start, 12)) else {
            return Err(Refusal::Runt);
        };
        if length < FRAME_MIN {
            return Err(Refusal::Runt);
        }
        let mut payload = FRAME_MIN;
        let mut untagged = length;
        if TAG_TYPES.contains(&kind) {
            kind = half(start, payload + 2).ok_or(Refusal::Malformed)?;
            payload += TAG;
            untagged -= TAG;
        }
        if length < payload {
            return Err(Refusal::Malformed);
        }
        let is_length = kind < TYPE_MIN;
        if is_length && (kind > LENGTH_MAX || kind as usize > length - payload) || !is_station(&source) {
            return Err(Refusal::Malformed);
        }
        let kind = if is_length { 0 } else { kind };
        Ok(Frame { destination, source, kind, payload, untagged })
    }
}

/// Both addresses; zeros where `start` is too short, which the caller notices.
fn addresses(start: &[u8]) -> [Mac; 2] {
    let mac = |at: usize| start.get(at..at + 6).and_then(|mac| mac.try_into().ok()).unwrap_or([0; 6]);
    [mac(0), mac(6)]
}

/// A number of two bytes, most significant first.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn frame(kind: &[u8], length: usize) -> Vec<u8> {
        let mut frame = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
        frame.extend_from_slice(kind);
        frame.resize(length, 0);
        frame
    }

    fn judge(kind: &[u8], length: usize) -> Result<Frame, Refusal> {
        Frame::parse(&frame(kind, length), length)
    }

    #[test]
    fn the_type_is_that_after_the_tag() {
        assert_eq!(judge(&[8, 0], 60).map(|f| (f.kind, f.payload, f.untagged)), Ok((0x800, 14, 60)));
        assert_eq!(judge(&[0x81, 0, 0, 5, 8, 0], 64).map(|f| (f.kind, f.payload, f.untagged)), Ok((0x800, 18, 60)));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert_eq!(judge(&[], 13), Err(Refusal::Runt));
        assert_eq!(judge(&[0x81, 0], 14), Err(Refusal::Malformed));
        assert_eq!(judge(&[0x81, 0, 0, 0], 17), Err(Refusal::Malformed));
        assert_eq!(judge(&[0, 46], 60).map(|f| f.kind), Ok(0));
        assert_eq!(judge(&[0, 47], 60), Err(Refusal::Malformed), "longer than it is");
        assert_eq!(judge(&[5, 0xff], 1600), Err(Refusal::Malformed), "neither type nor length");
        let mut group = frame(&[8, 0], 60);
        group[6] |= 1;
        assert_eq!(Frame::parse(&group, 60), Err(Refusal::Malformed), "from a group");
        group[6..12].fill(0);
        assert_eq!(Frame::parse(&group, 60), Err(Refusal::Malformed), "from nobody");
    }
}
