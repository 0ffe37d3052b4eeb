//! The control channel: frames of any bytes, in a ring whose other end does what it likes.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use protocol::control::{self, Envelope, FRAME_MAX, FromDomain, ToDomain};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use protocol::ring::byte::{CONTROL, Consumer};
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|data: &[u8]| {
    message::<ToDomain>(data);
    message::<FromDomain>(data);
    let mut script = Script::new(data);
    let length = usize::from(script.short()) % (CONTROL.size as usize + 1);
    let page = Page::new(PAGE_SIZE as usize, script.clone());
    page.write(CONTROL.data, script.part(length));
    page.store_u32(CONTROL.producer, length as u32);
    let mut ring = Consumer::attach(CONTROL, &page);
    let mut buffer = [0; FRAME_MAX];
    // Every frame takes two bytes at least, so this ends with the ring's content; a peer that goes on writing is cut off.
    for _ in 0..CONTROL.size {
        match control::receive(&mut ring, &page, &mut buffer) {
            Ok(Some(frame)) => {
                message::<ToDomain>(frame);
                message::<FromDomain>(frame);
            }
            Ok(None) | Err(_) => return,
        }
    }
});

/// What can be read can be written, and means the same then.
fn message<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(envelope) = control::decode::<T>(bytes) else { return };
    let mut buffer = [0; FRAME_MAX + 2];
    let frame = control::encode(&envelope, &mut buffer).expect("a message that came in a frame fits into one");
    let again: Envelope<T> = control::decode(&frame[2..]).expect("what was written can be read");
    assert_eq!(again, envelope);
}
