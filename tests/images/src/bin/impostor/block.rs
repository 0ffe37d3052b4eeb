//! What an impostor does to a guest's disk: it takes requests, and answers none of them as it should.

use alloc::string::String;

use protocol::ring::block::{REQUEST_SIZE, RESPONSE_SIZE, Status, operation, response};
use protocol::ring::sring::Geometry;
use unikernel::executor::yield_now;

use crate::Wire;

/// The ring of one page.
pub const RING: Geometry = Geometry::of(1, REQUEST_SIZE);
/// Requests that the guest has under way.
const REQUESTS: usize = 8;
/// Notifications in a flood.
const FLOOD: u32 = 20_000;
/// Notifications after which the guest's end gets its turn.
const BURST: u32 = 100;
/// Place of the status in a response (`blkif_response`).
const STATUS: usize = 10;

/// Does what `case` says.
pub async fn act(case: String, mut wire: Wire) {
    let requests: [[u8; REQUEST_SIZE]; REQUESTS] = wire.requests().await;
    let id = |request: &[u8; REQUEST_SIZE]| {
        let mut id = [0; 8];
        id.copy_from_slice(&request[8..16]);
        u64::from_le_bytes(id)
    };
    let okay = |request| response(id(request), operation::READ, Status::Okay);
    let [first, ..] = requests;
    match case.as_str() {
        "r1-jump" => wire.claim(RING.entries + 1),
        "r1-half-circle" => wire.claim(1 << 31),
        "r1-backwards" => wire.claim(u32::MAX),
        "r2-unknown-id" => wire.answer(&[&response(id(&first) ^ 0x4000, operation::READ, Status::Okay)]),
        "r2-twice" => wire.answer(&[&okay(&first), &okay(&first)]),
        "r3-operation" => wire.answer(&[&response(id(&first), operation::FLUSH, Status::Okay)]),
        "r9-status" => {
            let mut odd: [u8; RESPONSE_SIZE] = okay(&first);
            odd[STATUS] = 77;
            wire.answer(&[&odd]);
        }
        "r12-silence" => {}
        "r12-notifications" => {
            for count in 0..FLOOD {
                wire.tell();
                if count % BURST == 0 {
                    yield_now().await;
                }
            }
            requests.iter().for_each(|request| wire.answer(&[&okay(request)]));
        }
        // The promise at the attach was the attack.
        "r9-limits" => requests.iter().for_each(|request| wire.answer(&[&okay(request)])),
        _ => log::error!("impostor: there is no act {case}"),
    }
    // The pages stay mapped.
    core::future::pending::<()>().await;
}
