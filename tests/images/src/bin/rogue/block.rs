//! What a rogue does to a disk domain.
//!
//! Acts that break the ring end with silence: the connection is closed. Acts that ask for what cannot be are answered with an
//! error, and the connection goes on.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use protocol::grant::GrantRef;
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use protocol::ring::block::{
    Body, REQUEST_SIZE, RawRequest, Request, SEGMENT_SIZE, Segment, Segments, Status, operation,
};
use protocol::ring::sring::{RESPONSE_EVENT, RESPONSE_PRODUCER};
use unikernel::time;

use crate::disk::{Disk, NEVER, RING, Wires};
use crate::{Found, PATIENCE, SILENCE, within};

/// Rewrites of a request while it is processed.
const REWRITES: u32 = 300;
/// Notifications in a flood.
const FLOOD: u32 = 20_000;
/// What a page is filled with so that bytes that nobody wrote show.
const POISON: u8 = 0xa5;

/// Does what `name` says.
pub async fn act(name: &str, disk: &Disk) -> Found {
    let wires = disk.wires()?;
    match name {
        "r1-size-plus-one" => silent(wires, RING.entries + 1).await,
        "r1-half-circle" => silent(wires, 1 << 31).await,
        "r1-backwards" => silent(wires, u32::MAX).await,
        "r2-response-index" => response_index(wires).await,
        "r4-segments" => {
            all_refused(disk, &[with(1, 0), with(1, 12), with(1, 255), indirect(0), indirect(u16::MAX), nested()]).await
        }
        "r5-pieces" => all_refused(disk, &[with(28, 9), with(29, 8), with(29, 255), foreign()]).await,
        "r6-no-kick" => no_kick(wires).await,
        "r11-rewritten-slot" => rewritten(wires).await,
        "r12-never-drained" => never_drained(wires).await,
        "r12-notifications" => flood(wires).await,
        "r10-response-bytes" => poisoned(wires).await,
        "r13-beyond-the-end" => beyond(disk).await,
        "r13-read-only" => all_refused(disk, &[write(0), discard(0, 8)]).await,
        "r13-operations" => all_refused(disk, &[with(0, 4), with(0, 7), with(0, 255)]).await,
        // These are over with the answer to the offer: nothing of them may get as far as this.
        "r8-stale-page" | "r8-page-twice" | "r9-three-pages" | "r9-never-granted" => Ok("connected".into()),
        _ => Err(format!("there is no act {name}")),
    }
}

/// Reads the first sectors of the disk into the page given.
fn read(page: GrantRef) -> Request {
    transfer(operation::READ, 0, page)
}

fn transfer(echo: u8, sector: u64, reference: GrantRef) -> Request {
    let list = [Segment { reference, first: 0, last: 7 }].into_iter().collect();
    let body = Body::Transfer { write: echo == operation::WRITE, sector, segments: Segments::Direct(list) };
    Request { id: 77, echo, body }
}

/// A request that is made for a page once that is known.
type Make = alloc::boxed::Box<dyn Fn(GrantRef) -> RawRequest>;

/// A read with one byte changed.
fn with(at: usize, value: u8) -> Make {
    alloc::boxed::Box::new(move |page| {
        let mut raw = read(page).encode();
        raw[at] = value;
        raw
    })
}

fn indirect(count: u16) -> Make {
    alloc::boxed::Box::new(move |page| {
        let body = Body::Transfer { write: false, sector: 0, segments: Segments::Indirect { count, pages: [page; 8] } };
        Request { id: 77, echo: operation::READ, body }.encode()
    })
}

/// An indirect request for an indirect request.
fn nested() -> Make {
    alloc::boxed::Box::new(|page| {
        let mut raw = indirect(1)(page);
        raw[1] = operation::INDIRECT;
        raw
    })
}

/// A page that was never granted.
fn foreign() -> Make {
    alloc::boxed::Box::new(|_| read(NEVER).encode())
}

fn write(sector: u64) -> Make {
    alloc::boxed::Box::new(move |page| transfer(operation::WRITE, sector, page).encode())
}

fn read_at(sector: u64) -> Make {
    alloc::boxed::Box::new(move |page| transfer(operation::READ, sector, page).encode())
}

fn discard(sector: u64, sectors: u64) -> Make {
    alloc::boxed::Box::new(move |_| {
        Request { id: 77, echo: operation::DISCARD, body: Body::Discard { sector, sectors } }.encode()
    })
}

/// Publishes an index that cannot be, and listens.
async fn silent(wires: &Wires, index: u32) -> Found {
    let (id, _, status) = wires.ask(&read(wires.data.reference()).encode()).await?;
    if (id, status) != (77, Status::Okay as i16) {
        return Err(format!("an honest request was answered with id {id}, status {status}"));
    }
    wires.claim(1u32.wrapping_add(index));
    match within(SILENCE, || wires.take()).await {
        None => Ok("silence".into()),
        Some(answer) => Ok(format!("an answer: {answer:?}")),
    }
}

