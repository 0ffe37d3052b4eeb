//! A load for measurements: frames whose contents nobody looks at. Nothing is counted here but the time; who measures takes the difference
//! of two runs of different length.
//!
//! Between guests frames go in bursts, as many as the depth says; the other one answers the last of each, so that none is lost for
//! want of buffers. What goes to the wire goes as fast as there is room for it.

use alloc::vec;
use core::future::pending;
use core::time::Duration;

use load::report::say;
use unikernel::frontend::network::Interface;
use unikernel::time;

use crate::frame::{BROADCAST, ETHERTYPE, Mac};
use crate::options::Options;

/// Where a frame says what it is, behind the Ethernet header.
const KIND: usize = 14;
/// Kinds of frames: nothing is to be done, an answer is wanted, an answer.
const PLAIN: u8 = 0;
const ASKS: u8 = 1;
const ANSWERS: u8 = 2;
/// Bytes of an answer, the smallest frame.
const ANSWER_SIZE: usize = 60;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Somebody behind the wire, whom nobody knows.
const STRANGER: Mac = [0x52, 0x54, 0, 0xff, 0xff, 0xff];

/// Sends frames to the guest that answers, tells how long it took, and stays; `false` if one was lost.
pub async fn send(interface: &Interface, mac: Mac, options: &Options) -> bool {
    let mut frame = vec![0; options.size];
    head(&mut frame, BROADCAST, mac, ASKS);
    // Whoever answers this is the target.
    if !interface.send(&frame, false) || answer(interface, &mut frame).await.is_none() {
        return false;
    }
    let (begun, mut left) = (time::now(), options.frames);
    while left > 0 {
        let burst = options.depth.min(left);
        for number in 1..=burst {
            frame[KIND] = if number == burst { ASKS } else { PLAIN };
            interface.room(frame.len()).await;
            if !interface.send(&frame, false) {
                return false;
            }
        }
        left -= burst;
        if answer(interface, &mut frame).await.is_none() {
            return false;
        }
    }
    done(begun).await
}

/// Waits for an answer; further frames go to who sent it.
async fn answer(interface: &Interface, frame: &mut [u8]) -> Option<()> {
    let deadline = time::after(PATIENCE);
    loop {
        time::before(deadline, interface.arrived()).await?;
        while let Some(found) = interface.receive() {
            let from = sender(&found.bytes, ANSWERS);
            interface.recycle(found);
            if let Some(from) = from {
                frame[..6].copy_from_slice(&from);
                return Some(());
            }
        }
    }
}

/// Answers for ever.
pub async fn receive(interface: &Interface, mac: Mac) -> bool {
    let mut frame = [0; ANSWER_SIZE];
    loop {
        interface.arrived().await;
        while let Some(found) = interface.receive() {
            let from = sender(&found.bytes, ASKS);
            interface.recycle(found);
            if let Some(from) = from {
                head(&mut frame, from, mac, ANSWERS);
                interface.room(frame.len()).await;
                let _ = interface.send(&frame, false);
            }
        }
    }
}

/// Sends frames to the wire, tells how long it took, and stays.
pub async fn flood(interface: &Interface, mac: Mac, options: &Options) -> bool {
    let mut frame = vec![0; options.size];
    head(&mut frame, STRANGER, mac, PLAIN);
    let begun = time::now();
    for _ in 0..options.frames {
        interface.room(frame.len()).await;
        if !interface.send(&frame, false) {
            return false;
        }
    }
    done(begun).await
}

async fn done(begun: u64) -> bool {
    say(format_args!(r#"bench {{"ns":{}}}"#, time::now() - begun));
    pending().await
}

fn head(frame: &mut [u8], to: Mac, from: Mac, kind: u8) {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[KIND] = kind;
}

/// Who sent a frame, if it is one of this kind.
fn sender(bytes: &[u8], kind: u8) -> Option<Mac> {
    let ours = bytes.get(12..=KIND)? == [ETHERTYPE[0], ETHERTYPE[1], kind];
    ours.then(|| *bytes[6..].first_chunk().unwrap_or(&BROADCAST))
}
