//! Checksums of TCP and UDP that are left to the other end, or to be checked here.

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket, checksum,
};

/// Where the checksum of a transport lies in its header.
const TCP_FIELD: usize = 16;
const UDP_FIELD: usize = 6;

/// The part of a frame that a checksum is about.
struct Transport {
    protocol: IpProtocol,
    /// Where it begins and ends in the frame.
    begin: usize,
    end: usize,
    /// Offset of the checksum in it.
    field: usize,
    /// Sum of the pseudo header.
    pseudo: u16,
}

/// Finds the TCP segment or UDP datagram of a frame, if it is one and whole.
fn transport(frame: &[u8]) -> Option<Transport> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let (protocol, payload) = (ip.next_header(), ip.payload());
    let field = match protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(payload).map(|_| TCP_FIELD).ok()?,
        IpProtocol::Udp => UdpPacket::new_checked(payload).map(|_| UDP_FIELD).ok()?,
        _ => return None,
    };
    let begin = ETHERNET_HEADER_LEN + usize::from(ip.header_len());
    let pseudo = checksum::pseudo_header_v4(&ip.src_addr(), &ip.dst_addr(), protocol, payload.len() as u32);
    Some(Transport { protocol, begin, end: begin + payload.len(), field, pseudo })
}

/// Puts the sum of the pseudo header where the checksum belongs, for whoever completes it. `false` if the frame has no checksum
/// that can be left blank.
pub fn leave_blank(frame: &mut [u8]) -> bool {
    let Some(Transport { begin, field, pseudo, .. }) = transport(frame) else { return false };
    frame[begin + field..begin + field + 2].copy_from_slice(&pseudo.to_be_bytes());
    true
}

/// Whether the checksum of a frame is right, or it has none.
pub fn is_right(frame: &[u8]) -> bool {
    let Some(Transport { protocol, begin, end, field, pseudo }) = transport(frame) else { return true };
    let none = protocol == IpProtocol::Udp && frame[begin + field..begin + field + 2] == [0, 0];
    none || checksum::combine(&[pseudo, checksum::data(&frame[begin..end])]) == !0
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetAddress, EthernetRepr, IpAddress, Ipv4Address, Ipv4Repr, TcpControl, TcpRepr, TcpSeqNumber, UdpRepr,
    };
    use std::vec::Vec;

    const SOURCE: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
    const DESTINATION: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);

    fn frame(protocol: IpProtocol, length: usize, emit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: EthernetProtocol::Ipv4,
        };
        let ip = Ipv4Repr {
            src_addr: SOURCE,
            dst_addr: DESTINATION,
            next_header: protocol,
            payload_len: length,
            hop_limit: 64,
        };
        let mut bytes = std::vec![0; ethernet.buffer_len() + ip.buffer_len() + length];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        emit(packet.payload_mut());
        // Short frames are padded on the wire; that is no part of the sum.
        bytes.extend([0xa5; 7]);
        bytes
    }

    fn tcp(payload: &[u8], capabilities: &ChecksumCapabilities) -> Vec<u8> {
        let repr = TcpRepr {
            src_port: 80,
            dst_port: 1234,
            control: TcpControl::Psh,
            seq_number: TcpSeqNumber(77),
            ack_number: Some(TcpSeqNumber(5)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        frame(IpProtocol::Tcp, repr.buffer_len(), |buffer| {
            let (source, destination) = (IpAddress::from(SOURCE), IpAddress::from(DESTINATION));
            repr.emit(&mut TcpPacket::new_unchecked(buffer), &source, &destination, capabilities);
        })
    }

    fn udp(payload: &[u8]) -> Vec<u8> {
        let repr = UdpRepr { src_port: 9, dst_port: 10 };
        frame(IpProtocol::Udp, repr.header_len() + payload.len(), |buffer| {
            let (source, destination) = (IpAddress::from(SOURCE), IpAddress::from(DESTINATION));
            let (packet, fill) = (&mut UdpPacket::new_unchecked(buffer), |to: &mut [u8]| to.copy_from_slice(payload));
            repr.emit(packet, &source, &destination, payload.len(), fill, &ChecksumCapabilities::default());
        })
    }

    /// What the other end does with a blank checksum: sums the segment as it is, and puts the complement there.
    fn complete(frame: &mut [u8]) {
        let Transport { begin, end, field, .. } = transport(frame).unwrap();
        let sum = !checksum::data(&frame[begin..end]);
        frame[begin + field..begin + field + 2].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn a_blank_checksum_can_be_completed() {
        for length in [0, 1, 2, 3, 1000, 1459] {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let whole = tcp(&payload, &ChecksumCapabilities::default());
            let mut blank = tcp(&payload, &ChecksumCapabilities::ignored());
            assert!(leave_blank(&mut blank));
            complete(&mut blank);
            // The header of the IP layer was left out, too, in what ignored all.
            assert_eq!(blank[ETHERNET_HEADER_LEN + 20..], whole[ETHERNET_HEADER_LEN + 20..]);
            assert!(is_right(&whole));
        }
    }

    #[test]
    fn one_wrong_bit_is_noticed() {
        for good in [tcp(b"hello", &ChecksumCapabilities::default()), udp(b"hello")] {
            assert!(is_right(&good));
            for at in good.len() - 12..good.len() - 7 {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(!is_right(&bad));
            }
        }
    }

    #[test]
    fn what_has_no_such_checksum_is_left_alone() {
        let mut other = frame(IpProtocol::Icmp, 8, |_| {});
        let before = other.clone();
        assert!(!leave_blank(&mut other) && is_right(&other));
        assert_eq!(other, before);
        let whole = udp(b"hello");
        for length in 0..whole.len() - 8 {
            let _ = leave_blank(&mut whole[..length].to_vec());
            let _ = is_right(&whole[..length]);
        }
    }
}
