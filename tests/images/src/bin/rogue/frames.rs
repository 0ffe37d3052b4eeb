//! What a rogue does to a network domain.

use alloc::format;
use alloc::vec::Vec;

use protocol::grant::GrantRef;
use protocol::layout::PAGE_SIZE;
use protocol::ring::net::{ReceiveRequest, SLOTS_MAX, TransmitRequest, flag::transmit, status};
use unikernel::time;

use crate::disk::NEVER;
use crate::interface::{Interface, Wires};
use crate::{Found, PATIENCE, SILENCE, within};

/// Frames in a flood.
const FLOOD: u32 = 2000;
/// Bytes of the frames that are sound.
const SOUND: u16 = 60;

/// Does what `name` says.
pub async fn act(name: &str, interface: &Interface) -> Found {
    let wires = interface.wires()?;
    wires.head(wires.mac);
    match name {
        "r1-transmit-index" => silent(wires, || wires.claim(1u32.wrapping_add(1 << 31))).await,
        "r4-slots" => {
            let endless: Vec<_> = (0..SLOTS_MAX + 2).map(|_| more(wires, 1)).collect();
            // A full ring would be a shorter chain.
            silent(wires, || drop(wires.send(&endless))).await
        }
        "r5-offset" => {
            let slot = TransmitRequest { offset: PAGE_SIZE as u16 - 10, ..wires.slot(SOUND) };
            let wrapped = TransmitRequest { offset: u16::MAX, ..wires.slot(SOUND) };
            all_dropped(wires, &[slot, wrapped]).await
        }
        "r5-reference" => {
            wires.post(ReceiveRequest { id: 1, reference: NEVER })?;
            wires.post(ReceiveRequest { id: 2, reference: GrantRef::MAX })?;
            all_dropped(wires, &[TransmitRequest { reference: NEVER, ..wires.slot(SOUND) }]).await
        }
        "r14-sizes" => all_dropped(wires, &[wires.slot(0), wires.slot(1), wires.slot(13), wires.slot(u16::MAX)]).await,
        "r14-segmentation" => segmentation(wires).await,
        "r14-spoofed-source" => {
            let mut foreign = wires.mac;
            foreign[5] ^= 1;
            for source in [foreign, [0xff; 6], [0; 6]] {
                wires.head(source);
                let seen = dropped(wires, &[wires.slot(SOUND).encode()], "answered").await?;
                if seen != "answered" {
                    return Ok(seen);
                }
            }
            Ok("answered".into())
        }
        "r11-rewritten-frame" => rewritten(wires).await,
        "r14-flood" => flood(wires).await,
        _ => Err(format!("there is no act {name}")),
    }
}

fn more(wires: &Wires, size: u16) -> [u8; 12] {
    TransmitRequest { flags: transmit::MORE_DATA, ..wires.slot(size) }.encode()
}

/// After an honest frame, and then this, nothing is answered any more.
async fn silent(wires: &Wires, attack: impl FnOnce()) -> Found {
    send(wires, &[wires.slot(SOUND)]).await?;
    attack();
    time::sleep(SILENCE).await;
    let _ = wires.send(&[wires.slot(SOUND).encode()]);
    match within(SILENCE, || wires.sent()).await {
        None => Ok("silence".into()),
        Some(answer) => Ok(format!("an answer: {answer:?}")),
    }
}

/// Sends a packet and waits until all its slots are answered; gives the last status.
async fn send(wires: &Wires, slots: &[TransmitRequest]) -> Result<i16, alloc::string::String> {
    let raw: Vec<_> = slots.iter().map(|slot| slot.encode()).collect();
    wires.send(&raw)?;
    answers(wires, slots.len()).await
}

async fn answers(wires: &Wires, count: usize) -> Result<i16, alloc::string::String> {
    let mut last = status::OKAY;
    for _ in 0..count {
        let answer = within(PATIENCE, || wires.sent()).await;
        last = answer.ok_or_else(|| alloc::string::String::from("no answer"))?.1;
    }
    Ok(last)
}

/// The slots are all answered, and a sound frame after them is sent.
async fn dropped(wires: &Wires, raw: &[[u8; 12]], seen: &str) -> Found {
    wires.send(raw)?;
    answers(wires, raw.len()).await?;
    wires.head(wires.mac);
    match send(wires, &[wires.slot(SOUND)]).await? {
        status::OKAY => Ok(seen.into()),
        other => Ok(format!("a sound frame was answered with {other}")),
    }
}

/// Each of these packets of one slot is answered with an error, and a sound one after them is sent.
async fn all_dropped(wires: &Wires, packets: &[TransmitRequest]) -> Found {
    for (number, packet) in packets.iter().enumerate() {
        let found = send(wires, &[*packet]).await?;
        if !matches!(found, status::ERROR | status::DROPPED) {
            return Ok(format!("packet {number} was answered with {found}"));
        }
    }
    dropped(wires, &[], "dropped").await
}

/// Segmentation that was never negotiated: a type that there is not, and one with a segment size of 0.
async fn segmentation(wires: &Wires) -> Found {
    for extra in [[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], [9, 0, 0xff, 0xff, 7, 0, 0xff, 0xff, 0, 0, 0, 0]] {
        let first = TransmitRequest { flags: transmit::EXTRA_INFO, ..wires.slot(SOUND) };
        wires.send(&[first.encode(), extra])?;
        answers(wires, 2).await?;
    }
    dropped(wires, &[], "dropped").await
}

/// The head of a frame changes while it is looked at. Whoever it reaches, no answer is lost.
async fn rewritten(wires: &Wires) -> Found {
    let mut foreign = wires.mac;
    foreign[5] ^= 1;
    for _ in 0..200 {
        wires.head(wires.mac);
        wires.send(&[wires.slot(SOUND).encode()])?;
        let deadline = time::after(PATIENCE);
        while wires.sent().is_none() {
            wires.head(foreign);
            wires.head(wires.mac);
            if time::now() > deadline {
                return Err("no answer".into());
            }
            unikernel::executor::yield_now().await;
        }
    }
    dropped(wires, &[], "answered").await
}

/// Frames to everybody, as fast as they are taken.
async fn flood(wires: &Wires) -> Found {
    for _ in 0..FLOOD / 32 {
        let raw: Vec<_> = (0..32).map(|_| wires.slot(SOUND).encode()).collect();
        wires.send(&raw)?;
        answers(wires, raw.len()).await?;
    }
    dropped(wires, &[], "answered").await
}
