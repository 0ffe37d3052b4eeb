//! What an impostor does to a guest's network interface: on the receive ring, which asks for nothing, and on the transmit ring.

use alloc::string::String;

use protocol::layout::PAGE_SIZE;
use protocol::ring::net::{
    ReceiveRequest, ReceiveResponse, SLOTS_MAX, TRANSMIT, TransmitRequest, flag, status, transmit_response,
};

use crate::Wire;

/// Buffers that are filled at most.
const BUFFERS: usize = SLOTS_MAX + 2;

/// Does what `case` says.
pub async fn act(case: String, mut transmit: Wire, mut receive: Wire) {
    let posted: [[u8; 8]; BUFFERS] = receive.requests().await;
    let posted = posted.map(|raw| ReceiveRequest::parse(&raw));
    let frame = |id, offset, flags, size| ReceiveResponse { id, offset, flags, status: size }.encode();
    let first = posted[0].id;
    match case.as_str() {
        "r1-jump" => receive.claim(u32::MAX / 2),
        "r2-unknown-id" => receive.answer(&[&frame(first ^ 0x4000, 0, 0, 60)]),
        "r2-twice" => receive.answer(&[&frame(first, 0, 0, 60), &frame(first, 0, 0, 60)]),
        "r4-endless" => {
            for buffer in posted {
                receive.answer(&[&frame(buffer.id, 0, flag::receive::MORE_DATA, 100)]);
            }
        }
        "r5-place" => receive.answer(&[&frame(first, PAGE_SIZE as u16 - 8, 0, 60)]),
        "r9-flags" => receive.answer(&[&frame(first, 0, flag::receive::EXTRA_INFO, 60)]),
        "r14-sizes" => {
            let sizes = [0, 1, 13, 14, -1, i16::MIN];
            for (buffer, size) in posted.iter().zip(sizes) {
                receive.answer(&[&frame(buffer.id, 0, 0, size)]);
            }
        }
        "r1-transmit-jump" => transmit.claim(TRANSMIT.entries + 1),
        "r2-transmit-id" => {
            let [sent]: [[u8; 12]; 1] = transmit.requests().await;
            let id = TransmitRequest::parse(&sent).id;
            transmit.answer(&[&transmit_response(id ^ 0x4000, status::OKAY)]);
        }
        "r2-transmit-twice" => {
            let [sent, _]: [[u8; 12]; 2] = transmit.requests().await;
            let answer = transmit_response(TransmitRequest::parse(&sent).id, status::OKAY);
            transmit.answer(&[&answer, &answer]);
        }
        _ => log::error!("impostor: there is no act {case}"),
    }
    // The pages stay mapped.
    core::future::pending::<()>().await;
}
