//! One of a pair of domains that use each other's pages and events as fast as they can, while they are paused, restarted and
//! destroyed.
//!
//! Each grants the other a few pages of a pattern that names their owner; a page with two owners, or with a wrong word, is
//! memory that changed hands while it was mapped. Each also counts pings in its first page and sends an event for each; the
//! other answers in the same way. An event that is lost stops this game for good, and the actor panics.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use core::time::Duration;

use alloc::vec::Vec;
use protocol::error::Error;
use protocol::event::Port;
use protocol::grant::{PEER_FIRST_FREE, REF_FIRST_FREE};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;
use test_images::number;
use test_images::random::Random;
use unikernel::event::Channel;
use unikernel::executor::{spawn, yield_now};
use unikernel::grant::{Access, Copies, Granted, Mapped, Source, map, map_batch, unmap_batch};
use unikernel::pages::Page;
use unikernel::{Domain, memory, time};

/// Pages granted to the partner.
const PAGES: u32 = 4;
/// Words of a page.
const WORDS: u32 = PAGE_SIZE as u32 / 4;
/// Word of the first page: pings this side has sent.
const SENT: usize = 0;
/// Word of the first page: the last ping of the other side that this one has seen.
const SEEN: usize = 4;
/// Words before the pattern.
const PATTERN_START: u32 = 2;
/// Bits of a word of the pattern that hold its index; the others hold the owner's tag.
const INDEX_BITS: u32 = 10;
/// How often the partner is looked at without an event: it may have been restarted.
const LOOK: Duration = Duration::from_millis(100);
/// An event that has not come after this long is lost, however busy the machine is.
const LOST: Duration = Duration::from_secs(30);
/// Pages that the heap's task leaves to the others.
const SPARE_PAGES: u64 = 32;
/// Most heap taken at once, in pages.
const BALLOON: u64 = 128;

unikernel::main!(start);

async fn start(domain: Domain) {
    let tag = number(&domain, "tag", 1) as u32;
    let channel = Channel::new(Port(number(&domain, "port", 0) as u32));
    let own: Vec<Granted> = (0..PAGES).map(|_| grant(tag)).collect();
    for (index, page) in own.iter().enumerate() {
        assert_eq!(page.reference(), REF_FIRST_FREE + index as u32, "grants are numbered in order");
    }
    spawn(use_pages(Random::new(tag.into())));
    spawn(use_heap(Random::new(u64::from(tag) + 1)));
    play(&own[0], &channel).await;
}

/// A granted page of the pattern.
fn grant(tag: u32) -> Granted {
    let page = Page::new().expect("a page");
    (PATTERN_START..WORDS).for_each(|index| page.area().store_u32(index as usize * 4, tag << INDEX_BITS | index));
    Granted::new(page, PEER_FIRST_FREE, Access::Write).expect("a grant")
}

/// The tag of the page's owner, 0 if the page is empty: its owner was just taken apart. Anything else is a breach.
fn owner(words: impl Fn(u32) -> u32) -> u32 {
    let first = words(PATTERN_START);
    let tag = first >> INDEX_BITS;
    for index in PATTERN_START..WORDS {
        let word = words(index);
        let expected = if tag == 0 { 0 } else { tag << INDEX_BITS | index };
        // A page that is wiped while it is read may be partly empty.
        assert!(word == expected || word == 0 || first == 0, "word {index} is {word:#x} in a page of {tag:#x}");
    }
    tag
}

fn tag_of(page: &Mapped) -> u32 {
    owner(|index| page.load_u32(index as usize * 4))
}

fn source(index: u32) -> Source {
    Source { peer: PEER_FIRST_FREE, reference: REF_FIRST_FREE + index }
}

/// Errors that a partner who comes and goes, and a shrinking allotment, explain.
fn tolerate<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::NoPeer | Error::BadGrant | Error::NoMemory | Error::TableFull) => None,
        Err(error) => panic!("the core says {error:?}"),
    }
}

/// The game of pings.
async fn play(own: &Granted, channel: &Channel) {
    let own = own.area();
    let (mut sent, mut seen, mut partner) = (0, 0, 0);
    let mut progress = time::now();
    let tell = |offset: usize, value: u32| {
        own.store_u32(offset, value);
        tolerate(channel.send());
    };
    tell(SENT, sent);
    loop {
        let woken = time::before(time::after(LOOK), channel.wait()).await.is_some();
        let Some(page) = tolerate(map(source(0), Access::Read)) else {
            progress = time::now();
            continue;
        };
        let tag = page.load_u32(PATTERN_START as usize * 4) >> INDEX_BITS;
        let (theirs, answered) = (page.load_u32(SENT), page.load_u32(SEEN));
        drop(page);
        if tag != partner {
            // Another life of the partner: it may have missed what was sent to the one before.
            (partner, seen, progress) = (tag, 0, time::now());
            tell(SENT, sent);
        }
        // Only what an event has announced is looked at, so that a lost one is noticed.
        if woken && theirs != seen {
            seen = theirs;
            tell(SEEN, seen);
        }
        if woken && answered == sent {
            sent = sent.wrapping_add(1);
            tell(SENT, sent);
            progress = time::now();
        }
        assert!(
            time::now() - progress < LOST.as_nanos() as u64 || tag == 0,
            "an event was lost: sent {sent}, answered {answered}; theirs {theirs}, seen {seen}"
        );
    }
}

/// Maps, writes, copies and unmaps the partner's pages.
async fn use_pages(mut random: Random) {
    let mut buffer = alloc::vec![0; PAGE_SIZE as usize];
    loop {
        let sources: Vec<Source> = (0..PAGES).map(source).collect();
        if let Some(results) = tolerate(map_batch(&sources, Access::Write)) {
            let pages: Vec<Mapped> = results.into_iter().filter_map(tolerate).collect();
            pages.iter().for_each(|page| {
                tag_of(page);
            });
            unmap_batch(pages);
        }
        let mut copies = Copies::new();
        let last = source(PAGES - 1);
        if copies.read(last, 0, &mut buffer).is_ok() && tolerate(copies.run()).is_some() {
            let word = |index: u32| {
                let at = index as usize * 4;
                u32::from_le_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]])
            };
            owner(word);
        }
        // Not all the time: the machine shall be busy, but not so busy that little else happens.
        if random.once_in(4) {
            yield_now().await;
        } else {
            time::sleep(Duration::from_micros(random.below(10_000))).await;
        }
    }
}

/// Takes memory and gives it back.
async fn use_heap(mut random: Random) {
    loop {
        let free = memory::info().map_or(0, |info| info.memory_pages.saturating_sub(info.used_pages + SPARE_PAGES));
        let length = (random.below(BALLOON.min(free)) * PAGE_SIZE) as usize;
        let mut memory: Vec<u8> = Vec::new();
        if memory.try_reserve_exact(length).is_ok() {
            memory.resize(length, 0x5a);
            assert!(memory.iter().all(|byte| *byte == 0x5a), "the heap does not keep what is written");
        }
        drop(memory);
        memory::trim_heap();
        time::sleep(Duration::from_micros(random.below(10_000))).await;
    }
}
