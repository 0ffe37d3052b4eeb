//! Packets on the transmit ring: whatever is accepted lies inside its pages and adds up.
#![no_main]

use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use protocol::layout::PAGE_SIZE;
use protocol::ring::net::{ReceiveRequest, ReceiveResponse, TransmitRequest, packet};

/// More slots than any packet may have.
const SLOTS: u8 = 24;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let count = script.byte() % SLOTS;
    let slots: Vec<_> = (0..count).map(|_| TransmitRequest::parse(&script.bytes())).collect();
    if let Ok(sizes) = packet(&slots) {
        assert_eq!(sizes.len(), slots.len());
        assert_eq!(sizes.iter().map(|&size| u32::from(size)).sum::<u32>(), u32::from(slots[0].size));
        for (slot, &size) in slots.iter().zip(&sizes) {
            assert!(size > 0 && u64::from(slot.offset) + u64::from(size) <= PAGE_SIZE);
        }
    }
    let raw = script.bytes();
    assert_eq!(ReceiveRequest::parse(&ReceiveRequest::parse(&raw).encode()), ReceiveRequest::parse(&raw));
    assert_eq!(ReceiveResponse::parse(&raw).encode(), raw);
});
