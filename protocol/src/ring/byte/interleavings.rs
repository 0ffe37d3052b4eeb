//! Both ends of a byte ring on two CPUs.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use std::vec::Vec;

use super::*;

/// A ring of two bytes: it is full, and used again, after very little.
const PLACE: Place = Place { data: 8, size: 2, consumer: 0, producer: 4 };
/// What is sent.
const BYTES: [u8; 3] = [1, 2, 3];

struct Page {
    indexes: [AtomicU32; 2],
    data: [AtomicU8; 2],
}

impl Shared for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        self.indexes[offset / 4].load(Ordering::Acquire)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.indexes[offset / 4].store(value, Ordering::Release);
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = self.data[offset - PLACE.data + at].load(Ordering::Relaxed);
        }
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, &byte) in bytes.iter().enumerate() {
            self.data[offset - PLACE.data + at].store(byte, Ordering::Relaxed);
        }
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

#[test]
fn loom_bytes_are_there_before_the_index_says_so_and_stay_until_they_were_read() {
    loom::model(|| {
        let page = Arc::new(Page {
            // The indexes wrap on the way.
            indexes: core::array::from_fn(|_| AtomicU32::new(u32::MAX)),
            data: core::array::from_fn(|_| AtomicU8::new(0)),
        });
        // Not in the thread: a load of its own before its store would hide ours from loom.
        let mut producer = Producer::attach(PLACE, &*page);
        let mut consumer = Consumer::attach(PLACE, &*page);
        let writer = {
            let page = page.clone();
            loom::thread::spawn(move || {
                let mut sent = 0;
                for _ in 0..2 {
                    sent += producer.write(&*page, &BYTES[sent..]).unwrap();
                }
                sent
            })
        };
        let (mut got, mut buffer) = (Vec::new(), [0; 2]);
        let mut take = |consumer: &mut Consumer| {
            let count = consumer.read(&*page, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        };
        take(&mut consumer);
        take(&mut consumer);
        let sent = writer.join().unwrap();
        take(&mut consumer);
        assert_eq!(got, BYTES[..sent]);
    });
}