/// Each of these has to be answered with an error, and an honest request after them to be carried out.
async fn all_refused(disk: &Disk, list: &[Make]) -> Found {
    let wires = disk.wires()?;
    for (number, make) in list.iter().enumerate() {
        let (id, _, status) = wires.ask(&make(wires.data.reference())).await?;
        if id != 77 || !matches!(status, -1 | -2) {
            return Ok(format!("request {number} was answered with id {id}, status {status}"));
        }
    }
    honest(wires, "refused").await
}

/// An honest request is carried out.
async fn honest(wires: &Wires, seen: &str) -> Found {
    match wires.ask(&read(wires.data.reference()).encode()).await? {
        (77, operation::READ, 0) => Ok(seen.into()),
        answer => Ok(format!("then an honest request was answered with {answer:?}")),
    }
}

async fn beyond(disk: &Disk) -> Found {
    let end = disk.limits().sectors;
    let list = [
        read_at(end),
        read_at(end - 7),
        read_at(u64::MAX),
        read_at(u64::MAX - 7),
        discard(1, u64::MAX),
        discard(end, 1),
    ];
    all_refused(disk, &list).await
}

/// The other side's index is written over. What it counts is its own.
async fn response_index(wires: &Wires) -> Found {
    wires.ring.store_u32(RESPONSE_PRODUCER, 0x8000_0000);
    wires.ring.store_u32(RESPONSE_EVENT, 0x4000_0000);
    wires.publish(&read(wires.data.reference()).encode())?;
    wires.kick();
    match within(PATIENCE, || wires.take()).await {
        Some((77, operation::READ, 0)) => Ok("answered".into()),
        other => Ok(format!("answered with {other:?}")),
    }
}

/// Requests that the backend is not told of: it need not see them, and must not mind.
async fn no_kick(wires: &Wires) -> Found {
    wires.publish(&read(wires.data.reference()).encode())?;
    time::sleep(SILENCE).await;
    wires.kick();
    match within(PATIENCE, || wires.take()).await {
        Some((77, operation::READ, 0)) => honest(wires, "answered").await,
        other => Ok(format!("answered with {other:?}")),
    }
}

/// Changes the slot between its publication and the answer.
async fn rewritten(wires: &Wires) -> Found {
    let (good, mut bad) = (read(wires.data.reference()).encode(), read(NEVER).encode());
    bad[1] = 200;
    for round in 0..REWRITES {
        wires.publish(&good)?;
        wires.kick();
        let slot = RING.slot(round);
        let deadline = time::after(PATIENCE);
        let answer = loop {
            wires.ring.write(slot, &bad);
            wires.ring.write(slot + 24, &[0xff; SEGMENT_SIZE * 11]);
            wires.ring.write(slot, &good);
            if let Some(answer) = wires.take() {
                break answer;
            }
            if time::now() > deadline {
                return Err(format!("no answer in round {round}"));
            }
            unikernel::executor::yield_now().await;
        };
        // The answer lies in the slot that was written over: only its being there can be relied on.
        let _ = answer;
    }
    honest(wires, "answered").await
}

/// A full ring whose answers nobody takes; more requests than that cannot be asked for.
async fn never_drained(wires: &Wires) -> Found {
    for _ in 0..RING.entries {
        wires.publish(&read(wires.data.reference()).encode())?;
    }
    wires.kick();
    let answered = || (wires.ring.load_u32(RESPONSE_PRODUCER) == RING.entries).then_some(());
    within(PATIENCE, answered).await.ok_or("not everything was answered")?;
    for _ in 0..50 {
        wires.kick();
        time::sleep(Duration::from_millis(2)).await;
    }
    while wires.take().is_some() {}
    honest(wires, "answered").await
}

/// Notifications about nothing.
async fn flood(wires: &Wires) -> Found {
    for _ in 0..FLOOD {
        wires.kick();
    }
    honest(wires, "answered").await
}

/// Looks for bytes in the answer, and in the page, that belong to somebody else.
async fn poisoned(wires: &Wires) -> Found {
    wires.ring.write(RING.slot(0), &[POISON; REQUEST_SIZE]);
    wires.data.write(0, &[POISON; PAGE_SIZE as usize]);
    let mut request = read(wires.data.reference());
    if let Body::Transfer { segments: Segments::Direct(list), .. } = &mut request.body {
        list[0].last = 3;
    }
    let raw = request.encode();
    wires.ask(&raw).await?;
    // An answer is shorter than a slot: behind it is what was asked, and in its padding nothing.
    let mut slot = [0; REQUEST_SIZE];
    wires.ring.read(RING.slot(0), &mut slot);
    let padding = [slot[9], slot[12], slot[13], slot[14], slot[15]];
    if padding != [0; 5] || slot[16..] != raw[16..] {
        return Ok(format!("the slot holds {slot:02x?}"));
    }
    let mut tail = [0; PAGE_SIZE as usize / 2];
    wires.data.read(PAGE_SIZE as usize / 2, &mut tail);
    match tail.iter().all(|&byte| byte == POISON) {
        true => Ok(String::from("clean")),
        false => Ok("bytes beyond what was asked for were written".into()),
    }
}
